"""Which effects of a step of a search are more than chance, given how many heads were tested."""

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from scipy.stats import false_discovery_control, t

from patchlib.stats import moved_and_possible

LEAST_PROMPTS = 16
"""Below this, most heads that matter are not told from chance among some hundred heads, and circuits change with the
seed."""
RATE = 0.05
"""Of the heads that a step takes, at most this share is taken by chance, on average."""


def corrected_p_values(result: xr.Dataset, table: pd.DataFrame) -> Float[np.ndarray, " row"]:
    """Of each head of a table the p-value that patching it moves the metric by 0, corrected for all that were tested.

    Student's t over prompts, which tells apart more than signs can of few prompts, and the correction of Benjamini and
    Hochberg 1995: a search names a set of heads, of which a share may be wrong, and one that has to be right in every
    head of hundreds would find little. Heads of the step that are not in the table count as tested and not found: so
    those that an estimate left out, which have no p-value, do not change the correction.

    Args:
        result: One step's path patching, over ``layer`` and ``head``.
        table: Some of its heads, in columns ``layer`` and ``head_index``.

    Returns:
        A probability for each row; NaN for a single prompt.
    """
    moved = moved_and_possible(result)[0].isel(metric=0).astype("float64")
    if "cluster" in moved.coords and len(set(moved.cluster.values)) > 1:
        moved = moved.groupby("cluster").sum().rename(cluster="example")  # prompts of one wording are not independent
    by_head = [moved.sel(layer=row.layer, head=row.head_index).dropna("example").values for row in table.itertuples()]
    p_values = np.array([_p_value(values) for values in by_head])
    known = np.isfinite(p_values)
    if known.any():
        n_others = moved.isel(example=0).size - int(known.sum())
        p_values[known] = false_discovery_control([*p_values[known], *np.ones(n_others)])[: int(known.sum())]
    return p_values


def _p_value(values: Float[np.ndarray, " example"]) -> float:
    """Two-sided, that the mean is 0."""
    if len(values) < 2:
        return np.nan
    error = values.std(ddof=1) / np.sqrt(len(values))
    if not error:
        return float(not values.any())
    return float(2 * t.sf(abs(values.mean()) / error, len(values) - 1))
