"""Which effects of a step of a search are more than chance, given how many heads were tested."""

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from scipy.stats import false_discovery_control

from patchlib.stats import moved_and_possible
from patchlib.stats.intervals import t_p_values
from patchlib.stats.results import clusters_of

LEAST_PROMPTS = 16
"""Below this, most heads that matter are not told from chance among some hundred heads, and circuits change with the
seed."""
RATE = 0.05
"""Of the heads that a step takes, at most this share is taken by chance, on average."""


def corrected_p_values(result: xr.Dataset, table: pd.DataFrame) -> Float[np.ndarray, " row"]:
    """Of each head of a table the p-value that patching it moves the metric by 0, corrected for all that were tested.

    Student's t over prompts, a wording's prompts being one cluster, which tells apart more than signs can of few
    prompts; and the correction of Benjamini and Hochberg 1995: a search names a set of heads, of which a share may be
    wrong, and one that has to be right in every head of hundreds would find little. What an estimate left out is tested
    with the estimate, as it would count among the others.

    Args:
        result: One step's path patching, over ``layer`` and ``head``.
        table: Some of its heads, in columns ``layer`` and ``head_index``.

    Returns:
        A probability for each row; NaN for a single prompt.
    """
    if "estimated" in result:
        result = result.assign(patched=result.patched.fillna(result.estimated))
    moved = moved_and_possible(result)[0].isel(metric=0).transpose("layer", "head", "example")
    by_head = moved.values.reshape(-1, moved.sizes["example"]).astype("float64")  # [head example]
    is_known = np.isfinite(by_head).all(-1)
    p_values = np.ones(len(by_head))
    p_values[is_known] = t_p_values(by_head[is_known], clusters_of(result))
    if np.isnan(p_values).any():
        return np.full(len(table), np.nan)
    layers, heads = moved.layer.values.tolist(), moved["head"].values.tolist()
    rows = [layers.index(row.layer) * len(heads) + heads.index(row.head_index) for row in table.itertuples()]
    corrected: np.ndarray = false_discovery_control(p_values)[rows]
    return corrected
