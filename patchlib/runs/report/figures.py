"""The figures of a report's comparisons, each drawn from a table, in colours that can be told apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito 2008
SHOWN = 30
"""Runs up to which each has a point of its own."""
LONGEST = 24
"""Characters of a name in a figure."""
WRITTEN = 8
"""Columns up to which a matrix has its numbers written in."""


def lines(values: Mapping[str, pd.Series], axis: str, unit: str) -> go.Figure:
    """A line for each series over the runs that index it; where there are many of either, how the runs spread."""
    figure = go.Figure()
    if len(values) > len(LINES) or max(map(len, values.values())) > SHOWN:
        for name, line in zip(short(values), values.values(), strict=True):
            figure.add_box(y=_plain(line), name=name, marker={"color": LINES[0]}, boxpoints="outliers")
        figure.update_yaxes(title=unit, rangemode="tozero")
        return _style(figure, legend=False)
    for colour, (name, line) in zip(LINES, values.items(), strict=False):
        figure.add_scatter(
            x=list(line.index), y=_plain(line), name=name, mode="lines+markers", line={"color": colour, "width": 2},
            hovertemplate=f"{name}<br>{axis} %{{x}}<br>{unit} %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title=axis, type="category")
    figure.update_yaxes(title=unit, rangemode="tozero")  # or a thousandth looks like a trend
    return _style(figure, legend=len(values) > 1)


def bands(values: Mapping[str, pd.DataFrame], unit: str) -> go.Figure:
    """The mean of the columns by layer, and the band that all of them lie in, for each table."""
    figure, spread = go.Figure(), "from %{customdata[0]:.3f} to %{customdata[1]:.3f}"
    for colour, (name, table) in zip(LINES, values.items(), strict=False):
        layers, (low, high) = list(table.index), (_plain(table.min(axis=1)), _plain(table.max(axis=1)))
        around = {"showlegend": False, "hoverinfo": "skip", "legendgroup": name, "mode": "lines", "line": {"width": 0}}
        figure.add_scatter(x=layers, y=low, **around)
        figure.add_scatter(x=layers, y=high, fill="tonexty", fillcolor=_pale(colour), **around)
        figure.add_scatter(
            x=layers, y=_plain(table.mean(axis=1)), name=name, legendgroup=name, mode="lines+markers",
            line={"color": colour, "width": 2}, marker={"size": 4}, customdata=list(zip(low, high, strict=True)),
            hovertemplate=f"L%{{x}} {name}<br>mean %{{y:.3f}}, {spread}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(title="layer")
    figure.update_yaxes(title=unit, rangemode="tozero")
    return _style(figure, legend=len(values) > 1)


def depths(models: Mapping[str, pd.DataFrame], unit: str) -> go.Figure:
    """A line for each model over the share of its layers; tables with depth, effect and the cell's name."""
    figure = go.Figure()
    for number, (model, table) in enumerate(models.items()):
        figure.add_scatter(
            x=_plain(table["depth"]), y=_plain(table["effect"]), text=list(table["cell"]), name=model,
            mode="lines+markers",
            line={"color": LINES[number % len(LINES)], "width": 2, "dash": ("solid", "dot")[number // len(LINES) % 2]},
            marker={"size": 4}, hovertemplate="%{text}: %{y:.3f}<br>depth %{x:.0%}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    figure.update_xaxes(title="share of the model's layers", tickformat=".0%")
    figure.update_yaxes(title=unit, rangemode="tozero")
    below = {"orientation": "v", "y": -0.25, "yanchor": "top"}  # names are long: each has a line of its own
    return _style(figure).update_layout(legend=below, height=340 + 22 * len(models), margin={"t": 20})


def matrix(ranks: pd.DataFrame, axis: str) -> go.Figure:
    """Spearman correlations between the columns of a table."""
    labels = short(map(str, ranks))
    figure = go.Figure(
        go.Heatmap(
            z=[_plain(row) for _, row in ranks.iterrows()], x=labels, y=labels, zmin=-1, zmax=1, colorscale="RdBu",
            colorbar={"title": "Spearman"}, texttemplate="%{z:.2f}" if len(labels) <= WRITTEN else None,
            hovertemplate=f"{axis} %{{x}} and %{{y}}<br>Spearman %{{z:.2f}}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title=axis, type="category")
    figure.update_yaxes(title=axis, type="category", autorange="reversed")
    return _style(figure, legend=False)


def _plain(values: pd.Series) -> list[float | None]:
    """Four digits, which take a quarter of the room in a page; None is a gap."""
    return [round(float(value), 4) if np.isfinite(value) else None for value in values]


def short(names: Iterable[str]) -> list[str]:
    """Names that fit: those of a hub or a path by their last part, unless that is another's too."""
    full = list(names)
    tails = [name.rpartition("/")[2] for name in full]
    tails = [name if len(name) <= LONGEST else f"…{name[-LONGEST:]}" for name in tails]
    return tails if len(set(tails)) == len(full) else full


def _pale(colour: str) -> str:
    return f"rgba({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))}, 0.2)"


def _style(figure: go.Figure, legend: bool = True) -> go.Figure:
    # Not a template: plotly's default one adds 6.5 KB to each figure. Colours come from the page, light or dark.
    where = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    margin = {"l": 60, "r": 20, "t": 60 if legend else 20, "b": 50}
    figure.update_layout(template="none", height=360, margin=margin, legend=where, showlegend=legend)
    figure.update_layout(font={"family": "system-ui, sans-serif", "size": 13})
    return figure.update_xaxes(automargin=True, showgrid=False, zeroline=False).update_yaxes(
        automargin=True, zeroline=True
    )
