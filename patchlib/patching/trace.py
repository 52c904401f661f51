"""A causal trace: some tokens' embeddings are noised, and clean states are put back, one cell at a time."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from patchlib import stats
from patchlib._util import check_choice, check_count, check_number, check_seed
from patchlib.errors import SweepError
from patchlib.patching.experiment import Engine, Experiment, resolve_how, warn_of_contrast
from patchlib.patching.grid import Grid, resolve_grid
from patchlib.patching.metrics import resolve_metrics
from patchlib.patching.noise import Noise, embedding_sd, resolve_span
from patchlib.patching.own_metrics import MetricFunction
from patchlib.patching.sequences import Sequences, log_prob
from patchlib.patching.severed import SEVERED, WindowGrid
from patchlib.patching.sites import check_patchable, get_site
from patchlib.tasks.base import PatchingDataset, as_pairs
from patchlib.tasks.pairs import PromptPairs

MOST_DRAWS = 1000
"""Of each prompt. The mean over them has a thirtieth of one draw's spread; prompts, which have their own, need more."""


def causal_trace(
    model: TransformerBridge,
    task: PatchingDataset | PromptPairs,
    span: Sequence[int | str] | Sequence[Sequence[int]] | int | str,
    site: str = "resid_pre",
    over: Sequence[str] = ("layer", "pos"),
    metric: str | MetricFunction | Sequence[str | MetricFunction] | None = None,
    *,
    noise: float = 3.0,
    draws: int = 10,
    seed: int = 0,
    window: int = 1,
    severed: Literal["mlp", "attn"] | None = None,
    layers: Sequence[int] | int | None = None,
    heads: Sequence[int] | int | None = None,
    positions: Sequence[int | str] | int | str | None = None,
    engine: Engine = "auto",
    batch_tokens: int | None = None,
    checkpoint: str | Path | None = None,
    progress: bool | Callable[[int, int], None] = True,
    executor: Executor | None = None,
) -> xr.Dataset:
    """Noise a span's embeddings in the clean prompts and restore clean states, one cell at a time (Meng et al. 2022).

    "Locating and editing factual associations in GPT", section 2: the clean run; the run with noise on the subject's
    embeddings, which does no longer give the answer; and that run with the clean state put back in some layers at some
    position. The task's corrupted prompts are not used. Which states come out depends on the corruption: noise takes a
    model off the inputs it was trained on, and finds other states than the tokens of another prompt do, which change
    one thing alone. Zhang and Nanda 2024, "Towards best practices of activation patching", section 3, prefer the
    latter; ``plots.corruptions`` puts both beside each other.

    Args:
        model: As for ``sweep``.
        task: Its clean prompts and right answers are used.
        span: The tokens whose embeddings are noised: roles, spans and token indices that all prompts have, or a list of
            token indices for each prompt (``span_tokens``).
        site: What is restored: in the paper ``"resid_pre"`` (their states are ``resid_post``, one layer lower),
            ``"mlp_out"`` and ``"attn_out"``.
        over: As for ``sweep``.
        metric: As for ``sweep``; in the paper ``"prob"``. A function gets several draws of a prompt at a time.
        noise: Standard deviation of the noise, as a multiple of that of all numbers in the embeddings of the span's
            tokens over the prompts, as in the paper (3). With 0 the noised run is the clean one.
        draws: How often each prompt is noised, each time anew; all results are means over draws.
        seed: Of the noise. Each prompt has its own, in each draw the same for all cells.
        window: How many layers are restored together, from ``layer - window // 2`` on; at both ends of the model the
            window is cut off there, so that it has fewer. The paper takes 1 for states and 10 for MLPs and attention.
        severed: ``"mlp"`` or ``"attn"``: what these sublayers give at a restored position is held at the noised run's
            values in all layers, so that the restored state goes on without them (figure 3 there).
        layers, heads, positions: As for ``sweep``. A window reaches beyond the layers that are swept.
        engine, batch_tokens, checkpoint, progress, executor: As for ``sweep``.

    Returns:
        As ``sweep`` with ``direction="denoise"``: ``clean``, ``corrupted`` (the noised run), ``patched`` and
        ``effect``. The attributes say how the noise was made; ``noise_sd`` is its standard deviation in the
        embedding's own units.

    Raises:
        SweepError: As ``sweep``; noise below 0, a window wider than the model, a span that a prompt does not have,
            severed sublayers that would be restored themselves.
        TaskError, ExactnessError: As ``sweep``.

    Warns:
        ContrastWarning: The noise does not change the answer, or nothing can be divided by it; effects are NaN.
        EngineWarning: As ``sweep``.

    Example:
        With the second subject's embedding noised, which windows of ten MLPs there bring the answer back?

        >>> how = {"over": ("layer",), "positions": "S2", "layers": [5, 15, 25], "draws": 2, "progress": False}
        >>> traced = patchlib.causal_trace(model, task, "S2", "mlp_out", window=10, **how)
        >>> traced.patched.dims, traced.attrs["span"], traced.attrs["window"]
        (('metric', 'layer', 'example'), 'S2', 10)

        With all states of layer 0 restored there is no noise left:

        >>> traced = patchlib.causal_trace(model, task, "S2", over="layer", layers=[0], draws=2, progress=False)
        >>> traced.effect.values.round(3)
        array([[1.]], dtype=float32)
    """
    pairs = as_pairs(model, task)
    noise, draws = check_number("noise", noise, 0), check_count("draws", draws, most=MOST_DRAWS)
    spans, about = resolve_span(span, pairs)
    check_patchable(model, get_site(model, "embed"))
    sd, d_model = embedding_sd(model, spans, pairs), int(model.cfg.d_model)
    donors = Noise(
        "denoise", seed=check_seed(seed), spans=spans, scale=noise * sd, multiple=noise, draws=draws, d_model=d_model,
        about=about,
    )  # fmt: skip
    repeated = pairs.select([i for i in range(len(pairs)) for _ in range(draws)])
    if sequences := Sequences.of(repeated, metric):
        positions, repeated, metric = sequences.positions(over, positions), sequences.forced(), log_prob
    grid = _windowed(model, resolve_grid(model, repeated, site, over, layers, heads, None, positions), window, severed)
    metrics = resolve_metrics(metric, repeated)
    how = resolve_how(model, repeated, engine, batch_tokens, checkpoint, progress, executor)
    drawn = Experiment(model, repeated, grid, donors, metrics, how).patched()
    result = _mean_over_draws(drawn if sequences is None else sequences.folded(drawn, model), draws)
    warn_of_contrast(result)
    return result.assign(effect=stats.effect(result))


def _windowed(model: TransformerBridge, grid: Grid, window: int, severed: str | None) -> WindowGrid:
    """The grid with its windows; SweepError for a window or a severed sublayer that makes no sense."""
    n_layers, site = int(model.cfg.n_layers), grid.site
    if check_count("window", window) > n_layers:
        raise SweepError(f"window={window} is wider than the model, which has {n_layers} layers: take fewer.")
    if window > 1 and "layer" not in grid.values:
        raise SweepError(f"window={window} is of layers around each layer: add 'layer' to over, or leave it out.")
    if severed is not None:
        held = SEVERED[check_choice("severed", severed, SEVERED)]
        if site.layout != held.layout or site.hook or site == held:
            raise SweepError(
                f"With severed={severed!r}, {site.name!r} cannot be restored: take the residual stream, or what the "
                "other sublayer gives."
            )
        check_patchable(model, get_site(model, held.name, grid.layers))
    there = site.layers(model)
    windows = {
        layer: tuple(other for other in there if 0 <= other - (layer - window // 2) < window) for layer in grid.layers
    }
    return WindowGrid(
        site, grid.values, sorted({*grid.layers, *(i for of_layer in windows.values() for i in of_layer)}), grid.fixed,
        window=int(window), windows=windows, severed=severed,
    )  # fmt: skip


def _mean_over_draws(drawn: xr.Dataset, draws: int) -> xr.Dataset:
    """One example for each prompt, with the mean of what was measured in its draws, which follow one another."""
    n = drawn.sizes["example"] // draws
    first = drawn.isel(example=slice(None, None, draws))
    means = {}
    for name in ("patched", "clean", "corrupted"):
        values = drawn[name].transpose(..., "example").values
        means[name] = (
            first[name].transpose(..., "example").copy(data=values.reshape(*values.shape[:-1], n, draws).mean(-1))
        )
    return first.assign(means).assign_coords(example=np.arange(n)).assign_attrs(n_examples=n)
