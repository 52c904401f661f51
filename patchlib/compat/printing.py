"""The seed's result objects, one per hook point and pair or per head, and how they are ranked and printed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_count, check_heads, check_kind, check_text, head_name, listed
from patchlib.errors import SweepError
from patchlib.models.check import check_model
from patchlib.patching.sites import site_of
from patchlib.tasks.ioi import classify_ioi_head

MOST = 10_000
"""Layers or heads; no model has as many."""
NUMBERS = "{:>8.3f}{:>9.3f}{:>11.3f}{:>9.3f}"
HEADER = "  effect    clean  corrupted  patched"


@dataclass
class PatchingResult:
    """One hook point, one pair. ``patching_effect`` is that pair's own ratio.

    It is NaN where the pair, or the whole of the pairs that it was run with, has no contrast.

    Example:
        >>> patchlib.PatchingResult("blocks.5.hook_mlp_out", 3.0, -1.0, 1.0, 0.5).patching_effect
        0.5
    """

    hook_point: str
    clean_logit_diff: float
    corrupted_logit_diff: float
    patched_logit_diff: float
    patching_effect: float


@dataclass
class HeadPatchingResult:
    """One head, averaged over pairs. ``patching_effect`` is the ratio of means (``patchlib.stats.effect``).

    Example:
        >>> patchlib.HeadPatchingResult(9, 6, 0.5, 3.0, -1.0, 1.0).hook_name
        'L9H6'
    """

    layer: int
    head: int
    patching_effect: float
    clean_metric: float
    corrupted_metric: float
    patched_metric: float

    @property
    def hook_name(self) -> str:
        """Short name of the head, "L9H6"."""
        return head_name(self.layer, self.head)


R = TypeVar("R", PatchingResult, HeadPatchingResult)


def check_results(results: Iterable[R], kind: type[R]) -> list[R]:
    """The results as a list; SweepError for anything else."""
    makers = {
        PatchingResult: "ActivationPatcher.run_patching_experiment",
        HeadPatchingResult: "HeadPatcher.run_all_heads_experiment",
    }
    mend = f"give what {makers[kind]} returned"
    return [check_kind("A result", result, kind, mend) for result in listed(results)]


def check_by_hook_point(results: Mapping[str, Sequence[PatchingResult]]) -> dict[str, list[PatchingResult]]:
    """Hook point -> results, one or more; SweepError for anything else."""
    check_kind("The results", results, Mapping, "give what ActivationPatcher.run_patching_experiment returned")
    by_hook_point = {check_text("A hook point", name): check_results(results[name], PatchingResult) for name in results}
    if empty := [name for name, per_pair in by_hook_point.items() if not per_pair]:
        raise SweepError(f"{empty[0]!r} has no results: give what ActivationPatcher.run_patching_experiment returned.")
    return by_hook_point


def check_size(n_layers: int, n_heads: int) -> tuple[int, int]:
    """How many layers, and heads in each; SweepError for what can be no size of a model."""
    return check_count("n_layers", n_layers, most=MOST), check_count("n_heads", n_heads, most=MOST)


def ratio(clean: float, corrupted: float, patched: float) -> float:
    """One pair's effect; NaN within float noise of no contrast, as in ``stats.contrast``."""
    gap = clean - corrupted
    noise = 1e-4 * max(abs(clean), abs(corrupted))
    return (patched - corrupted) / gap if abs(gap) > noise else float("nan")


def ranked(results: Sequence[HeadPatchingResult]) -> list[HeadPatchingResult]:
    """Largest absolute effect first, without those that are NaN."""
    measured = [result for result in check_results(results, HeadPatchingResult) if not np.isnan(result.patching_effect)]
    return sorted(measured, key=lambda result: -abs(result.patching_effect))


def mean_of(results: Sequence[object], field: str) -> float:
    """The mean of one number of each result."""
    return float(np.mean([getattr(result, field) for result in results]))


def pooled(per_pair: Sequence[PatchingResult]) -> tuple[float, float, float, float]:
    """(effect, clean, corrupted, patched) of one hook point: means over pairs, and their ratio.

    The effect is NaN where no pair has one: there was no contrast.
    """
    clean, corrupted, patched = (mean_of(per_pair, f"{kind}_logit_diff") for kind in ("clean", "corrupted", "patched"))
    has_contrast = any(not np.isnan(result.patching_effect) for result in per_pair)
    return ratio(clean, corrupted, patched) if has_contrast else float("nan"), clean, corrupted, patched


def grid_of(results: Sequence[HeadPatchingResult], n_layers: int, n_heads: int) -> Float[Tensor, "layer head"]:
    """Effects as a grid, NaN for heads without a result; SweepError for one of a head that is not in it."""
    grid = torch.full(check_size(n_layers, n_heads), torch.nan)
    results = check_results(results, HeadPatchingResult)
    heads = [(result.layer, result.head) for result in results]
    for (layer, head), result in zip(check_heads(heads, n_layers, n_heads) if heads else [], results, strict=True):
        grid[layer, head] = result.patching_effect
    return grid


def summarize_results(results: Mapping[str, Sequence[PatchingResult]], top_k: int = 10) -> None:
    """Print hook points by absolute effect: the ratio of means over pairs, as in ``patchlib.stats.effect``.

    Args:
        results: From ``ActivationPatcher.run_patching_experiment``.
        top_k: How many hook points.

    Raises:
        SweepError: top_k below 1.

    Example:
        >>> pairs = [patchlib.PatchingResult("blocks.5.hook_mlp_out", 3.0, -1.0, 1.0, 0.5)]
        >>> patchlib.summarize_results({"blocks.5.hook_mlp_out": pairs})
        TOP 10 of 1 hook points by absolute effect, means over 1 pairs
        hook point                    effect    clean  corrupted  patched
        blocks.5.hook_mlp_out          0.500    3.000     -1.000    1.000
    """
    results = check_by_hook_point(results)
    rows = [(name, *pooled(per_pair)) for name, per_pair in results.items()]
    rows.sort(key=lambda row: -abs(np.nan_to_num(row[1])))
    n = max(map(len, results.values()), default=0)
    print(f"TOP {check_count('top_k', top_k)} of {len(rows)} hook points by absolute effect, means over {n} pairs")
    print(f"{'hook point':<28}{HEADER}")
    for name, *numbers in rows[:top_k]:
        print(f"{name:<28}{NUMBERS.format(*numbers)}")


def create_patching_heatmap(
    results: Mapping[str, Sequence[PatchingResult]], model: TransformerBridge
) -> Float[Tensor, "layer 2"]:
    """Effect of each layer's attention output (column 0) and MLP output (column 1).

    Args:
        results: From ``ActivationPatcher.run_patching_experiment``.
        model: That of the results.

    Returns:
        [layer 2], ratios of means over pairs; NaN where there is no result.

    Raises:
        SweepError: These are no results, or this is no model.

    Example:
        >>> pairs = [patchlib.PatchingResult("blocks.5.hook_mlp_out", 3.0, -1.0, 1.0, 0.5)]
        >>> patchlib.create_patching_heatmap({"blocks.5.hook_mlp_out": pairs}, model)[5]
        tensor([   nan, 0.5000])
    """
    check_model(model)
    heatmap = torch.full((int(model.cfg.n_layers), 2), torch.nan)
    columns = {"attn_out": 0, "mlp_out": 1}
    for name, per_pair in check_by_hook_point(results).items():
        match site_of(name):
            case site, layer if site.name in columns and layer < len(heatmap):
                heatmap[layer, columns[site.name]] = pooled(per_pair)[0]
    return heatmap


def print_head_results(results: Sequence[HeadPatchingResult], top_k: int = 20) -> None:
    """Print heads by absolute effect, with the type that GPT-2 small's head of that number has in Wang et al. 2022.

    Args:
        results: From ``HeadPatcher.run_all_heads_experiment``.
        top_k: How many heads.

    Raises:
        SweepError: top_k below 1.

    Example:
        >>> patchlib.print_head_results([patchlib.HeadPatchingResult(9, 6, 0.5, 3.0, -1.0, 1.0)])
        head      effect    clean  corrupted  patched   type in GPT-2 small
        L9H6       0.500    3.000     -1.000    1.000   Name Mover
    """
    measured, top_k = ranked(results), check_count("top_k", top_k)
    print(f"{'head':<8}{HEADER}   type in GPT-2 small")
    if not measured:
        print("No head has an effect: the contrast is not usable.")
    for r in measured[:top_k]:
        numbers = NUMBERS.format(r.patching_effect, r.clean_metric, r.corrupted_metric, r.patched_metric)
        print(f"{r.hook_name:<8}{numbers}   {classify_ioi_head(r.layer, r.head)}")


def print_heatmap_ascii(heatmap: Float[Tensor, "layer head"], n_layers: int, n_heads: int) -> None:
    """Print a grid of effects, one row a layer, two decimals.

    Args:
        heatmap: From ``HeadPatcher.results_to_heatmap``.
        n_layers: How many of its rows.
        n_heads: How many of its columns.

    Raises:
        SweepError: The heatmap has fewer layers or heads.

    Example:
        >>> import torch
        >>> patchlib.print_heatmap_ascii(torch.tensor([[0.2, -0.6], [0.0, 0.1]]), n_layers=2, n_heads=2)
                   H0     H1
        L0       0.20  -0.60
        L1       0.00   0.10
    """
    check_size(n_layers, n_heads)
    mend = "give a grid [layer head] of numbers"
    check_kind("The heatmap", heatmap, Tensor | np.ndarray, mend)
    # Torch has more kinds of real numbers than NumPy, and NumPy arrays of what torch takes for no numbers at all.
    is_real = heatmap.dtype.kind in "fiub" if isinstance(heatmap, np.ndarray) else not heatmap.is_complex()
    if not is_real:
        raise SweepError(f"The heatmap is one of {heatmap.dtype}: {mend}.")
    if heatmap.ndim != 2 or heatmap.shape[0] < n_layers or heatmap.shape[1] < n_heads:
        raise SweepError(f"A heatmap of {list(heatmap.shape)} lacks some of {n_layers} layers of {n_heads} heads.")
    print("      " + "".join(f"{f'H{head}':>7}" for head in range(n_heads)))
    for layer in range(n_layers):
        print(f"L{layer:<5}" + "".join(f"{float(heatmap[layer, head]):>7.2f}" for head in range(n_heads)))
