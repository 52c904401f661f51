"""From gradients to estimates of a sweep's cells: at the base prompts, or along the way to what is written in.

A score is an estimate of how far a patch moves the metric. At the base prompts it is the first-order one of Nanda 2023,
"Attribution patching". Along the way it is the mean of the gradients at several shares of it (integrated gradients,
Sundararajan et al. 2017, section 3), whose scores sum to what the whole way moves the metric, as the steps grow. What
they lack with as many steps as were taken is the gap.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from patchlib.patching.attribution.gradients import no_graph_left
from patchlib.patching.attribution.path_gradients import ScoredPaths
from patchlib.patching.attribution.scored import Estimate, ScoredPrompts
from patchlib.patching.budget import GRAPH
from patchlib.patching.experiment import Experiment
from patchlib.progress import Progress, progress_bar

FIRST_STEPS, MOST_STEPS, LEAST_GAP = 5, 80, 0.05
"""Where steps are chosen: doubled from the first, until the gap is this share of what the prompts are apart."""


def estimates(experiments: Sequence[Experiment], how: Estimate, progress: Progress = False) -> list[xr.Dataset]:
    """A result for each of several experiments, which are alike but for their grids, as ``Experiment.run`` gives it.

    Of direct paths there is one experiment, estimated at the base prompts.

    Raises:
        SweepError: A metric or model without gradients, numbers that are not finite, or memory that runs out.
    """
    first = experiments[0]
    results = [experiment.empty_result().assign_attrs(experiment.attributes()) for experiment in experiments]
    smaller = replace(first.how, batch_tokens=max(1, first.how.batch_tokens // GRAPH))
    batches = (first if first.shared else replace(first, how=smaller)).example_batches()
    # Along its activations every site goes a way of its own; all else is read off the same gradients.
    alone = how.method == "integrated" and how.along == "activations"
    groups = [[i] for i in range(len(experiments))] if alone else [list(range(len(experiments)))]
    bar_of = progress_bar(len(first.pairs) * len(groups), f"{first.donors.direction}, estimated", progress)
    with no_graph_left(first.model), bar_of as bar:
        for examples in batches:
            for group in groups:
                cells = [experiments[i] for i in group]
                is_of_paths = first.receivers is not None
                prompts = ScoredPaths(first, examples) if is_of_paths else ScoredPrompts(cells, examples, how)
                for i, (scores, gap) in zip(group, prompts.scores(), strict=True):
                    _fill(results[i], prompts, scores, gap)
                bar.update(len(examples))
    return [result.assign_attrs(estimate=str(how)) for result in results]


def with_small_gap(experiments: Sequence[Experiment], how: Estimate, progress: Progress = False) -> list[xr.Dataset]:
    """Integrated with as few steps as leave a small gap, or with the most."""
    steps = FIRST_STEPS
    while True:
        results = estimates(experiments, how.with_steps(steps), progress)
        if steps >= MOST_STEPS or max(map(_largest_gap, results)) <= LEAST_GAP:
            return results
        steps *= 2


def _largest_gap(result: xr.Dataset) -> float:
    """Of all metrics (and layers), the mean size of the gap as a share of what clean and corrupted are apart."""
    apart = abs(result.clean - result.corrupted).mean("example")
    return float((abs(result.gap).mean("example") / apart).max())


def _fill(result: xr.Dataset, prompts: ScoredPrompts | ScoredPaths, scores: np.ndarray, gap: np.ndarray | None) -> None:
    """Put in what is known of some prompts: ``scores[metric *axes example]``."""
    examples = prompts.examples
    result.clean.values[:, examples], result.corrupted.values[:, examples] = prompts.clean, prompts.corrupted
    result.patched.values[..., examples] = scores + np.expand_dims(prompts.base, tuple(range(1, scores.ndim - 1)))
    if gap is not None:
        if "gap" not in result:
            dims = ["metric", *(["layer"] if gap.ndim == 3 else []), "example"]
            result["gap"] = dims, np.full([*gap.shape[:-1], result.sizes["example"]], np.nan, dtype=np.float32)
        result.gap.values[..., examples] = gap
