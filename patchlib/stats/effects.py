"""How far patches move the behaviour: the ratio of means over prompts."""

import xarray as xr

from patchlib.stats.contrasts import MIN_CONTRAST_OF_ONE, contrast
from patchlib.stats.results import moved_and_possible


def effect(result: xr.Dataset) -> xr.DataArray:
    """How far each patch moves the behaviour from the base prompts to the other ones: ratio of means over prompts.

    ``mean(patched - base) / mean(other - base)``, where base are the prompts patched into: 0 means nothing moved,
    1 all of it, and below 0 the patch pushes the other way (negative heads). It is never clipped. A mean of
    per-prompt ratios would explode wherever one prompt's contrast happens to be near 0.

    Args:
        result: From ``sweep`` or ``path_patch``.

    Returns:
        A fraction, dims ``metric`` and the swept axes; NaN where the contrast is too small (``contrast``), where no
        prompt has the position, or where those that have it hold less than a tenth of the contrast of all.

    Raises:
        SweepError: This is no result with patched metrics.

    Example:
        Two prompts, patched from a logit difference of -2 or -1 to 0 or 1, of 3 or 2 that would be possible:

        >>> variables = {"patched": [[0.0, 1.0]], "clean": [[3.0, 2.0]], "corrupted": [[-2.0, -1.0]]}
        >>> variables = {name: (("metric", "example"), values) for name, values in variables.items()}
        >>> result = xr.Dataset(variables, {"metric": ["logit_diff"]}, {"direction": "denoise"})
        >>> patchlib.stats.effect(result).item()  # (2 + 2) / (5 + 3)
        0.5
    """
    moved, distance = moved_and_possible(result)
    # Prompts without the position count neither above nor below the line.
    possible = distance.where(moved.notnull())
    usable = xr.DataArray(contrast(result).usable.to_numpy(), dims="metric")
    enough = possible.mean("example") / distance.mean("example") >= MIN_CONTRAST_OF_ONE
    ratio: xr.DataArray = moved.mean("example") / possible.mean("example")
    return ratio.where(usable & enough).astype("float32")
