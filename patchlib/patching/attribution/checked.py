"""The exact sweep as the judge of an estimate: some cells are patched, and it is said by how much the estimate missed.

The largest cells are those that a reader will speak of; cells drawn by chance say what an estimate misses elsewhere.
"""

import random
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import xarray as xr
from jaxtyping import Float

from patchlib import stats
from patchlib._util import cell_dims, cell_name
from patchlib.patching.experiment import Experiment
from patchlib.patching.grid import CellIndex


def largest_and_random(result: xr.Dataset, k: int) -> tuple[list[CellIndex], list[CellIndex]]:
    """The cells that are estimated to move a metric most, and as many others, drawn.

    They are drawn from those that are estimated to move it at all, if these are enough: where nothing is patched, or
    nothing follows it, there is nothing to miss.
    """
    moved = abs(stats.moved_and_possible(result)[0].mean("example"))  # [metric *axes]
    size = (moved / moved.max(cell_dims(result))).max("metric").fillna(-1).values  # of metrics in units of their own
    order = [tuple(map(int, np.unravel_index(flat, size.shape))) for flat in np.argsort(-size, axis=None)]
    largest, others = order[:k], order[k:]
    moving = [cell for cell in others if size[cell] > 0]
    others = moving if len(moving) >= k else others
    return largest, random.Random(0).sample(others, min(k, len(others)))


def with_exact(result: xr.Dataset, experiment: Experiment, cells: Iterable[CellIndex]) -> xr.Dataset:
    """An estimate, with what patching these cells gives beside it.

    Args:
        result: The estimate.
        experiment: Of the same grid.
        cells: Which ones to patch.

    Returns:
        The estimate with ``exact`` (the metric with the cell patched, as ``patched``; NaN in all other cells),
        ``exact_effect``, and over ``metric``: ``correlation`` (Pearson's of the two effects over these cells),
        ``largest_miss`` (of the effect, a fraction) and ``largest_miss_at`` (the cell's name).
    """
    only = frozenset(cells)
    exact = replace(experiment, grid=replace(experiment.grid, only=only)).run()
    dims = cell_dims(result)
    patched = exact.patched.transpose(*result.patched.dims)
    checked = result.assign(exact=patched)
    checked["exact_effect"] = stats.effect(checked.assign(patched=patched))
    return checked.assign(_agreement(checked, dims)).assign_attrs(n_checked=len(only), engine=exact.attrs["engine"])


def _agreement(result: xr.Dataset, dims: list[str]) -> dict[str, tuple[str, list[object]]]:
    columns: dict[str, list[object]] = {"correlation": [], "largest_miss": [], "largest_miss_at": []}
    for metric in result.metric.values:
        pair = result[["effect", "exact_effect"]].sel(metric=metric).reset_coords(drop=True)
        table = pair.to_dataframe(dim_order=dims).reset_index().dropna()
        misses = abs(table.effect - table.exact_effect)
        columns["correlation"].append(_pearson(table.effect.to_numpy(), table.exact_effect.to_numpy()))
        columns["largest_miss"].append(misses.max() if len(table) else np.nan)
        worst = "" if not len(table) else cell_name({str(k): v for k, v in table.iloc[int(misses.argmax())].items()})
        columns["largest_miss_at"].append(worst)
    return {name: ("metric", values) for name, values in columns.items()}


def _pearson(a: Float[np.ndarray, " cell"], b: Float[np.ndarray, " cell"]) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 1 and a.std() and b.std() else np.nan
