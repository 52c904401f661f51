"""What all figures share: the renderer, the look, colours, maps and bars.

One look for all: red to blue around 0, the same range for panels of one quantity, layers from the bottom up as
the model computes them.
"""

import html
import os
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import xarray as xr
from plotly.subplots import make_subplots

from patchlib._util import check_text
from patchlib.plots.theme import follow_theme
from patchlib.plots.wording import AXIS_NAMES, NO_CONTRAST, column_names

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours that everyone can tell apart (Okabe and Ito 2008)."""
RED, GREY, PALE = "#B2182B", "#8a8a8a", "#e8e8e8"
FORWARD_COLORS = {"clean": LINES[0], "patched": LINES[2], "corrupted": LINES[1]}
AXIS = {"gridcolor": PALE, "zerolinecolor": GREY}
SILENT = {"hoverinfo": "skip", "showlegend": False}
LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
PLOTLY_MIME = "application/vnd.plotly.v1+json"
"""How notebooks call a figure that is stored as data."""


def set_renderer() -> None:
    """Let notebooks store figures as data, without plotly's 4.5 MB of JavaScript in every file.

    Colab's page has a renderer of its own, and PLOTLY_RENDERER in the environment goes before: with
    ``plotly_mimetype+png`` (and kaleido with a Chrome) figures are stored as pictures too, for GitHub. In
    JupyterLab and VS Code figures follow the page's dark theme from then on.

    Example:
        >>> import plotly.io
        >>> patchlib.plots.set_renderer()
        >>> plotly.io.renderers.default
        'plotly_mimetype'
    """
    if "PLOTLY_RENDERER" not in os.environ and not is_colab():
        pio.renderers.default = "plotly_mimetype"
    follow_theme()


def is_colab() -> bool:
    """Whether this runs behind Colab's own page, which does not know plotly's figures as data."""
    return "COLAB_NOTEBOOK_ID" in os.environ  # google.colab is imported behind other front ends too


def style(figure: go.Figure, title: str, subtitle: str, height: int, width: int = 820, above: int = 0) -> go.Figure:
    """The look that all figures share; long titles wrap, and ``above`` pixels stay free between them and the axes."""
    check_text("A title", title)
    subtitle = subtitle.replace(" = ", "\u00a0=\u00a0")  # no line ends there
    heading, small = textwrap.wrap(title, width // 10), textwrap.wrap(subtitle, width // 6, break_on_hyphens=False)
    # Set here rather than as a template: plotly's default one adds 6.5 KB to each figure in a notebook.
    font = {"family": "Helvetica, Arial, sans-serif", "size": 13, "color": "#222"}
    margin = {"l": 60, "r": 30, "t": 40 + 22 * len(heading) + 16 * len(small) + above, "b": 50}
    corner = {"x": 14 / width, "xanchor": "left", "y": 1 - 14 / height, "yanchor": "top"}
    lines = {"text": "<br>".join(small), "font": {"size": 12, "color": "#5a5a5a"}}
    heading_and_lines = {"text": "<br>".join(heading), "font": {"size": 18}, "subtitle": lines, **corner}
    figure.update_layout(template="none", font=font, margin=margin, width=width, height=height, title=heading_and_lines)
    axis = {"automargin": True, "title": {"font": {"size": 14}, "standoff": 10}}
    return figure.update_xaxes(axis).update_yaxes(axis)


def side_by_side(names: Collection[str], **settings: Any) -> go.Figure:
    """An empty panel for each of these titles, upward all on one axis."""
    titles, gap = list(names) if any(names) else None, 0.12 / len(names)
    return make_subplots(1, len(names), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=gap, **settings)


def add_line(figure: go.Figure, layers: Sequence[int], effects: Sequence[float], name: str, i: int) -> None:
    """The i-th line of effects by layer, of which each six have the same dashes."""
    line = {"color": LINES[i % len(LINES)], "width": 2, "dash": ("solid", "dash", "dot")[i // len(LINES) % 3]}
    hover = f"{name} layer %{{x}}<br>effect %{{y:.3f}}<extra></extra>"
    look = {"mode": "lines+markers", "line": line, "hovertemplate": hover}
    figure.add_scatter(x=layers, y=np.round(effects, 4), name=name, legendgroup=name, **look)


def add_band(
    figure: go.Figure, lows: pd.Series, highs: pd.Series, color: str, opacity: float, name: str = "", **panel: int
) -> None:
    """A pale band between two lines over the same index, shown and hidden with the line of this name."""
    x, y = [*lows.index, *lows.index[::-1]], np.round([*highs, *lows[::-1]], 4)
    band = {"fill": "toself", "fillcolor": color, "opacity": opacity, "mode": "none", **SILENT}
    figure.add_scatter(x=x, y=y, legendgroup=name, **band, **panel)


def effect_by_layer(figure: go.Figure, title: str, subtitle: str, n_layers: int) -> go.Figure:
    """The axes, the line at 0 and the legend of figures that have layers across and effects upward."""
    figure.add_hline(y=0, line={"color": GREY, "width": 1})
    figure.update_xaxes(title="layer", showgrid=False, zeroline=False, dtick=layer_step(n_layers))
    figure.update_yaxes(title="effect", gridcolor=PALE, zeroline=False)
    return style(figure, title, subtitle, 440, above=30).update_layout(showlegend=True, legend=LEGEND)


def _ticks(labels: list[str], pixels: float) -> dict[str, Any]:
    """Angle and step at which the labels of columns this wide do not overlap."""
    longest = 4 + 8 * max(len(html.unescape(label)) for label in labels)
    if longest <= max(pixels, 36):  # a head's short label is left out rather than turned
        return {"tickangle": 0, "dtick": int(np.ceil(longest / pixels))}
    if pixels >= 20:
        return {"tickangle": -45, "dtick": 1}
    return {"tickangle": -90, "dtick": int(np.ceil(12 / pixels)), "tickfont": {"size": 10}}


def _categories(names: list[str]) -> dict[str, Any]:
    """An axis that shows all of these, in this order, even where no cell has a number."""
    return {"type": "category", "categoryarray": names, "range": [-0.5, len(names) - 0.5], "showgrid": False}


def say_if_empty(figure: go.Figure, effects: np.ndarray) -> go.Figure:
    """Write into a figure without a single number that there is no contrast."""
    if np.isfinite(effects).any():
        return figure
    return figure.add_annotation(text=NO_CONTRAST, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")


def layer_step(n_layers: int) -> int:
    """Every how many layers an axis has a label."""
    return 1 if n_layers <= 16 else 5


def draw_maps(panels: Mapping[str, xr.DataArray], title: str, subtitle: str, meaning: Sequence[str]) -> go.Figure:
    """Effects over ``layer`` and one other axis, side by side on one symmetric colour scale that holds them all.

    An effect's attribute ``hover`` is added to what its cells say. Cells without a number are grey.
    """
    effects = list(panels.values())
    values = np.concatenate([effect.values.ravel() for effect in effects])
    numbers = values[np.isfinite(values)]
    limit = max(0.05, float(np.ceil(float(np.abs(numbers).max(initial=0.0)) * 20)) / 20)
    axes = [next(str(dim) for dim in effect.dims if dim != "layer") for effect in effects]
    sizes = [max(3, effect[axis].size) for effect, axis in zip(effects, axes, strict=True)]
    width = min(900, max(620, 260 + 34 * sum(sizes) + 40 * len(sizes)))
    layers = sorted({int(layer) for effect in effects for layer in effect.layer.values})
    figure = side_by_side(panels, column_widths=sizes)
    pixels = (width - 250) / sum(sizes)
    for column, (effect, axis) in enumerate(zip(effects, axes, strict=True), start=1):
        labels, name = column_names(effect, axis), AXIS_NAMES[axis]
        z, y = np.round(effect.transpose("layer", axis).values, 4), [str(layer) for layer in effect.layer.values]
        panel = {"row": 1, "col": column}
        hover = f"layer %{{y}}, {name} %{{x}}<br>effect %{{z:.3f}}{effect.attrs['hover']}<extra></extra>"
        look = {"coloraxis": "coloraxis", "xgap": int(pixels > 8), "ygap": 1, "hoverongaps": False}
        figure.add_heatmap(z=z, x=labels, y=y, hovertemplate=hover, **look, **panel)
        figure.update_xaxes(_categories(labels), title=name, **_ticks(labels, pixels), **panel)
    # Categories, because cells would grow to fill the gap where layers were left out.
    figure.update_yaxes(_categories([str(layer) for layer in layers]), dtick=layer_step(len(layers)))
    figure.update_yaxes(title="layer", row=1, col=1)
    grey = "" if numbers.size == values.size else "; grey: not measured, or no contrast"
    style(figure, title, subtitle + grey, min(900, max(420, 190 + 15 * len(layers))), width, above=20 * any(panels))
    colorbar = {"title": {"text": "<br>".join([*meaning, "&nbsp;"]), "font": {"size": 12}}, "thickness": 20}
    coloraxis = {"colorscale": "RdBu", "cmin": -limit, "cmax": limit, "colorbar": colorbar}  # red below 0, blue above
    return say_if_empty(figure, values).update_layout(plot_bgcolor="#cdcdcd", coloraxis=coloraxis)


def draw_bars(
    names: Sequence[str], effects: Sequence[float], title: str, subtitle: str, meaning: Sequence[str]
) -> go.Figure:
    """Effects as bars from the top down, blue above and red below 0."""
    colors = [LINES[0] if effect > 0 else RED for effect in effects]
    figure = go.Figure(go.Bar(x=np.round(effects, 4), y=names, orientation="h", marker={"color": colors}))
    figure.update_xaxes(AXIS, title=f"{meaning[0]} ({', '.join(meaning[1:])})", range=None if effects else [-1, 1])
    figure.update_yaxes(type="category", autorange="reversed", dtick=1, showgrid=False)
    return say_if_empty(style(figure, title, subtitle, 170 + 24 * max(4, len(names))), np.array(effects))
