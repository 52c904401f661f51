"""Effects of the same cells on the same prompts, measured in two ways: how far apart they are."""

import numpy as np
import xarray as xr

from patchlib._util import cell_dims, check_fraction
from patchlib.errors import SweepError
from patchlib.stats.effects import effect
from patchlib.stats.intervals import mean_interval
from patchlib.stats.results import check_result, clusters_of, moved_and_possible, one_metric


def check_same_cells(first: xr.Dataset, second: xr.Dataset) -> None:
    """SweepError unless two results of one metric have the same cells, and begin with the same metric."""
    dims = cell_dims(first)
    if set(dims) != set(cell_dims(second)) or any(list(first[dim].values) != list(second[dim].values) for dim in dims):
        raise SweepError("The two results have other cells: sweep both over the same axes.")
    if first.metric.values[0] != second.metric.values[0]:
        names = f"{first.metric.values[0]} and {second.metric.values[0]}"
        raise SweepError(f"The two results begin with other metrics, {names}: name one that both have.")


def effect_difference(
    first: xr.Dataset, second: xr.Dataset, metric: str | None = None, confidence: float = 0.95
) -> xr.Dataset:
    """Each cell's effect in one result minus that in another of the same prompts, with intervals.

    Each effect is a ratio of means, which is linearised (delta method), so that each prompt adds its own error to it;
    what a prompt adds to both cancels, and the rest has the interval of ``mean_interval``.

    Args:
        first: From ``sweep``, ``path_patch`` or ``causal_trace``.
        second: The same cells of the same prompts, patched in another way: another corruption, source or direction.
        metric: Which metric; each result's first when None.
        confidence: Coverage aimed at, by all intervals together (Bonferroni over cells).

    Returns:
        Variables ``difference``, ``low`` and ``high`` over the swept axes, fractions; NaN where one of the two has no
        effect, the ends also where some prompt lacks the position or where there is a single prompt.

    Raises:
        SweepError: Results of other cells, metrics or numbers of prompts; ``confidence`` is no fraction.

    Example:
        >>> how = {"site": "z", "over": ("layer", "head"), "layers": [20], "heads": [0, 1], "progress": False}
        >>> there, back = (patchlib.sweep(model, task, direction=to, **how) for to in ("denoise", "noise"))
        >>> patchlib.stats.effect_difference(there, back).difference.values.round(2)
        array([[0.02, 0.01]])
    """
    check_fraction("confidence", confidence)
    first, second = (one_metric(check_result(result, "patched"), metric) for result in (first, second))
    check_same_cells(first, second)
    if first.sizes["example"] != second.sizes["example"]:
        counts = f"{first.sizes['example']} and {second.sizes['example']}"
        raise SweepError(f"The two results are of {counts} prompts: give two of the same prompts.")
    dims = cell_dims(first)
    ratios, by_prompt = [], []
    for result in (first, second):
        moved, possible = (part.isel(metric=0).astype("float64") for part in moved_and_possible(result))
        ratio = effect(result).isel(metric=0, drop=True).astype("float64")
        possible = possible.where(moved.notnull())
        ratios.append(ratio)
        by_prompt.append(ratio + (moved - ratio * possible) / possible.mean("example"))
    difference = (ratios[0] - ratios[1]).transpose(*dims).reset_coords(drop=True)
    values = (by_prompt[0] - by_prompt[1]).transpose(*dims, "example").values
    rows = values.reshape(-1, values.shape[-1])  # [cell example]
    whole = np.isfinite(rows).all(axis=1)
    low, high = (np.full(len(rows), np.nan) for _ in range(2))
    if whole.any():
        each = 1 - (1 - confidence) / int(whole.sum())
        low[whole], high[whole] = mean_interval(rows[whole], each, clusters_of(first))
    ends = {name: difference.copy(data=end.reshape(difference.shape)) for name, end in (("low", low), ("high", high))}
    return xr.Dataset({"difference": difference, **ends}, attrs={"confidence": confidence})
