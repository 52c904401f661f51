"""Every cell's effect with its interval and p-value, and the table of the top ones."""

import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import false_discovery_control

from patchlib._util import cell_dims, check_count, check_fraction, check_seed
from patchlib.stats.effects import effect
from patchlib.stats.intervals import cluster_members, ratio_intervals
from patchlib.stats.results import check_result, clusters_of, moved_and_possible, one_metric


def effect_interval(result: xr.Dataset, metric: str | None = None, confidence: float = 0.95) -> xr.Dataset:
    """Interval of ``effect`` for other prompts of this kind, as ``ratio_interval`` has it.

    It is Fieller's interval of a ratio of means, by wording where prompts share one (the coordinate ``cluster``, from
    ``PromptPairs.clusters``), and longer toward the longer tail of skewed effects.

    Args:
        result: From ``sweep`` or ``path_patch``.
        metric: Which metric; the result's first when None.
        confidence: Coverage aimed at.

    Returns:
        Variables ``low`` and ``high`` over the swept axes; NaN with a single prompt (or a single one that has
        the position), where the effect is NaN, and where the contrast of those prompts that have the position cannot be
        told from 0 at this confidence, so that the effect could be anything.

    Raises:
        SweepError: The result does not have that metric, or ``confidence`` is no fraction.

    Example:
        >>> result = patchlib.sweep(model, task, "z", ("layer", "head"), layers=[20], heads=[0], progress=False)
        >>> interval = patchlib.effect_interval(result)
        >>> bool(interval.low.item() < result.effect.item() < interval.high.item())
        True
        >>> bool(interval.low.item() > 0)  # a head whose effect is not one of chance
        True
    """
    check_fraction("confidence", confidence)
    result = one_metric(check_result(result, "patched"), metric)
    dims, clusters = cell_dims(result), clusters_of(result)
    moved, possible = (part.isel(metric=0) for part in moved_and_possible(result))
    moved = moved.transpose(*dims, "example")
    possible = possible.broadcast_like(moved).transpose(*dims, "example")
    point = effect(result).isel(metric=0, drop=True).transpose(*dims)
    low, high = (xr.full_like(point, np.nan) for _ in range(2))
    has_effect = point.notnull().values  # [*axes]
    has_position = moved.notnull().values  # [*axes example]
    # Cells that the same prompts have go together.
    for prompts in np.unique(has_position[has_effect], axis=0):
        cells = has_effect & (has_position == prompts).all(-1)
        above, below = (
            part.values[cells][:, prompts].astype("float64") for part in (moved, possible)
        )  # [cell example]
        labels = None if clusters is None else clusters[prompts]
        low.values[cells], high.values[cells] = ratio_intervals(above, below, confidence, labels)
    return xr.Dataset({"low": low, "high": high}, attrs={"confidence": confidence})


def p_values(result: xr.Dataset, metric: str | None = None, seed: int = 0) -> xr.DataArray:
    """Two-sided sign-flip permutation p-value that a patch moves the metric by 0 on average, for every cell.

    Prompts of one wording are flipped together. Not corrected for the number of cells: ``summary_table`` is. Prompts
    that mirror one another are not independent, and the test does not know that. The test is Fisher's (1935, "The
    design of experiments", section 21), as TransformerLens computes it.

    A large value, .23 or .85, says that these prompts cannot tell, not that the effect is 0: its interval says how
    large it may be, and more prompts make that shorter. A small value says that it is not 0, not that it matters: the
    effect says that, and .001 of the contrast matters to nobody, however sure.

    Args:
        result: From ``sweep`` or ``path_patch``.
        metric: Which metric; the result's first when None.
        seed: Of the sign flips, where prompts are too many to try all of them.

    Returns:
        A probability over the swept axes; NaN where some prompt lacks the position.

    Raises:
        SweepError: The result does not have that metric.

    Example:
        Four prompts that all move the same way: of the 16 ways to flip their signs 2 give as large a mean.

        >>> result = patchlib.sweep(model, task, "z", ("layer", "head"), layers=[20], heads=[0], progress=False)
        >>> patchlib.stats.p_values(result).values
        array([[0.125]])
    """
    # Here, and not at the head, because they bring torch, which nothing else of this module needs.
    import torch
    from transformer_lens.utilities.statistics import derive_generator, sign_flip_permutation_pvalue

    seed, result = check_seed(seed), one_metric(check_result(result, "patched"), metric)
    moved = moved_and_possible(result)[0].isel(metric=0).transpose(*cell_dims(result), "example")
    n = result.sizes["example"]
    members = cluster_members(clusters_of(result), n)
    flat = torch.from_numpy(moved.values.reshape(-1, n).astype("float64") @ members)  # [cell cluster]
    of_cells = [
        sign_flip_permutation_pvalue(part, generator=derive_generator(seed, "sign-flip"))
        for part in torch.split(flat, 256)  # the exact test takes 4096 x clusters numbers a cell
    ]
    values = torch.cat(of_cells).where(~flat.isnan().any(-1), torch.nan)  # [cell]
    return moved.isel(example=0, drop=True).copy(data=values.numpy().reshape(moved.shape[:-1]))


def summary_table(
    result: xr.Dataset, top_k: int | None = 10, metric: str | None = None, confidence: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """The cells whose effects are largest in size, whatever their sign.

    Args:
        result: From ``sweep`` or ``path_patch``.
        top_k: How many rows; None for all.
        metric: Which metric; the result's first when None.
        confidence: Of the interval.
        seed: Of the sign flips.

    Returns:
        Columns: the swept axes (``head`` is called ``head_index``, as ``head`` is a method of a DataFrame),
        ``effect``, ``ci_low``, ``ci_high`` (fractions, ``effect_interval``), ``n`` (prompts), ``p_value`` (sign-flip)
        and ``p_adjusted`` (Benjamini and Hochberg 1995, over all cells of the sweep), sorted by absolute effect.

    Raises:
        SweepError: The result does not have that metric, top_k is below 1, or ``confidence`` is no fraction.

    Example:
        >>> result = patchlib.sweep(model, task, "z", ("layer", "head"), layers=[20], progress=False)
        >>> table = patchlib.summary_table(result, top_k=2)
        >>> table[["layer", "head_index", "effect", "ci_low", "ci_high", "n"]].round(2)
           layer  head_index  effect  ci_low  ci_high  n
        0     20           0    0.36    0.14     0.60  4
        1     20           1    0.01   -0.03     0.16  4
    """
    if top_k is not None:
        check_count("top_k", top_k)
    result = one_metric(check_result(result, "patched"), metric)
    dims = cell_dims(result)
    interval = effect_interval(result, confidence=confidence)
    effects, n = effect(result).isel(metric=0, drop=True), result.patched.isel(metric=0, drop=True).count("example")
    estimates = {"effect": effects, "ci_low": interval.low, "ci_high": interval.high}
    columns = xr.Dataset({**estimates, "n": n, "p_value": p_values(result, seed=seed)})
    table = columns.reset_coords(drop=True).to_dataframe(dim_order=dims).reset_index()
    table = table.rename(columns={"head": "head_index"}).assign(p_adjusted=np.nan)
    tested = table.p_value.notna()
    table.loc[tested, "p_adjusted"] = false_discovery_control(table.p_value[tested])
    return table.sort_values("effect", key=abs, ascending=False, ignore_index=True)[:top_k]
