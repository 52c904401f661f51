"""Figures of induction: loss along a row, scores of heads, where heads look, one measure against another."""

from __future__ import annotations

import html
import math

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from patchlib.errors import SweepError
from patchlib.plots.sweeps import GREY, LINES, PALE, layer_step, style

SHADES = [[0, "#ffffff"], [0.5, "#6baed6"], [1, "#08306b"]]
PANEL = 380
"""Pixels of one attention pattern, which hold the labels of about 30 tokens."""


def loss_by_position(losses: xr.DataArray, copy: int | None = None, title: str = "Loss at each position") -> go.Figure:
    """Mean loss over rows at each position, with 95% of the mean's sampling spread (1.96 standard errors).

    Args:
        losses: From ``token_losses``.
        copy: Where the second copy starts, for a line there.
        title: Of the figure.
    """
    mean, n = losses.mean("example"), losses.sizes["example"]
    spread = 1.96 * losses.std("example", ddof=1) / math.sqrt(n) if n > 1 else 0 * mean
    figure = go.Figure()
    inside = losses.pos.values[1:]
    low, high = ((mean + sign * spread).values[1:].round(3) for sign in (-1, 1))
    figure.add_scatter(
        x=np.concatenate([inside, inside[::-1]]), y=np.concatenate([high, low[::-1]]), fill="toself", mode="lines",
        line={"width": 0}, fillcolor="rgba(0, 114, 178, 0.2)", hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    figure.add_scatter(
        x=inside, y=mean.values[1:].round(3), mode="lines+markers", line={"color": LINES[0]}, marker={"size": 4},
        showlegend=False, hovertemplate="position %{x}<br>%{y:.2f} nats<extra></extra>",
    )  # fmt: skip
    if copy is not None:
        figure.add_vline(x=copy, line={"color": GREY, "dash": "dash"})
        figure.add_annotation(
            x=copy, y=1, yref="paper", text="it begins again", showarrow=False, xanchor="left", xshift=6
        )
    figure.update_xaxes(title="position of the token that is predicted", gridcolor=PALE, zeroline=False)
    figure.update_yaxes(title="loss (nats)", gridcolor=PALE, zerolinecolor=GREY, rangemode="tozero")
    return style(figure, title, f"mean of {n} rows, {losses.attrs['task']}; band: 95% interval of the mean", 420)


def score_map(score: xr.DataArray, title: str, what: str = "score") -> go.Figure:
    """A score between 0 and 1 of every head, layers upward, such as ``detector_scores(model).induction``."""
    score = score.transpose("layer", "head")
    figure = go.Figure(
        go.Heatmap(
            z=score.values.round(4), x=[f"H{head}" for head in score["head"].values], y=score.layer.values,
            xgap=1, ygap=1,
            colorscale=SHADES, zmin=0, zmax=1, colorbar={"title": {"text": what}, "thickness": 16},
            hovertemplate=f"L%{{y}}%{{x}}<br>{what} %{{z:.2f}}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_yaxes(title="layer", dtick=layer_step(score.sizes["layer"])).update_xaxes(title="head", dtick=1)
    said = ", ".join(f"{name} {value}" for name, value in score.attrs.items()) or "every head"
    return style(figure, title, said, 160 + 14 * score.sizes["layer"] + 60, 560)


def attention(patterns: xr.DataArray, title: str = "Where heads look", columns: int = 2) -> go.Figure:
    """One panel for each head of ``attention_patterns``: from which token (down) to which token (across).

    Tokens are labels of both axes; of long prompts every second, third, ... is labelled so that none overlap.

    Raises:
        SweepError: Nothing to show.
    """
    if not patterns.size:
        raise SweepError("There is no pattern to draw: attention_patterns gives them for the heads that you name.")
    n_pos, cells = patterns.sizes["src"], [str(cell) for cell in patterns.cell.values]
    columns = min(columns, len(cells))
    n_rows = math.ceil(len(cells) / columns)
    longest = max(min(len(str(token)), 12) for token in patterns.token.values)
    margin = 20 + 7 * longest
    across, down = columns * (PANEL + margin), n_rows * (PANEL + margin + 45)
    figure = make_subplots(
        n_rows, columns, subplot_titles=cells, horizontal_spacing=(margin + 20) / across,
        vertical_spacing=(margin + 45) / down if n_rows > 1 else 0,
    )  # fmt: skip
    labels = [html.escape(_shown(str(token)), quote=False) for token in patterns.token.values]
    step = max(1, math.ceil(n_pos * 12 / PANEL))
    places = list(range(0, n_pos, step))
    ticks = {"tickvals": places, "ticktext": [labels[i] for i in places], "showgrid": False, "zeroline": False,
             "tickfont": {"size": 10}}  # fmt: skip
    for i, cell in enumerate(cells):
        at = {"row": i // columns + 1, "col": i % columns + 1}
        values = patterns.sel(cell=cell).values
        shown = np.where(np.tri(n_pos, dtype=bool), values.round(3), np.nan)  # nobody looks ahead
        figure.add_heatmap(
            z=shown, colorscale=SHADES, zmin=0, zmax=1, showscale=i == 0, customdata=[labels], hoverongaps=False,
            colorbar={"title": {"text": "attention"}, "thickness": 14, "len": 0.6}, **at,
            hovertemplate=f"{cell}<br>from position %{{y}} to position %{{x}}: %{{z:.2f}}<extra></extra>",
        )  # fmt: skip
        figure.update_xaxes(ticks, tickangle=-90, **at)
        figure.update_yaxes(ticks, autorange="reversed", **at)
    figure = style(figure, title, "rows: the token that looks; columns: what it looks at", down + 70, across + 110, 14)
    return figure.update_annotations(font={"size": 13})


def _shown(token: str) -> str:
    """A token as a label: spaces and line ends made visible, long ones cut."""
    token = token.replace("\n", "\u21b5").strip(" ") or "\u2423"
    return token if len(token) <= 12 else token[:11] + "\u2026"


def measures_against(
    x: xr.DataArray,
    y: xr.DataArray,
    x_title: str,
    y_title: str,
    top_k: int = 8,
    title: str = "Two measures of each head",
) -> go.Figure:
    """One point for each head: a measure across, another upward; the ``top_k`` of either are labelled."""
    a, b = x.transpose("layer", "head").values.ravel(), y.transpose("layer", "head").values.ravel()
    names = [f"L{layer}H{head}" for layer in x.layer.values for head in x["head"].values]
    top = {*np.argsort(-abs(a))[:top_k].tolist(), *np.argsort(-abs(b))[:top_k].tolist()}
    figure = go.Figure(
        go.Scatter(
            x=a.round(4), y=b.round(4), mode="markers+text", text=[n if i in top else "" for i, n in enumerate(names)],
            textposition="top center", textfont={"size": 11}, customdata=names, showlegend=False,
            marker={"size": [9 if i in top else 5 for i in range(len(names))], "color": LINES[0]},
            hovertemplate="%{customdata}<br>%{x:.2f}, %{y:.2f}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title=x_title, gridcolor=PALE, zerolinecolor=GREY)
    figure.update_yaxes(title=y_title, gridcolor=PALE, zerolinecolor=GREY)
    return style(figure, title, f"all {len(names)} heads; labelled: the {top_k} largest of either", 460)
