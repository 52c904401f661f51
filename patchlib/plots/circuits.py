"""Figures of circuits: who writes the answer and where it looks; the heads and paths that a search found."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from patchlib._util import check_choice, check_kind, head_name, listed, shown
from patchlib.circuits.discovery import Discovery, PlacedHead
from patchlib.errors import SweepError
from patchlib.plots.heads import all_heads, head_points
from patchlib.plots.style import GREY, LEGEND, LINES, PALE, RED, SILENT, style
from patchlib.plots.wording import check_array

BLUE = LINES[0]
COLORS = {
    "name mover": LINES[0],
    "subject suppressor": LINES[5],
    "negative name mover": LINES[1],
    "subject mover": "#8B2500",
    "S-inhibition": LINES[2],
    "induction": LINES[4],
    "duplicate token": LINES[3],
    "previous token": "#7F6A00",
}
"""Of the head types that ``discover`` gives, the same in every figure."""
MARKS = ("circle", "square", "diamond", "triangle-up", "pentagon", "hexagon", "star", "cross")
Point = tuple[float, float]


def writers(
    attribution: xr.DataArray,
    attention: xr.DataArray,
    roles: tuple[str, str] = ("IO", "S2"),
    top_k: int = 10,
    title: str = "Who writes the answer, and where it looks",
) -> go.Figure:
    """Each head's direct logit attribution against its attention to two positions (Wang et al. 2022, figure 3c).

    Right of 0 it attends more to the first of ``roles``, left of 0 more to the second.

    Args:
        attribution: From ``direct_logit_attribution``.
        attention: From ``attention_between``, of the same task.
        roles: The two positions that are compared.
        top_k: How many heads are large and named where there is room, those that write most in either direction.
        title: Of the figure.

    Returns:
        A point for each head: the mean over prompts of the attention's difference across, of the attribution upward.

    Raises:
        SweepError: A role that the attention does not have, or a count below 0.

    Example:
        >>> attribution = patchlib.direct_logit_attribution(model, task)
        >>> attention = patchlib.attention_between(model, task, "END")
        >>> figure = patchlib.plots.writers(attribution, attention, top_k=2)
        >>> [name for name in figure.data[0].text if name]
        ['L23H3', 'L29H1']
    """
    check_array(attribution, "direct_logit_attribution", "layer", "head", "example")
    check_array(attention, "attention_between", "layer", "head", "role", "example")
    pair = listed(roles)
    if len(pair) != 2:
        raise SweepError(f"roles must be the two positions that are compared, not {shown(roles)}.")
    for role in pair:
        check_choice("role", role, attention.role.values.tolist())
    across, other = (attention.sel(role=role).mean("example") for role in pair)
    x, y = (across - other).values.ravel(), attribution.mean("example").values.ravel()
    figure = head_points(x, y, all_heads(attribution), top_k, [y], x_range=(-1.05, 1.05))
    figure.update_traces(hovertemplate="%{customdata}<br>attention %{x:.2f}<br>logits %{y:.2f}<extra></extra>")
    figure.update_traces(marker_color=np.where(y > 0, BLUE, RED))
    dest, n = attention.attrs["dest"], attribution.sizes["example"]
    figure.update_xaxes(title=f"attention from {dest}: to {pair[0]} minus to {pair[1]}")
    figure.update_yaxes(title="direct logit attribution, right minus wrong answer")
    return style(figure, title, f"each head's mean over {n} clean prompts; large: the {top_k} that write most", 480)


def circuit_graph(discovery: Discovery, title: str = "The circuit that was found") -> go.Figure:
    """The heads and paths of a search: positions of the sentence across, layers up, the logits on top.

    A coloured line leads from a head to the input (q, k or v) that it was patched at: blue where losing it hurts the
    answer, red where it helps, the thicker the larger a share of its step's largest effect. Grey lines lead on to the
    heads whose input that is.

    Args:
        discovery: From ``discover``.
        title: Of the figure.

    Returns:
        A mark for each head and position, by head type, and a line for each path.

    Example:
        >>> toy = patchlib.toys.induction()
        >>> search = patchlib.discover(toy.model, toy.task, depth=2, progress=False)
        >>> figure = patchlib.plots.circuit_graph(search)
        >>> figure.layout.xaxis.ticktext, [trace.name for trace in figure.data if trace.name]
        (('B', 'D', 'END'), ['unnamed'])
    """
    check_kind("discovery", discovery, Discovery, "give what patchlib.discover returned")
    types = discovery.head_types
    heads = _placed(types)
    columns = [role for role in discovery.positions if any(position == role for *_, position in heads)]
    points = _points(heads, columns)
    top = max((layer for layer, *_ in heads), default=0) + 3
    figure = go.Figure()
    _draw_paths(figure, discovery.steps, points, columns, top)
    for i, (_, of_type) in enumerate(types.groupby("head_type", sort=False)):
        _draw_heads(figure, of_type, points, columns, i)
    if heads:
        figure.add_annotation(x=columns.index("END"), y=top, text="<b>logits</b>", showarrow=False, yshift=10)
    figure.update_xaxes(title="position in the sentence", tickvals=list(range(len(columns))), ticktext=columns)
    figure.update_xaxes(range=[-0.5, len(columns) - 0.3], showgrid=False, zeroline=False)
    lowest = min((layer for layer, *_ in heads), default=0)
    figure.update_yaxes(title="layer", gridcolor=PALE, zeroline=False, range=[max(-1, lowest - 2), top + 1.5])
    n = int(discovery.steps.n.iloc[0]) if len(discovery.steps) else 0
    said = f"path patching backward from the logits, {n} prompt pairs; blue: losing it hurts the answer, red: it helps"
    boxes = "; boxes: the queries, keys or values that were patched, grey lines to the heads that read them"
    has_boxes = bool((discovery.steps.receivers != "logits").any())
    return style(figure, title, said + boxes * has_boxes, 760, above=50).update_layout(legend={**LEGEND, "y": 1.01})


def color_of(head_type: str, i: int) -> str:
    """A head type's own colour, grey without a name, and the i-th one for types of the user's making."""
    return GREY if head_type.startswith("unnamed") else COLORS.get(head_type, LINES[i % len(LINES)])


def _placed(table: pd.DataFrame) -> list[PlacedHead]:
    """Each row's head, with its position."""
    return list(zip(table.layer.astype(int), table.head_index.astype(int), table.position.astype(str), strict=True))


def _points(heads: Sequence[PlacedHead], columns: Sequence[str]) -> dict[PlacedHead, Point]:
    """Left and right of their position in turn, so that lines along a column do not run through its heads."""
    points: dict[PlacedHead, Point] = {}
    for x, column in enumerate(columns):
        for i, head in enumerate(sorted(head for head in heads if head[2] == column)):
            mates = [other for other in heads if other[0] == head[0] and other[2] == column]
            side = float((-1) ** i)
            if len(mates) > 2:  # too many of one layer for two sides: spread them
                side = (mates.index(head) - (len(mates) - 1) / 2) / len(mates) * 4
            points[head] = x + 0.15 * side, head[0]
    return points


def _draw_paths(
    figure: go.Figure, steps: pd.DataFrame, points: dict[PlacedHead, Point], columns: Sequence[str], top: float
) -> None:
    """A coloured line from each sender to what hears it; grey lines on to the heads whose input that is."""
    inputs: list[Point] = []  # where an input's name stands already
    for step, senders in steps.groupby(["receivers", "site", "position"], sort=False):
        receivers, site, position = (str(part) for part in step)
        # Receivers hear together, so the lines of one step meet at the input that was patched.
        meeting: Point = (columns.index("END"), top)
        if receivers != "logits":
            # Attention looks back: a head hears at this position only if it stands there or further on.
            later = columns[columns.index(position) :]
            hearing = [head for head in points if head_name(*head[:2]) in receivers.split(", ") and head[2] in later]
            meeting = columns.index(position) + 0.42, min(layer for layer, *_ in hearing) - 1.0
            while any(abs(meeting[0] - x) < 0.1 and abs(meeting[1] - y) < 1.4 for x, y in inputs):
                meeting = meeting[0], meeting[1] - 0.7
            inputs.append(meeting)
            for head in hearing:
                _draw_line(figure, meeting, points[head], GREY, 1)
            boxed = {"bgcolor": "white", "borderpad": 2, "bordercolor": GREY, "font": {"size": 11}}
            figure.add_annotation(x=meeting[0], y=meeting[1], text=site, showarrow=False, **boxed)
        shares = senders.effect / senders.effect.abs().max()
        for head, share in zip(_placed(senders), shares, strict=True):
            _draw_line(figure, points[head], meeting, BLUE if share > 0 else RED, 1 + 4 * abs(share))


def _draw_line(figure: go.Figure, start: Point, end: Point, color: str, width: float) -> None:
    x, y = zip(start, end, strict=True)
    figure.add_scatter(x=x, y=y, mode="lines", line={"color": color, "width": width}, opacity=0.5, **SILENT)


def _draw_heads(
    figure: go.Figure, table: pd.DataFrame, points: dict[PlacedHead, Point], columns: Sequence[str], i: int
) -> None:
    """The marks of one head type, the i-th."""
    head_type = str(table.head_type.iloc[0])
    heads = _placed(table)
    x, y = zip(*(points[head] for head in heads), strict=True)
    names = [f"{head_name(layer, head)} at {position}" for layer, head, position in heads]
    sides = ["left" if points[head][0] < columns.index(head[2]) else "right" for head in heads]
    figure.add_scatter(x=x, y=y, mode="markers+text", name=head_type, text=[head_name(*head[:2]) for head in heads])
    outline, color = {"width": 1, "color": "white"}, color_of(head_type, i)
    figure.data[-1].update(
        textfont={"size": 11},
        textposition=[f"middle {side}" for side in sides],
        marker={"size": 12, "symbol": MARKS[i % len(MARKS)], "line": outline, "color": color},
        customdata=list(zip(names, table.effect, table.looks_at, table.attention, strict=True)),
        hovertemplate="%{customdata[0]}<br>largest effect %{customdata[1]:.3f}"
        f"<br>attends to %{{customdata[2]}} (%{{customdata[3]:.2f}})<extra>{head_type}</extra>",
    )
