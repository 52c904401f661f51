"""What a result has to hold, and what is read off it before any statistics."""

import numpy as np
import xarray as xr
from jaxtyping import Shaped

from patchlib._util import check_choice, check_kind
from patchlib.errors import SweepError

DIRECTIONS = ("denoise", "noise")
"""Clean into corrupted, or corrupted into clean."""


def check_result(result: xr.Dataset, *variables: str) -> xr.Dataset:
    """The same result; SweepError where it is none, or lacks the two unpatched forwards or one of these variables."""
    mend = "give what patchlib.sweep, path_patch or baseline returned"
    checked = check_kind("A result", result, xr.Dataset, mend)
    for name in ("clean", "corrupted", *variables):
        if name not in checked or not {"metric", "example"} <= set(checked[name].dims) or not checked[name].size:
            raise SweepError(f"A result without {name!r} over metric and example cannot be read: {mend}.")
        if checked[name].dtype.kind not in "fiu":
            raise SweepError(f"A result whose {name!r} has no real numbers cannot be read: {mend}.")
    if variables:
        check_choice("direction", checked.attrs.get("direction"), DIRECTIONS)
    return checked


def clusters_of(result: xr.Dataset) -> Shaped[np.ndarray, " example"] | None:
    """Which prompts share a wording, as ``PromptPairs.clusters`` said; None where the result does not know."""
    return result["cluster"].values if "cluster" in result.coords else None


def moved_and_possible(result: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """How far each patch moved each prompt's metric, and how far the two unpatched forwards are apart."""
    result = check_result(result, "patched")
    base, other = result.corrupted, result.clean
    if result.attrs["direction"] == "noise":
        base, other = other, base
    return result.patched - base, other - base


def one_metric(result: xr.Dataset, metric: str | None) -> xr.Dataset:
    """A result with one of its metrics only.

    Args:
        result: From ``sweep``, ``path_patch`` or ``baseline``.
        metric: Which metric; the result's first when None.

    Returns:
        The same variables, with an axis ``metric`` of length 1.

    Raises:
        SweepError: The result does not have that metric.

    Example:
        >>> unpatched = patchlib.baseline(model, task, metric=["logit_diff", "prob"])
        >>> dict(patchlib.stats.one_metric(unpatched, "prob").sizes)
        {'metric': 1, 'example': 4}
    """
    names = [str(name) for name in check_result(result).metric.values]
    return result.sel(metric=[names[0] if metric is None else check_choice("metric", metric, names)])
