"""The edges that matter most, as a table."""

import pandas as pd
import xarray as xr

from patchlib._util import check_count
from patchlib.stats import check_result, one_metric


def edge_table(result: xr.Dataset, top_k: int | None = 20, metric: str | None = None) -> pd.DataFrame:
    """The edges with the largest absolute score.

    Args:
        result: From ``attribute_edges``.
        top_k: How many rows; None for all edges.
        metric: Which metric; the result's first when None.

    Returns:
        Columns ``sender``, ``receiver``, ``pos`` or ``role`` where there is one, ``score`` (mean over prompts, in the
        metric's units) and ``share`` (the mean score as a fraction of the mean contrast, other minus base prompts: 1
        is all of it), sorted by absolute score.

    Raises:
        SweepError: The result does not have that metric or no scores, or ``top_k`` is below 1.

    Example:
        The largest edge is a head that writes the answer; its group's values are what the first MLP made of names:

        >>> edges = [("L23H3", "logits"), ("MLP0", "v of L23KV1"), ("embed", "MLP0")]
        >>> result = patchlib.attribute_edges(model, task, edges=edges, progress=False)
        >>> patchlib.edge_table(result, top_k=2).round(2)
          sender     receiver  score  share
        0  L23H3       logits   3.31   0.44
        1   MLP0  v of L23KV1   1.81   0.24
    """
    if top_k is not None:
        check_count("top_k", top_k)
    result = one_metric(check_result(result, "score"), metric).isel(metric=0, drop=True)
    scores = result.score.mean("example")
    contrast = (result.clean - result.corrupted).mean("example").item()
    contrast = contrast if result.attrs["direction"] == "denoise" else -contrast
    table = scores.rename("score").reset_coords(drop=True).to_dataframe().dropna().reset_index()
    table = table.assign(share=table.score / contrast)
    largest: pd.DataFrame = table.sort_values("score", key=abs, ascending=False, ignore_index=True)[:top_k]
    return largest
