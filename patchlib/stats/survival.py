"""Do effects survive? Held against patches that should do nothing, and against other prompts."""

import pandas as pd
import xarray as xr

from patchlib._util import cell_dims, check_count, check_fraction
from patchlib.errors import SweepError
from patchlib.stats.differences import check_same_cells
from patchlib.stats.effects import effect
from patchlib.stats.results import check_result, moved_and_possible, one_metric
from patchlib.stats.tables import effect_interval, summary_table


def _comparable(first: xr.Dataset, second: xr.Dataset, metric: str | None) -> tuple[xr.Dataset, xr.Dataset]:
    """Both results with one metric; SweepError unless they are of the same cells and direction."""
    first, second = (one_metric(check_result(result, "patched"), metric) for result in (first, second))
    if first.attrs["direction"] != second.attrs["direction"]:
        raise SweepError("Both results must be of one direction.")
    check_same_cells(first, second)
    return first, second


def beside_null(result: xr.Dataset, null: xr.Dataset, metric: str | None = None) -> pd.DataFrame:
    """Each cell's effect beside what the same patch does between prompts that call for the same answer.

    Args:
        result: From ``sweep``.
        null: The same sweep over ``null_pairs`` of the task; its own contrast is about 0, and is not used.
        metric: Which metric; the result's first when None.

    Returns:
        ``summary_table`` of all cells, with ``null_effect`` (mean of what the patch moves in the null set, as a share
        of the *result's* contrast, so that both columns have one scale) and ``exceeds``: the effect is larger in size
        than the largest of the null set, over all cells, and its interval leaves out 0.

    Raises:
        SweepError: Results of other cells, directions or metrics.

    Example:
        >>> more = patchlib.tasks.ClauseAgreement(model, n_prompts=32)
        >>> how = {"site": "resid_pre", "over": ("layer", "role"), "layers": [0, 20], "progress": False}
        >>> null = patchlib.sweep(model, patchlib.null_pairs(model, more), **how)
        >>> table = patchlib.stats.beside_null(patchlib.sweep(model, more, **how), null)
        >>> table.columns[-2:].to_list()
        ['null_effect', 'exceeds']
    """
    result, null = _comparable(result, null, metric)
    possible = float(moved_and_possible(result)[1].mean())
    moved = moved_and_possible(null)[0].isel(metric=0, drop=True).mean("example")
    flat = (moved / possible).rename("null_effect").reset_coords(drop=True).to_dataframe().reset_index()
    flat = flat.rename(columns={"head": "head_index"})
    axes = [axis for axis in flat.columns if axis != "null_effect"]
    table = summary_table(result, None).merge(flat, on=axes, how="left")
    clear = (table.ci_low > 0) | (table.ci_high < 0)
    return table.assign(exceeds=clear & (abs(table.effect) > abs(flat.null_effect).max()))


def replicated(
    first: xr.Dataset, second: xr.Dataset, top_k: int = 5, metric: str | None = None, confidence: float = 0.95
) -> pd.DataFrame:
    """The cells whose effects are largest in one result, and what another one, of other prompts, says of them.

    A cell that is picked because it is the largest of many owes some of its size to chance. The second result picks
    nothing, so that its effects are what the cell has; its intervals are corrected for the number of cells
    (Bonferroni), since each of them is a claim.

    Args:
        first: From ``sweep``: where cells are picked.
        second: The same cells over other prompts.
        top_k: How many.
        metric: Which metric; each result's first when None.
        confidence: That all intervals of the second hold together.

    Returns:
        The swept axes, ``first`` and ``second`` (effects), ``ci_low`` and ``ci_high`` of the second, ``n`` (its
        prompts), and ``holds``: its interval leaves out 0, on the side of the first.

    Raises:
        SweepError: Results of other cells, directions or metrics, or a setting out of range.

    Example:
        >>> halves = patchlib.halves(model, task)
        >>> over = ("layer", "head")
        >>> both = [patchlib.sweep(model, half, "z", over, layers=[20, 23], progress=False) for half in halves]
        >>> table = patchlib.stats.replicated(*both, top_k=2)
        >>> table.columns.to_list()
        ['layer', 'head_index', 'first', 'second', 'ci_low', 'ci_high', 'n', 'holds']
    """
    check_count("top_k", top_k)
    check_fraction("confidence", confidence)
    first, second = _comparable(first, second, metric)
    picked = summary_table(first, top_k).dropna(subset="effect")
    interval = effect_interval(second, confidence=1 - (1 - confidence) / max(1, len(picked)))
    columns = {"second": effect(second).isel(metric=0, drop=True), "ci_low": interval.low, "ci_high": interval.high}
    n = second.patched.isel(metric=0, drop=True).count("example")
    flat = (
        xr.Dataset({**columns, "n": n}).reset_coords(drop=True).to_dataframe(dim_order=cell_dims(second)).reset_index()
    )
    flat = flat.rename(columns={"head": "head_index"})
    axes = [axis for axis in picked.columns if axis in flat and axis not in {"n", "ci_low", "ci_high"}]
    table = picked[[*axes, "effect"]].rename(columns={"effect": "first"}).merge(flat, on=axes, how="left")
    same_side = ((table.ci_low > 0) & (table["first"] > 0)) | ((table.ci_high < 0) & (table["first"] < 0))
    return table.assign(holds=same_side)
