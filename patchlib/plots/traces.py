"""Figures of causal traces: noise beside the tokens of another prompt."""

import plotly.graph_objects as go
import xarray as xr

from patchlib import stats
from patchlib.plots import style, wording
from patchlib.plots.sweeps import of_metric
from patchlib.plots.wording import AXIS_NAMES


def corruptions(
    traced: xr.Dataset,
    swept: xr.Dataset,
    metric: str | None = None,
    title: str = "Noise and another prompt's tokens, side by side",
) -> go.Figure:
    """What restoring each cell does in a run with noise and in one with other tokens, and how far the two are apart.

    Args:
        traced: From ``causal_trace`` over ``layer`` and another axis.
        swept: From ``sweep`` of the same cells and prompts, denoising.
        metric: Each result's first when None.
        title: Of the figure.

    Returns:
        Three maps on one colour scale: the effect with noise, with other tokens, and the first minus the second.

    Raises:
        SweepError: As ``of_corruptions``, or a result over other axes than ``layer`` and one more.

    Example:
        >>> how = {"over": ("layer", "role"), "layers": [0, 15], "progress": False}
        >>> traced = patchlib.causal_trace(model, task, "S2", draws=2, **how)
        >>> figure = patchlib.plots.corruptions(traced, patchlib.sweep(model, task, **how))
        >>> [panel.text for panel in figure.layout.annotations]
        ['noise', 'other tokens', 'noise minus other tokens']
    """
    wording.check_corruptions(traced, swept)
    named = of_metric({"noise": traced, "other tokens": swept}, metric, *(("layer", axis) for axis in AXIS_NAMES))
    panels = {
        name: result.effect.isel(metric=0).assign_attrs(hover=wording.unpatched(result))
        for name, result in named.items()
    }
    labels = {name: traced[name] for name in ("pos_label",) if name in traced.coords}
    difference = stats.effect_difference(traced, swept, metric).difference.assign_coords(labels)
    panels["noise minus other tokens"] = difference.assign_attrs(hover="")
    return style.draw_maps(panels, title, wording.about(named), wording.meaning_of(named))
