"""Figures that hold runs against each other: the top cells over a sweep, the order of all cells, and models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from patchlib.runs.effects import Effects, named

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito 2008
TOP = len(LINES)
"""Cells in a figure: one for each colour that can be told from the others."""
RANKS = 25
"""How far down the order of cells models are compared."""
MATRIX = 40
"""Runs in a matrix of rank agreements, beyond which its squares cannot be read."""
WRITTEN = 8
"""Runs up to which a matrix has its numbers written in."""


@dataclass(frozen=True)
class Comparison:
    """A figure, and what is to be read off it, in words made from its numbers."""

    notebook: str
    title: str
    takeaway: str
    figure: go.Figure


def compare(effects: Sequence[Effects]) -> list[Comparison]:
    """What several runs of a notebook say together, for each of its results with an effect.

    Within one model the same cell is followed from run to run. A head of one model is no head of another, so over
    models only the sorted sizes of the effects are compared. Token positions mean other words in other prompts:
    results over them are left out.
    """
    found = []
    for (notebook, result), group in _grouped(effects, lambda one: (one.run.notebook, one.result)):
        group = [one for one in group if "pos" not in one.cells.index.names and one.cells.notna().any()]
        models = _grouped(group, lambda one: one.model)
        for model, runs in models:
            if len(runs) > 1:
                where = f"{result}, {model or 'no model'}"
                table, axis = _table(runs)
                found += [Comparison(notebook, f"{where}: the largest effects", *_top(table, runs[0], axis))]
                if len(table) > 2:  # of two cells there is no order to agree on
                    found += [Comparison(notebook, f"{where}: agreement of ranks", *_agreement(table, axis))]
        if len(models) > 1:
            found += [Comparison(notebook, f"{result}: models", *_models(models))]
    return found


def varying(parameters: Iterable[dict[str, Any]]) -> list[str]:
    """Names of the parameters that are not the same in all that have them; another notebook has others."""
    table = pd.DataFrame([{name: repr(value) for name, value in one.items()} for one in parameters])
    return [str(name) for name in table if table[name].nunique() > 1]


def _grouped(effects: Iterable[Effects], key: Any) -> list[tuple[Any, list[Effects]]]:
    groups: dict[Any, list[Effects]] = {}
    for one in effects:
        groups.setdefault(key(one), []).append(one)
    return list(groups.items())


def _table(runs: Sequence[Effects]) -> tuple[pd.DataFrame, str]:
    """Effect by cell and run, the runs named by what they differ in and in its order; and what that is."""
    names = varying(dict(one.run.parameters) for one in runs)
    rows = [tuple(one.run.parameters.get(name) for name in names) for one in runs]
    if len(set(map(repr, rows))) < len(rows):  # runs that differ in nothing that they say
        names, rows = ["run"], [(one.run.name,) for one in runs]
    order = sorted(range(len(runs)), key=lambda i: [_sortable(value) for value in rows[i]])
    single = len(names) == 1
    texts = [str(row[0]) if single else ", ".join(map("{}={}".format, names, row)) for row in rows]
    return pd.DataFrame({texts[i]: runs[i].cells for i in order}), names[0] if single else "run"


def _sortable(value: Any) -> tuple[int, Any]:
    return (0, value) if isinstance(value, int | float) else (1, str(value))


def _top(table: pd.DataFrame, example: Effects, axis: str) -> tuple[str, go.Figure]:
    means = table.mean(axis=1)
    top = means.abs().nlargest(TOP).index
    figure = go.Figure()
    for colour, at in zip(LINES, top, strict=False):
        name = named(example.cells, at)
        hover = f"{name}<br>{axis} %{{x}}<br>effect %{{y:.3f}}<extra></extra>"
        values = [round(value, 4) if np.isfinite(value) else None for value in table.loc[at]]
        line = {"color": colour, "width": 2}
        figure.add_scatter(x=list(table), y=values, name=name, mode="lines+markers", line=line, hovertemplate=hover)
    figure.update_xaxes(title=axis, type="category")
    figure.update_yaxes(title=f"effect ({example.metric})", zeroline=True)
    first, values = named(example.cells, top[0]), table.loc[top[0]].dropna()
    takeaway = (
        f"Over {table.shape[1]} runs, {first} has the largest mean effect: {means[top[0]]:.2f}, "
        f"from {values.min():.2f} to {values.max():.2f}."
    )
    return takeaway, _style(figure)


def _agreement(table: pd.DataFrame, axis: str) -> tuple[str, go.Figure]:
    shown = table.iloc[:, :MATRIX]
    ranks = shown.corr(method="spearman").round(3)
    pairs = ranks.to_numpy()[np.triu_indices(len(ranks), 1)]
    pairs = pairs[np.isfinite(pairs)]
    labels = [str(name) for name in ranks]
    cells = [[value if np.isfinite(value) else None for value in row] for row in ranks.to_numpy()]
    figure = go.Figure(
        go.Heatmap(
            z=cells, x=labels, y=labels, zmin=-1, zmax=1, colorscale="RdBu", colorbar={"title": "Spearman"},
            texttemplate="%{z:.2f}" if len(labels) <= WRITTEN else None,
            hovertemplate=f"{axis} %{{x}} and %{{y}}<br>Spearman %{{z:.2f}}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title=axis, type="category")
    figure.update_yaxes(title=axis, type="category", autorange="reversed")
    said = f"How alike two runs order the {len(table)} cells: a Spearman correlation of "
    said += f"{pairs.mean():.2f}" if len(pairs) else "unknown size"
    said += f" on average, from {pairs.min():.2f} to {pairs.max():.2f}" if len(pairs) > 1 else ""
    left_out = table.shape[1] - shown.shape[1]
    said += f"; the first {MATRIX} runs, {left_out} more are left out." if left_out else "."
    return said, _style(figure).update_layout(margin={"t": 20})


def _models(models: Sequence[tuple[str, Sequence[Effects]]]) -> tuple[str, go.Figure]:
    figure, said = go.Figure(), []
    for number, (model, runs) in enumerate(models):
        means = pd.DataFrame(dict(enumerate(one.cells for one in runs))).mean(axis=1).dropna()
        top = means.loc[means.abs().nlargest(RANKS).index]
        names = [named(runs[0].cells, at) for at in top.index]
        figure.add_scatter(
            x=list(range(1, len(top) + 1)), y=[round(value, 4) for value in top.abs()], name=model or "no model",
            text=[f"{name}: {value:.3f}" for name, value in zip(names, top, strict=True)],
            mode="lines+markers", line={"color": LINES[number % len(LINES)], "width": 2},
            hovertemplate="%{text}<br>rank %{x}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
        said.append(f"{names[0]} of {model or 'no model'} ({top.iloc[0]:.2f})")
    figure.update_xaxes(title="rank of the cell")
    figure.update_yaxes(title="absolute effect, mean of the runs", rangemode="tozero")
    return f"The cells with the largest effect are {', '.join(said)}.", _style(figure)


def _style(figure: go.Figure) -> go.Figure:
    legend = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}
    # Not a template: plotly's default one adds 6.5 KB to each figure. Colours come from the page, light or dark.
    figure.update_layout(template="none", height=360, margin={"l": 60, "r": 20, "t": 60, "b": 50}, legend=legend)
    figure.update_layout(font={"family": "system-ui, sans-serif", "size": 13}, showlegend=True)
    return figure.update_xaxes(automargin=True, showgrid=False).update_yaxes(automargin=True, zeroline=False)
