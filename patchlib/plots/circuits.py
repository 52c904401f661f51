"""Figures of circuits: who writes the answer and where it looks; the heads and paths that a search found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from patchlib.circuits.discovery import Discovery, Found
from patchlib.errors import SweepError
from patchlib.plots.sweeps import GREY, LEGEND, LINES, PALE, RED, style
from patchlib.plots.takeaways import METRIC_NAMES

BLUE = LINES[0]
COLORS = {
    "name mover": "#0072B2", "subject suppressor": "#56B4E9", "negative name mover": "#D55E00",
    "subject mover": "#8B2500", "S-inhibition": "#009E73", "induction": "#E69F00", "duplicate token": "#CC79A7",
    "previous token": "#7F6A00",
}  # fmt: skip
"""Of the roles that ``discover`` gives, the same in every figure."""
MARKS = ("circle", "square", "diamond", "triangle-up", "pentagon", "hexagon", "star", "cross")


def writers(
    attribution: xr.DataArray, attention: xr.DataArray, roles: tuple[str, str] = ("IO", "S2"), top_k: int = 10,
    title: str = "Who writes the answer, and where it looks",
) -> go.Figure:  # fmt: skip
    """Each head's direct logit attribution against its attention to two positions (Wang et al. 2022, figure 3c).

    Right of 0 it attends more to the first of ``roles``, left of 0 more to the second.

    Args:
        attribution: From ``direct_logit_attribution``.
        attention: From ``attention_between``, of the same task.
        roles: The two positions that are compared.
        top_k: How many heads are labelled, those that write most in either direction.
        title: Of the figure.

    Raises:
        SweepError: A role that the attention does not have.
    """
    unknown = [role for role in roles if role not in attention.role.values]
    if unknown:
        raise SweepError(f"Unknown role {unknown[0]!r}: the attention has {', '.join(attention.role.values)}.")
    first, second = (attention.sel(role=role).mean("example") for role in roles)
    x, y = (first - second).values.ravel(), attribution.mean("example").values.ravel()
    names = [f"L{layer}H{head}" for layer in attribution.layer.values for head in attribution["head"].values]
    top = set(np.argsort(-abs(y))[:top_k].tolist())
    figure = go.Figure(
        go.Scatter(
            x=x.round(4), y=y.round(4), mode="markers+text", text=[n if i in top else "" for i, n in enumerate(names)],
            textposition=np.where(y > 0, "top center", "bottom center"), textfont={"size": 11}, customdata=names,
            marker={"size": [9 if i in top else 5 for i in range(len(y))], "color": np.where(y > 0, BLUE, RED)},
            hovertemplate="%{customdata}<br>attention %{x:.2f}<br>logits %{y:.2f}<extra></extra>",
        )
    )  # fmt: skip
    query, n = attention.attrs["query"], attribution.sizes["example"]
    figure.update_xaxes(title=f"attention from {query}: to {roles[0]} minus to {roles[1]}", range=[-1.05, 1.05])
    figure.update_yaxes(title="direct logit attribution, right minus wrong answer")
    figure.update_xaxes(gridcolor=PALE, zerolinecolor=GREY).update_yaxes(gridcolor=PALE, zerolinecolor=GREY)
    return style(figure, title, f"each head's mean over {n} clean prompts; labelled: the {top_k} that write most", 480)


def circuit_graph(discovery: Discovery, title: str = "The circuit that was found") -> go.Figure:
    """The heads and paths of a search: positions of the sentence across, layers up, the logits on top.

    A coloured line leads from a head to the input (q, k or v) that it was patched at: blue where losing it hurts the
    answer, red where it helps, the thicker the larger a share of its step's largest effect. Grey lines lead on to the
    heads whose input that is.
    """
    found = discovery.roles
    nodes = list(zip(found.layer.astype(int), found["head"].astype(int), found["at"].astype(str), strict=True))
    columns = [at for at in discovery.positions if any(node[2] == at for node in nodes)]
    place = _places(nodes, columns)
    top = max((layer for layer, *_ in nodes), default=0) + 3
    figure = go.Figure()

    def line(start: tuple[float, float], end: tuple[float, float], color: str, width: float) -> None:
        figure.add_scatter(
            x=[start[0], end[0]], y=[start[1], end[1]], mode="lines", hoverinfo="skip", showlegend=False, opacity=0.5,
            line={"color": color, "width": width},
        )  # fmt: skip

    taken: list[tuple[float, float]] = []
    for (to, site, at), senders in discovery.steps.groupby(["to", "site", "at"], sort=False):
        # Receivers hear together, so the lines of one step meet at the input that was patched.
        meeting = float(columns.index("END")), float(top)
        if to != "logits":
            hear = [one for one in nodes if f"L{one[0]}H{one[1]}" in to.split(", ")]
            hear = [one for one in hear if columns.index(one[2]) >= columns.index(at)]  # attention looks back
            meeting = columns.index(at) + 0.42, min(one[0] for one in hear) - 1.0
            while any(abs(meeting[0] - x) < 0.1 and abs(meeting[1] - y) < 1.4 for x, y in taken):
                meeting = meeting[0], meeting[1] - 0.7
            taken.append(meeting)
            for hearing in hear:
                line(meeting, place[hearing], GREY, 1)
            figure.add_annotation(
                x=meeting[0], y=meeting[1], text=site, showarrow=False, bgcolor="white", borderpad=2, bordercolor=GREY,
                font={"size": 11},
            )  # fmt: skip
        for row in senders.itertuples():
            width = 1 + 4 * abs(row.effect) / senders.effect.abs().max()
            line(place[row.layer, row.head, row.at], meeting, BLUE if row.effect > 0 else RED, width)
    for i, (role, alike) in enumerate(found.groupby("role", sort=False)):
        marks = [place[row.layer, row.head, row.at] for row in alike.itertuples()]
        figure.add_scatter(
            x=[x for x, _ in marks], y=[y for _, y in marks], mode="markers+text", name=str(role),
            text=[f"{row.layer}.{row.head}" for row in alike.itertuples()], textfont={"size": 11},
            textposition=["middle left" if x < columns.index(row.at) else "middle right"
                          for (x, _), row in zip(marks, alike.itertuples(), strict=True)],
            marker={"size": 12, "symbol": MARKS[i % len(MARKS)], "line": {"width": 1, "color": "white"},
                    "color": _color(str(role), i)},
            customdata=[(f"L{row.layer}H{row.head} at {row.at}", row.effect, row.looks_at, row.attention)
                        for row in alike.itertuples()],
            hovertemplate="%{customdata[0]}<br>largest effect %{customdata[1]:.3f}"
                          "<br>attends to %{customdata[2]} (%{customdata[3]:.2f})<extra>" + str(role) + "</extra>",
        )  # fmt: skip
    if nodes:
        figure.add_annotation(x=columns.index("END"), y=top, text="<b>logits</b>", showarrow=False, yshift=10)
    figure.update_xaxes(
        tickvals=list(range(len(columns))), ticktext=columns, range=[-0.5, len(columns) - 0.3], showgrid=False,
        zeroline=False, title="position in the sentence",
    )  # fmt: skip
    figure.update_yaxes(title="layer", gridcolor=PALE, zeroline=False, range=[-1, top + 1.5])
    n = int(discovery.steps.n.iloc[0]) if len(discovery.steps) else 0
    said = f"path patching backward from the logits, {n} prompt pairs; 9.6: layer 9, head 6; blue helps, red hurts"
    figure = style(figure, title, said, 760, above=50)
    return figure.update_layout(legend={"orientation": "h", "y": 1.01, "yanchor": "bottom", "x": 0})


def _places(nodes: Sequence[Found], columns: Sequence[str]) -> dict[Found, tuple[float, float]]:
    """Left and right of their word in turn, so that lines along a column do not run through its heads."""
    place: dict[Found, tuple[float, float]] = {}
    for x, at in enumerate(columns):
        for i, node in enumerate(sorted(node for node in nodes if node[2] == at)):
            mates = [other for other in nodes if other[0] == node[0] and other[2] == at]
            crowded = len(mates) > 2
            side = (mates.index(node) - (len(mates) - 1) / 2) / len(mates) * 4 if crowded else (-1) ** i
            place[node] = x + 0.15 * side, node[0]
    return place


def backup_scatter(table: pd.DataFrame, top_k: int = 6, title: str = "Who steps in") -> go.Figure:
    """Each head's direct logit attribution before and after the knock-out, from ``backup_heads``.

    On the dashed line nothing changed; above it a head writes more of the answer than before.
    """
    top = table.change.abs().nlargest(top_k).index
    names = [f"L{row.layer}H{row.head}" for row in table.itertuples()]
    figure = go.Figure(
        go.Scatter(
            x=table.before.round(4), y=table.after.round(4), mode="markers+text", customdata=names,
            text=[name if i in top else "" for i, name in zip(table.index, names, strict=True)],
            textposition="top center", textfont={"size": 11},
            marker={"size": np.where(table.index.isin(top), 9, 5), "color": np.where(table.change > 0, BLUE, RED)},
            showlegend=False,
            hovertemplate="%{customdata}<br>before %{x:.2f}<br>after %{y:.2f}<extra></extra>",
        )
    )  # fmt: skip
    _diagonal(figure, np.concatenate([table.before, table.after]))
    figure.update_xaxes(title="direct logit attribution before").update_yaxes(title="after the knock-out")
    said = (
        f"knocked out: {table.attrs['knocked_out']}; mean over {table.n.iloc[0]} clean prompts; blue: more than before"
    )
    return style(figure, title, said, 480)


def knock_out_strip(
    table: pd.DataFrame, title: str = "Knocked out, against random heads of the same layers"
) -> go.Figure:
    """What the loss of each set changes, from ``knock_out``: a row for all ``random ...`` sets, one for each other."""
    change = table.drop(index="none")
    chance = change.index.str.startswith("random ")
    figure = go.Figure()
    if chance.any():
        figure.add_scatter(
            x=change.change[chance].round(4), y=[f"{chance.sum()} random sets"] * int(chance.sum()), mode="markers",
            marker={"color": GREY, "size": 8, "opacity": 0.6}, customdata=change["heads"][chance],
            hovertemplate="%{customdata}<br>%{x:.2f}<extra></extra>",
        )  # fmt: skip
    for i, (name, row) in enumerate(change[~chance].iterrows()):
        figure.add_scatter(
            x=[round(row.change, 4)], y=[str(name)], mode="markers", customdata=[row["heads"]],
            error_x={"type": "data", "symmetric": False, "array": [row.ci_high - row.change],
                     "arrayminus": [row.change - row.ci_low]},
            marker={"color": LINES[i % len(LINES)], "size": 11},
            hovertemplate="%{customdata}<br>%{x:.2f}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(showlegend=False)
    metric = METRIC_NAMES.get(table.attrs["metric"], table.attrs["metric"])
    figure.update_xaxes(title=f"change of the {metric}", gridcolor=PALE, zerolinecolor=GREY)
    figure.update_yaxes(gridcolor=PALE, categoryorder="array", categoryarray=[])
    n, whole = table.n.iloc[0], table["mean"]["none"]
    said = f"mean over {n} clean prompts, bars: 95% bootstrap intervals; unablated: {whole:.2f}"
    return style(figure, title, said, 190 + 36 * int((~chance).sum() + chance.any()))


def completeness_scatter(
    table: pd.DataFrame, title: str = "Complete? Circuit and model without the same heads"
) -> go.Figure:
    """F(circuit without K) against F(model without K) for each K of ``completeness`` (Wang et al. 2022, figure 6).

    On the dashed line the two fall alike.
    """
    figure = go.Figure()
    kinds = table.kind.str.replace(r" \d+$", "", regex=True).where(table.kind.str.contains(r" \d+$"), "a role")
    kinds = kinds.where(table.kind != "none", "nothing")
    for i, (kind, rows) in enumerate(table.groupby(kinds, sort=False)):
        grown = kind == "greedy"
        figure.add_scatter(
            x=rows.model.round(4), y=rows.circuit.round(4), mode="lines+markers" if grown else "markers",
            name=f"without {kind}" + (" sets, grown to be worst" if grown else " sets" if kind == "random" else ""),
            marker={"size": 10, "symbol": MARKS[i], "color": LINES[i % len(LINES)]}, line={"width": 1},
            customdata=rows.kind + ": " + rows["heads"].where(rows["heads"] != "", "none"),
            hovertemplate="%{customdata}<br>model %{x:.2f}, circuit %{y:.2f}<extra></extra>",
        )  # fmt: skip
    _diagonal(figure, np.concatenate([table.model, table.circuit]))
    figure.update_xaxes(title="model without the heads").update_yaxes(title="circuit without the heads")
    figure = style(figure, title, table.attrs["protocol"], 480, above=30)
    return figure.update_layout(legend=LEGEND)


def minimality_bar(table: pd.DataFrame, title: str = "Minimal? What each head adds") -> go.Figure:
    """Each head's largest effect on the circuit, from ``minimality`` (Wang et al. 2022, figure 7)."""
    figure = go.Figure()
    for i, (role, rows) in enumerate(table.groupby("role", sort=False)):
        figure.add_bar(
            x=rows["head"], y=rows.share.round(4), name=str(role), marker={"color": _color(str(role), i)},
            customdata=rows.K, hovertemplate="%{x}<br>%{y:.1%} once the circuit lacks %{customdata}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(categoryorder="array", categoryarray=list(table["head"].unique()), tickangle=-45)
    figure.update_yaxes(title="change, as a share of the model's", tickformat=".0%", gridcolor=PALE)
    figure = style(figure, title, table.attrs["protocol"], 460, above=50)
    return figure.update_layout(legend=LEGEND)


def _color(role: str, i: int) -> str:
    """A role's own colour, grey without a name, and the next one for roles of the user's making."""
    return GREY if role.startswith("unnamed") else COLORS.get(role, LINES[i % len(LINES)])


def _diagonal(figure: go.Figure, values: np.ndarray) -> None:
    """Equal axes with a dashed line where both are the same."""
    low, high = float(values.min()), float(values.max())
    ends = [low - 0.08 * (high - low), high + 0.08 * (high - low)]
    line = {"color": GREY, "dash": "dash", "width": 1}
    figure.add_scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip", showlegend=False)
    for axis in (figure.update_xaxes, figure.update_yaxes):
        axis(range=ends, gridcolor=PALE, zerolinecolor=GREY)
