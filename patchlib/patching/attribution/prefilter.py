"""An estimate as the sieve of a sweep or of direct paths: only cells that it cannot rule out are patched."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import xarray as xr
from jaxtyping import Float

from patchlib import stats
from patchlib._util import cell_dims
from patchlib.patching.attribution.checked import largest_and_random, with_exact
from patchlib.patching.attribution.estimate import estimates
from patchlib.patching.attribution.scored import Estimate
from patchlib.patching.experiment import Experiment
from patchlib.patching.shared import Shared

Effects = Float[np.ndarray, "metric *axes"]
N_JUDGED = 24
"""Cells with the largest estimates, and as many drawn, by which the margin is learnt."""


def prefiltered(experiment: Experiment, least: float | Callable[[Effects], float]) -> xr.Dataset:
    """A sweep, or direct paths, of the cells whose effect may be as large as ``least``, in size.

    The margin is the largest miss among cells that are drawn from all but those with the largest estimates: another
    such cell is missed by more with a probability of about 1 in ``N_JUDGED + 1``.

    Args:
        experiment: The whole sweep.
        least: A fraction; or what gives it, from the exact effects of the cells that are judged (NaN elsewhere).

    Returns:
        As ``Experiment.run``: NaN in cells that were left out; the estimated effects of all as ``estimate``, what they
        are made of, each prompt's estimated metric, as ``estimated``; the attribute ``prefilter`` says what was left
        out.
    """
    n_cells = experiment.grid.n_cells
    if n_cells <= 2 * N_JUDGED:
        return experiment.run().assign_attrs(prefilter=f"none: all {n_cells} cells are patched, being few")
    if experiment.receivers is not None and experiment.shared is None and experiment.how.executor is None:
        experiment = replace(experiment, shared=Shared())
    (estimate,) = estimates([experiment], Estimate())
    estimate = estimate.assign(effect=stats.effect(estimate))
    largest, drawn = largest_and_random(estimate, N_JUDGED)
    judged = with_exact(estimate, experiment, largest + drawn)
    effects = estimate.effect.transpose("metric", *cell_dims(estimate)).values
    exact = judged.exact_effect.transpose("metric", *cell_dims(estimate)).values
    at = (slice(None), *np.array(drawn).T)
    misses = abs(effects[at] - exact[at])
    margin = float(np.nanmax(misses)) if np.isfinite(misses).any() else np.inf
    if callable(least):
        least = least(exact)
    # What is no number is of a contrast that cannot be divided by, or of a position that few prompts have.
    ruled_out = (abs(effects) + margin < least).all(0)
    ruled_out[tuple(np.array(largest + drawn).T)] = False
    left = {tuple(map(int, index)) for index in np.argwhere(~ruled_out)} - {*largest, *drawn}
    result, patched = judged, judged.exact
    if left:
        result = replace(experiment, grid=replace(experiment.grid, only=frozenset(left))).run()
        patched = patched.fillna(result.patched)
    n_left_out = int(ruled_out.sum())
    said = (
        f"attribution: {n_left_out} of {n_cells} cells left out, whose estimated effect and a margin of {margin:.3g} "
        f"are below {least:g}; the margin is the largest miss among {len(drawn)} cells that were drawn and patched"
    )
    patched = patched.transpose(*estimate.patched.dims)
    kept = estimate[["patched", "clean", "corrupted"]].assign_attrs(result.attrs).assign(patched=patched)
    kept.attrs.pop("estimate", None)
    kept = kept.assign(effect=stats.effect(kept), estimate=estimate.effect, estimated=estimate.patched)
    return kept.assign_attrs(prefilter=said)
