"""Figures of induction: loss along a row, scores of heads, where heads look, one measure against another."""

import html
import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from patchlib._util import Head, check_count, check_kind, check_text, head_name
from patchlib.errors import SweepError
from patchlib.plots.names import axis_range, place_names
from patchlib.plots.style import AXIS, GREY, LINES, PALE, add_band, layer_step, style
from patchlib.plots.wording import check_array
from patchlib.stats import mean_interval

SHADED = {"zmin": 0, "zmax": 1, "colorscale": [[0, "#ffffff"], [0.5, "#6baed6"], [1, "#08306b"]]}
PANEL = 380
"""Pixels of one attention pattern, which hold the labels of about 30 tokens."""


def loss_by_position(losses: xr.DataArray, copy: int | None = None, title: str = "Loss at each position") -> go.Figure:
    """Mean loss over rows at each position, with its 95% interval (``stats.mean_interval``), cut off at 0.

    Args:
        losses: From ``token_losses``.
        copy: The position of the second copy's first token, for a line there; none when None.
        title: Of the figure.

    Returns:
        Position across, loss in nats upward.

    Example:
        >>> rows = patchlib.repeated_tokens(model, n_rows=2, seq_len=10)
        >>> figure = patchlib.plots.loss_by_position(patchlib.token_losses(model, rows), copy=11)
        >>> figure.layout.shapes[0].x0  # the line where the row begins again
        11
    """
    check_array(losses, "token_losses", "example", "pos")
    if copy is not None:
        check_count("copy", copy, least=0, most=losses.sizes["pos"] - 1)
    inside, n = losses.isel(pos=slice(1, None)), losses.sizes["example"]
    mean = inside.mean("example").to_series()
    ends = mean_interval(inside.transpose("pos", "example").values)
    low, high = (mean.where(np.isnan(end), end) for end in ends)  # a single row has none
    figure = go.Figure()
    add_band(figure, low.clip(lower=0), high, LINES[0], 0.2)  # no loss is below 0
    look = {"mode": "lines+markers", "line": {"color": LINES[0]}, "marker": {"size": 4}}
    hover = {"hovertemplate": "position %{x}<br>%{y:.2f} nats<extra></extra>", "showlegend": False}
    figure.add_scatter(x=mean.index, y=mean.round(3), **look, **hover)
    if copy is not None:
        figure.add_vline(x=copy, line={"color": GREY, "dash": "dash"})
        at_top = {"y": 1, "yref": "paper", "xanchor": "left", "xshift": 6}
        figure.add_annotation(x=copy, text="it begins again", showarrow=False, **at_top)
    figure.update_xaxes(title="position of the token that is predicted", gridcolor=PALE, zeroline=False)
    figure.update_yaxes(AXIS, title="loss (nats)", rangemode="tozero")
    return style(figure, title, f"mean of {n} rows, {losses.attrs['task']}; band: 95% interval of the mean", 420)


def score_map(score: xr.DataArray, title: str, what: str = "score") -> go.Figure:
    """A score between 0 and 1 of every head.

    Args:
        score: Over layer and head, such as ``detector_scores(model).induction``.
        title: Of the figure.
        what: The score's name, for the colour bar.

    Returns:
        Heads across, layers upward.

    Example:
        >>> scores = patchlib.detector_scores(model, n_rows=2)
        >>> patchlib.plots.score_map(scores.induction, "Induction heads").data[0].z.shape
        (30, 9)
    """
    check_array(score, "detector_scores", "layer", "head")
    check_text("what", what)
    score = score.transpose("layer", "head")
    names = [f"H{head}" for head in score["head"].values]
    figure = go.Figure(go.Heatmap(z=score.values.round(4), x=names, y=score.layer.values, xgap=1, ygap=1))
    figure.update_traces(SHADED, colorbar={"title": {"text": what}, "thickness": 16})
    figure.update_traces(hovertemplate=f"L%{{y}}%{{x}}<br>{what} %{{z:.2f}}<extra></extra>")
    figure.update_yaxes(title="layer", dtick=layer_step(score.sizes["layer"])).update_xaxes(title="head", dtick=1)
    said = ", ".join(f"{name} {value}" for name, value in score.attrs.items()) or "every head"
    return style(figure, title, said, 160 + 14 * score.sizes["layer"] + 60, 560)


def attention(patterns: xr.DataArray, title: str = "Where heads look", columns: int = 2) -> go.Figure:
    """One panel for each head of ``attention_patterns``: from which token (down) to which token (across).

    Tokens are labels of both axes; of long prompts every second, third, ... is labelled so that none overlap.

    Args:
        patterns: From ``attention_patterns``.
        title: Of the figure.
        columns: How many panels stand side by side.

    Returns:
        A panel for each head; attention from 0, white, to 1, dark.

    Raises:
        SweepError: Nothing to show, or a count below 1.

    Example:
        >>> patterns = patchlib.attention_patterns(model, "one two three one two", [(16, 0), (17, 4)])
        >>> figure = patchlib.plots.attention(patterns)
        >>> [note.text for note in figure.layout.annotations]
        ['L16H0', 'L17H4']
    """
    check_kind("patterns", patterns, xr.DataArray, "give what patchlib.attention_patterns returned")
    if not patterns.size:
        raise SweepError("There is no pattern to draw: attention_patterns gives them for the heads that you name.")
    check_array(patterns, "attention_patterns", "cell", "dest", "src")
    n_pos, cells = patterns.sizes["src"], [str(cell) for cell in patterns.cell.values]
    columns = min(check_count("columns", columns), len(cells))
    n_rows = math.ceil(len(cells) / columns)
    margin = 20 + 7 * max(min(len(str(token)), 12) for token in patterns.token.values)  # pixels of the longest label
    width, height = columns * (PANEL + margin), n_rows * (PANEL + margin + 45)
    gaps = {"horizontal_spacing": (margin + 20) / width, "vertical_spacing": (margin + 45) / height}
    figure = make_subplots(n_rows, columns, subplot_titles=cells, **gaps)
    labels = [html.escape(_shown(str(token)), quote=False) for token in patterns.token.values]
    labelled = list(range(0, n_pos, max(1, math.ceil(n_pos * 12 / PANEL))))
    ticks = {"tickvals": labelled, "ticktext": [labels[i] for i in labelled], "showgrid": False, "zeroline": False}
    ticks |= {"tickfont": {"size": 10}}
    for i, cell in enumerate(cells):
        panel = {"row": i // columns + 1, "col": i % columns + 1}
        values = patterns.sel(cell=cell).values.round(3)
        lower = np.where(np.tri(n_pos, dtype=bool), values, np.nan)  # nobody looks ahead
        hover = f"{cell}<br>from position %{{y}} to position %{{x}}: %{{z:.2f}}<extra></extra>"
        figure.add_heatmap(z=lower, customdata=[labels], hoverongaps=False, hovertemplate=hover, **panel)
        figure.update_xaxes(ticks, tickangle=-90, **panel)
        figure.update_yaxes(ticks, autorange="reversed", **panel)
    figure.update_traces(SHADED, showscale=False)
    figure.data[0].update(showscale=True, colorbar={"title": {"text": "attention"}, "thickness": 14, "len": 0.6})
    said = "rows: the token that looks; columns: what it looks at"
    return style(figure, title, said, height + 70, width + 110, 14).update_annotations(font={"size": 13})


def _shown(token: str) -> str:
    """A token as a label: spaces and line ends made visible, long ones cut."""
    token = token.replace("\n", "\u21b5").strip(" ") or "\u2423"
    return token if len(token) <= 12 else token[:11] + "\u2026"


def all_heads(measure: xr.DataArray) -> Iterable[Head]:
    """The (layer, head) of each value of a measure over both, in their order."""
    return itertools.product(measure.layer.values, measure["head"].values)


def head_points(
    x: np.ndarray,
    y: np.ndarray,
    layer_heads: Iterable[Head],
    top_k: int,
    strengths: Sequence[np.ndarray],
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> go.Figure:
    """A point for each head; the ``top_k`` largest in one of the strengths are large, and named where there is room."""
    check_count("top_k", top_k, least=0)
    names = [head_name(*head) for head in layer_heads]
    top = [np.argsort(-abs(strength), kind="stable")[:top_k] for strength in strengths]
    is_top = np.isin(np.arange(len(x)), top)
    figure = go.Figure(go.Scatter(x=np.round(x, 4), y=np.round(y, 4), mode="markers+text", customdata=names))
    figure.update_traces(marker={"size": np.where(is_top, 9, 5)}, showlegend=False, textfont={"size": 11})
    ends = x_range or axis_range(x), y_range or axis_range(y)
    by_size = list(dict.fromkeys(int(i) for ranked in zip(*top, strict=True) for i in ranked))
    placed = place_names(x[by_size], y[by_size], [names[i] for i in by_size], ends, (700.0, 320.0))
    sides = {by_size[k]: side for k, side in placed.items()}
    figure.update_traces(
        text=[name if i in sides else "" for i, name in enumerate(names)],
        textposition=[sides.get(i, "top center") for i in range(len(names))],
    )
    return figure.update_xaxes(AXIS, range=ends[0]).update_yaxes(AXIS, range=ends[1])


def measures_against(
    x: xr.DataArray,
    y: xr.DataArray,
    x_title: str,
    y_title: str,
    top_k: int = 8,
    title: str = "Two measures of each head",
) -> go.Figure:
    """One measure of each head against another.

    Args:
        x, y: Over layer and head: the measure across, and the one upward.
        x_title, y_title: What they are.
        top_k: How many heads are large and named where there is room, the largest of either measure; 0 for none.
        title: Of the figure.

    Returns:
        A point for each head.

    Raises:
        SweepError: A count below 0.

    Example:
        >>> scores = patchlib.detector_scores(model, n_rows=2)
        >>> figure = patchlib.plots.measures_against(scores.induction, scores.duplicate_token, "induction", "duplicate")
        >>> len(figure.data[0].x)  # 30 layers of 9 heads
        270
    """
    for measure in (x, y):
        check_array(measure, "detector_scores", "layer", "head")
    for axis_title in (x_title, y_title):
        check_text("A title", axis_title)
    a, b = (measure.transpose("layer", "head").values.ravel() for measure in (x, y))
    figure = head_points(a, b, all_heads(x), top_k, [a, b])
    figure.update_traces(marker_color=LINES[0], hovertemplate="%{customdata}<br>%{x:.2f}, %{y:.2f}<extra></extra>")
    figure.update_xaxes(title=x_title).update_yaxes(title=y_title)
    return style(figure, title, f"all {len(a)} heads; large: the {top_k} largest of either", 460)
