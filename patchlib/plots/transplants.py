"""The figure of positions that were written into another prompt."""

import html

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from patchlib.errors import SweepError
from patchlib.plots import style
from patchlib.plots.wording import check_transplant


def transplant_map(result: xr.Dataset, title: str = "What a transplanted state makes the model say") -> go.Figure:
    """A map of source layer by target layer: the answer's probability, or that of the most probable token.

    Args:
        result: From ``transplant``, with several target layers.
        title: Of the figure.

    Returns:
        A heat map, with the most probable next token written into each cell where there is room.

    Raises:
        SweepError: This is no transplant, or each layer went into its own.

    Example:
        >>> texts = "The capital city of the country Japan is called", "The capital city of the country it is called"
        >>> how = {"source_position": "Japan", "target_position": "it", "answer": " Tokyo"}
        >>> result = patchlib.transplant(model, *texts, [0, 6, 12], [0, 6], **how)
        >>> patchlib.plots.transplant_map(result).data[0].z.shape  # [target_layer source_layer]
        (2, 3)
    """
    check_transplant(result)
    if "target_layer" not in result.dims:
        raise SweepError("A map needs layers to write into: give target_layer to patchlib.transplant.")
    of_answer = "answer_prob" in result
    probs = (result.answer_prob if of_answer else result.prob.isel(rank=0)).transpose("target_layer", "source_layer")
    tokens = result.token.isel(rank=0).transpose("target_layer", "source_layer").values
    text = np.vectorize(lambda token: html.escape(token.strip() or repr(token), quote=False), otypes=[object])(tokens)
    names = [[str(int(layer)) for layer in probs[axis].values] for axis in ("source_layer", "target_layer")]
    has_room = len(names[0]) <= 12
    look = {"texttemplate": "%{text}", "textfont": {"size": 11}} if has_room else {}
    hover = "from layer %{x} into layer %{y}<br>probability %{z:.3f}<br>most probable: %{text}<extra></extra>"
    heat = go.Heatmap(z=probs.values.round(4), x=names[0], y=names[1], text=text, hovertemplate=hover, **look)
    figure = go.Figure(heat.update(coloraxis="coloraxis", xgap=1, ygap=1))
    figure.update_xaxes(type="category", showgrid=False, title="taken from layer")
    figure.update_yaxes(type="category", showgrid=False, title="written into layer")
    attrs = result.attrs
    what = f"probability of {attrs['answer']!r}" if of_answer else "probability of the most probable token"
    without = float(result.unpatched_answer_prob if of_answer else result.unpatched_prob[0])
    said = (
        f"{attrs['site']}: {attrs['source_token']!r} of {attrs['source']!r} into {attrs['target_token']!r} of "
        f"{attrs['target']!r}; {what} (without: {without:.2f}), {attrs['model']}"
    )
    said = html.escape(said, quote=False)
    width = min(900, max(620, 260 + 48 * len(names[0])))
    style.style(figure, title, said, min(900, 260 + 26 * max(4, len(names[1]))), width)
    colorbar = {"title": {"text": "probability<br>&nbsp;", "font": {"size": 12}}, "thickness": 20}
    coloraxis = {"colorscale": "Blues", "cmin": 0, "cmax": max(0.05, float(probs.max())), "colorbar": colorbar}
    return figure.update_layout(plot_bgcolor="#cdcdcd", coloraxis=coloraxis)
