"""How well scores of edges tell a toy's circuit from all else."""

import numpy as np
import xarray as xr
from scipy.stats import mannwhitneyu

from patchlib._util import check_kind
from patchlib.errors import SweepError
from patchlib.toys.build import Toy


def auroc(scores: xr.Dataset, toy: Toy) -> float:
    """The chance that an edge of the circuit has a larger score than an edge that is in none (area under the ROC).

    Args:
        scores: From ``attribute_edges`` on the toy, of all edges; their size counts, in the mean over prompts, of the
            first metric.
        toy: Whose ``edges`` are the truth.

    Returns:
        1 where every edge of the circuit is above all others, 0.5 for scores that say nothing.

    Raises:
        SweepError: These are no scores of the toy's edges.

    Example:
        >>> toy = patchlib.toys.or_gate()
        >>> for direction in ("denoise", "noise"):  # one head is enough, so that noising one changes nothing
        ...     scores = patchlib.attribute_edges(toy.model, toy.task, "exact", direction=direction, progress=False)
        ...     print(direction, round(patchlib.toys.auroc(scores, toy), 2))
        denoise 1.0
        noise 0.9
    """
    check_kind("A toy", toy, Toy, "make one, such as patchlib.toys.or_gate()")
    mend = "give what patchlib.attribute_edges(toy.model, toy.task) returned"
    check_kind("Scores of edges", scores, xr.Dataset, mend)
    if "score" not in scores or not {"metric", "sender", "receiver", "example"} <= set(scores.score.dims):
        raise SweepError(f"A dataset without 'score' over sender and receiver has no scores of edges: {mend}.")
    score = scores.score.isel(metric=0).mean("example")
    positions = [dim for dim in score.dims if dim not in ("sender", "receiver")]
    size = abs(score.sum(positions, min_count=1)).transpose("sender", "receiver").to_series().dropna()
    is_true = np.array([edge in toy.edges for edge in size.index])
    if is_true.sum() < len(toy.edges) or is_true.all():
        raise SweepError(f"The scores are not of all edges of {toy.task.name!r}: {mend}.")
    won = mannwhitneyu(size[is_true], size[~is_true]).statistic  # of all pairs of an edge in it and one that is not
    return float(won / (is_true.sum() * (~is_true).sum()))
