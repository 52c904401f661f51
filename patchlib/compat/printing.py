"""The seed's result objects, one per hook point and pair or per head, and how they are ranked and printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib.patching.sites import site_of
from patchlib.tasks.ioi import classify_ioi_head


@dataclass
class PatchingResult:
    """One hook point, one pair. ``patching_effect`` is that pair's own ratio.

    It is NaN where the pair, or the whole of the pairs that it was run with, has no contrast.
    """

    hook_point: str
    clean_logit_diff: float
    corrupted_logit_diff: float
    patched_logit_diff: float
    patching_effect: float


@dataclass
class HeadPatchingResult:
    """One head, averaged over pairs. ``patching_effect`` is the ratio of means (``patchlib.stats.effect``)."""

    layer: int
    head: int
    patching_effect: float
    clean_metric: float
    corrupted_metric: float
    patched_metric: float

    @property
    def hook_name(self) -> str:
        """Short name of the head, "L9H6"."""
        return f"L{self.layer}H{self.head}"


def ratio(clean: float, corrupted: float, patched: float) -> float:
    """One pair's effect; NaN within float noise of no contrast, as in ``stats.contrast``."""
    gap = float(clean) - float(corrupted)
    noise = 1e-4 * max(abs(float(clean)), abs(float(corrupted)))
    return (float(patched) - float(corrupted)) / gap if abs(gap) > noise else float("nan")


def ranked(results: Sequence[HeadPatchingResult]) -> list[HeadPatchingResult]:
    """Largest absolute effect first, without those that are NaN."""
    known = [result for result in results if not np.isnan(result.patching_effect)]
    return sorted(known, key=lambda result: -abs(result.patching_effect))


def pooled(per_pair: Sequence[PatchingResult]) -> tuple[float, float, float, float]:
    """(effect, clean, corrupted, patched) of one hook point: means over pairs, and their ratio.

    The effect is NaN where no pair has one: there was no contrast.
    """
    clean, corrupted, patched = (
        float(np.mean([getattr(result, f"{run}_logit_diff") for result in per_pair]))
        for run in ("clean", "corrupted", "patched")
    )
    known = any(not np.isnan(result.patching_effect) for result in per_pair)
    return ratio(clean, corrupted, patched) if known else float("nan"), clean, corrupted, patched


def summarize_results(results: dict[str, list[PatchingResult]], top_k: int = 10) -> None:
    """Print hook points by absolute effect: the ratio of means over pairs, as in ``patchlib.stats.effect``."""
    rows = [(name, *pooled(per_pair)) for name, per_pair in results.items()]
    rows.sort(key=lambda row: -abs(np.nan_to_num(row[1])))
    n = max(map(len, results.values()), default=0)
    print(f"{'hook point':<28}{'effect':>8}{'clean':>9}{'corrupted':>11}{'patched':>9}   (n = {n} pairs)")
    for name, effect, clean, corrupted, patched in rows[:top_k]:
        print(f"{name:<28}{effect:>8.3f}{clean:>9.3f}{corrupted:>11.3f}{patched:>9.3f}")


def create_patching_heatmap(
    results: dict[str, list[PatchingResult]], model: TransformerBridge
) -> Float[Tensor, "layer 2"]:
    """Effect (ratio of means) of each layer's attention output (column 0) and MLP output (column 1), else NaN."""
    heatmap = torch.full((int(model.cfg.n_layers), 2), torch.nan)
    for name, per_pair in results.items():
        found = site_of(name)
        if found and found[0].name in ("attn_out", "mlp_out"):
            heatmap[found[1], 0 if found[0].name == "attn_out" else 1] = pooled(per_pair)[0]
    return heatmap


def print_head_results(results: Sequence[HeadPatchingResult], top_k: int = 20) -> None:
    """Print heads by absolute effect, with the role that GPT-2 small's head of that number has in Wang et al. 2022."""
    print(f"{'head':<8}{'effect':>8}{'clean':>9}{'corrupted':>11}{'patched':>9}   role in GPT-2 small")
    known = ranked(results)
    if not known:
        print("No head has an effect: clean and corrupted runs hardly differ.")
    for r in known[:top_k]:
        numbers = f"{r.patching_effect:>8.3f}{r.clean_metric:>9.3f}{r.corrupted_metric:>11.3f}{r.patched_metric:>9.3f}"
        print(f"{r.hook_name:<8}{numbers}   {classify_ioi_head(r.layer, r.head)}")


def print_heatmap_ascii(heatmap: Float[Tensor, "layer head"], n_layers: int, n_heads: int) -> None:
    """Print a grid of effects, one row a layer, two decimals."""
    print("      " + "".join(f"{f'H{head}':>7}" for head in range(n_heads)))
    for layer in range(n_layers):
        print(f"L{layer:<5}" + "".join(f"{float(heatmap[layer, head]):>7.2f}" for head in range(n_heads)))
