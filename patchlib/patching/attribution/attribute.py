"""Every cell of a sweep estimated at once, from gradients: attribution patching."""

import itertools
from collections.abc import Callable, Sequence
from typing import Literal

import pandas as pd
import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from patchlib import stats
from patchlib._util import check_choice, check_count, check_flag, listed, shown
from patchlib.errors import SweepError
from patchlib.patching.attribution.attention import FIXED
from patchlib.patching.attribution.checked import largest_and_random, with_exact
from patchlib.patching.attribution.estimate import estimates, with_small_gap
from patchlib.patching.attribution.scored import METHODS, RULES, WAYS, Estimate
from patchlib.patching.donors import resolve_donors
from patchlib.patching.experiment import Experiment, resolve_how, warn_of_contrast
from patchlib.patching.grid import resolve_grid
from patchlib.patching.merge import merge
from patchlib.patching.metrics import resolve_metrics
from patchlib.patching.own_metrics import MetricFunction
from patchlib.tasks.base import PatchingDataset, as_pairs
from patchlib.tasks.pairs import PromptPairs


def attribute(
    model: TransformerBridge,
    task: PatchingDataset | PromptPairs,
    site: str | Sequence[str] = "resid_pre",
    over: Sequence[str] = ("layer", "pos"),
    direction: Literal["denoise", "noise"] = "denoise",
    metric: str | MetricFunction | Sequence[str | MetricFunction] | None = None,
    *,
    method: Literal["gradient", "integrated"] = "gradient",
    steps: int | Literal["auto"] = 5,
    along: Literal["inputs", "activations"] = "inputs",
    rule: Literal["midpoint", "left"] = "midpoint",
    fix_attention: bool = False,
    drop_layers: bool = False,
    check_top: int = 0,
    layers: Sequence[int] | int | None = None,
    heads: Sequence[int] | int | None = None,
    neurons: Sequence[int] | int | None = None,
    positions: Sequence[int | str] | int | str | None = None,
    source: Literal["other", "zero", "mean", "resample"] = "other",
    reference: PatchingDataset | PromptPairs | None = None,
    source_seed: int = 0,
    batch_tokens: int | None = None,
    progress: bool | Callable[[int, int], None] = True,
) -> xr.Dataset:
    """Estimate every cell of a sweep from gradients (attribution patching), and patch some of them to judge it.

    A forward of each prompt and one backward give all cells of all sites. The estimate of a cell is the gradient of the
    metric at the base prompts' activation times the change that a patch would write in (Nanda 2023, "Attribution
    patching: activation patching at industrial scale"). It is one of first order: where what follows is far from
    linear, as behind the first layers' MLPs, in the residual stream or in a softmax that is sure of itself, it can miss
    all of an effect. ``check_top`` says by how much.

    Args:
        model: As for ``sweep``. Its weights need no gradient.
        task, direction: As for ``sweep``.
        site: As for ``sweep``; or several that have the axes of ``over``, of which the result has an axis ``site``.
        over: As for ``sweep``.
        metric: As for ``sweep``, but with a gradient: not ``"accuracy"``.
        method: ``"gradient"`` at the base prompts, or ``"integrated"``: the mean of the gradients on the way to what is
            written in (Sundararajan et al. 2017, "Axiomatic attribution for deep networks", section 3).
        steps: Of ``"integrated"``: how many gradients. ``"auto"``: as many (5, 10, ... 80) as leave a gap of at most a
            twentieth of what clean and corrupted are apart.
        along: Of ``"integrated"``: what goes the way, the ``"inputs"``, which are the tokens' embeddings, or the site's
            ``"activations"``, one layer at a time.
        rule: Of ``"integrated"``: the gradient is taken in the ``"midpoint"`` of each step, or at its ``"left"`` end,
            where one step is ``"gradient"``.
        fix_attention: Of ``"gradient"``, for the sites q and k: the model computes the patterns that patched queries or
            keys give, and only what follows is a gradient (AtP*, Kramar et al. 2024, section 3.2.1).
        drop_layers: Of ``"gradient"``: the mean size of scores whose gradients each pass by one layer, with the sign of
            the whole gradient, so that paths which cancel are seen (the same, section 3.2.2).
        check_top: Patch so many of the cells with the largest estimates, and as many drawn from the others, exactly.
        layers, heads, neurons, positions, source, reference, source_seed: As for ``sweep``.
        batch_tokens: As for ``sweep``; a forward with its graph takes a quarter.
        progress: As for ``sweep``.

    Returns:
        As ``sweep``: ``patched`` is the base prompts' metric plus the estimate, ``effect`` the estimated effect, and
        the attribute ``estimate`` says that it is one and how it was made. Integrated ones have a ``gap`` in the
        metric's units: what the scores of the whole way sum to, minus what the way moves the metric, over ``metric``
        and ``example`` (and ``layer``, along activations). With ``check_top`` also ``exact`` and ``exact_effect`` of
        the cells that were patched, NaN elsewhere, and over ``metric`` the ``correlation`` (Pearson) of the two effects
        over these cells, the ``largest_miss`` and ``largest_miss_at``, its cell.

    Raises:
        SweepError: As ``sweep``; a metric or a model without gradients; unknown settings, or some that do not go
            together.
        TaskError: The task's prompts or answers are unusable.

    Warns:
        ContrastWarning, EngineWarning: As ``sweep``.

    Example:
        All heads from one backward, of which the two largest, and two others, are patched:

        >>> result = patchlib.attribute(model, task, "z", ("layer", "head"), check_top=2, progress=False)
        >>> result.attrs["estimate"], result.effect.size, int(result.exact_effect.count())
        ('gradient at the base prompts', 270, 4)
        >>> bool(result.correlation.item() > 0.9)
        True

        TransformerLens' own ``attribution_patch`` takes gradients from the weights on, which ``load_model`` freezes:
        ``model.requires_grad_(True)`` before it, and ``False`` after it, lets it run.
    """
    pairs = as_pairs(model, task)
    how = _resolve_estimate(method, steps, along, rule, fix_attention, drop_layers)
    sites = listed(site)
    if not sites or len(set(map(shown, sites))) < len(sites):
        raise SweepError(f"site={shown(site)} must name at least one site, each once.")
    check_count("check_top", check_top, 0)
    grids = [resolve_grid(model, pairs, name, over, layers, heads, neurons, positions) for name in sites]
    donors = resolve_donors(model, pairs, direction, source, reference, source_seed)
    metrics = resolve_metrics(metric, pairs)
    _check_goes_together(how, sites, direction, source, list(metrics))
    running = resolve_how(model, pairs, "auto", batch_tokens, None, progress, None)
    experiments = [Experiment(model, pairs, grid, donors, metrics, running) for grid in grids]
    estimated = (with_small_gap if steps == "auto" else estimates)(experiments, how, progress)
    results = [result.assign(effect=stats.effect(result)) for result in estimated]
    warn_of_contrast(results[0])
    if check_top:
        results = [
            with_exact(result, experiment, itertools.chain(*largest_and_random(result, check_top)))
            for result, experiment in zip(results, experiments, strict=True)
        ]
    return results[0] if isinstance(site, str) else _of_sites(results)


def _resolve_estimate(
    method: str, steps: int | str, along: str, rule: str, fix_attention: bool, drop_layers: bool
) -> Estimate:
    check_choice("method", method, METHODS)
    check_choice("along", along, WAYS)
    check_choice("rule", rule, RULES)
    check_flag("fix_attention", fix_attention)
    check_flag("drop_layers", drop_layers)
    if method == "integrated" and (fix_attention or drop_layers):
        raise SweepError(
            "fix_attention and drop_layers belong to method='gradient': leave them out of an integrated one."
        )
    n_steps = 1 if steps == "auto" or method == "gradient" else check_count("steps", steps)
    return Estimate(method, n_steps, along, rule, fix_attention, drop_layers)


def _check_goes_together(how: Estimate, sites: list[str], direction: str, source: str, metrics: list[str]) -> None:
    """SweepError for what would give numbers that say nothing."""
    if how.method == "integrated" and how.along == "inputs" and source != "other":
        raise SweepError(
            f"The way of the inputs ends in the other prompt, not in source={source!r}: give along='activations'."
        )
    if how.method == "integrated" and how.along == "activations" and "head_v" in sites:
        raise SweepError(
            "A head's own values have no activation that could go a way: give along='inputs' for 'head_v'."
        )
    if how.fix_attention and not set(sites) <= set(FIXED):
        raise SweepError(f"fix_attention is for the sites {' and '.join(FIXED)}, whose patches go through a softmax.")
    if direction == "noise" and "kl" in metrics and how.shares == [0.0]:
        raise SweepError(
            "kl has its minimum at the clean prompts, where its gradient is 0: give method='integrated' with the "
            "midpoint rule, direction='denoise', or another metric."
        )


def _of_sites(results: list[xr.Dataset]) -> xr.Dataset:
    """Estimates of several sites along an axis of them."""
    if len(results) == 1:
        return results[0]
    index = pd.Index([result.attrs["site"] for result in results], name="site")
    merged = merge([result[["patched", "clean", "corrupted"]] for result in results])
    for name in ("gap", "exact", "exact_effect", "correlation", "largest_miss", "largest_miss_at"):
        if name in results[0]:
            merged[name] = xr.concat([result[name] for result in results], index).transpose("metric", "site", ...)
    return merged
