"""Many runs beside each other: figures of tables with a column for each run, and the sentence under each.

The tables are those of ``patchlib.runs.report.effects.compared``: effect by cell (index) and run (columns), of one
model, on one metric, at one site. Figures have no colours of text and ground of their own: a page gives them its own.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from patchlib._util import cell_name
from patchlib.plots.style import LEGEND, LINES, add_band

POINTS = 30
"""Runs up to which each has a point of its own."""
SQUARES = 40
"""Columns of a matrix of rank agreements, beyond which its squares cannot be read."""
TOP = 10
"""Cells of each run that its agreement with another is told of."""
HALF = 0.5
"""Effect beyond which more than half of what the prompts differ in has come, or has not gone yet."""


def headline(numbers: Mapping[str, pd.Series], name: str) -> go.Figure:
    """One number of many runs, in the order of what they differ in.

    Args:
        numbers: Model -> the number by run.
        name: What it is.

    Returns:
        A line for each model; a box for each where the models or the runs are many.
    """
    figure = go.Figure()
    if len(numbers) > len(LINES) or max(map(len, numbers.values())) > POINTS:
        for model, series in numbers.items():
            figure.add_box(y=_plain(series), name=short_name(model), marker={"color": LINES[0]}, boxpoints="outliers")
        return _framed(figure, name, legend=False)
    for colour, (model, series) in zip(LINES, numbers.items(), strict=False):
        hover = "%{fullData.name}<br>%{x}<br>%{y:.3f}<extra></extra>"
        _add_line(figure, short_name(model), series, {"color": colour}, hover)
    figure.update_xaxes(type="category")
    return _framed(figure, name, len(numbers) > 1)


def top_cells(table: pd.DataFrame, metric: str) -> go.Figure:
    """The cells with the largest mean effect, from run to run.

    Args:
        table: Effect by cell and run.
        metric: That it is on.
    """
    top = table.mean(axis=1).abs().nlargest(len(LINES)).index
    return headline({named(table, cell): table.loc[cell] for cell in top}, f"effect ({metric})")


def effect_by_layer(table: pd.DataFrame, metric: str) -> go.Figure:
    """Mean over the runs along the layers, and the band that all runs lie in, at each role.

    Args:
        table: Effect by layer, or layer and role, and run; of many roles those that change most are drawn.
        metric: That it is on.
    """
    parts = by_role(table)
    change = pd.Series({role: np.ptp(part.mean(axis=1)) for role, part in parts.items()})
    shown = change.nlargest(len(LINES)).index
    figure, spread = go.Figure(), "from %{customdata[0]:.3f} to %{customdata[1]:.3f}"
    for colour, role in zip(LINES, [role for role in parts if role in shown], strict=False):
        part = parts[role]
        add_band(figure, part.min(axis=1), part.max(axis=1), colour, 0.2, role)
        hover = f"L%{{x}} {role}<br>mean %{{y:.3f}}, {spread}<extra></extra>"
        ends = part.agg(["min", "max"], axis=1).round(4)
        more = {"customdata": ends, "legendgroup": role, "marker": {"size": 4}}
        _add_line(figure, role, part.mean(axis=1), {"color": colour}, hover, **more)
    figure.update_xaxes(title="layer")
    return _framed(figure, f"effect ({metric})", len(parts) > 1)


def along_the_depth(tables: Mapping[str, pd.DataFrame], metric: str) -> go.Figure:
    """A line for each model over the share of its layers, the mean of its runs; of several cells the largest.

    Args:
        tables: Model -> effect by cell and run, of all layers; at the role where the first model's changes most.
        metric: That it is on.
    """
    figure, hover = go.Figure(), "%{text}: %{y:.3f}<br>depth %{x:.0%}<extra>%{fullData.name}</extra>"
    for number, (model, table) in enumerate(at_telling_role(tables).items()):
        effects = layer_means(table)
        name = f"{short_name(model)} ({table.shape[1]} runs)"
        look = {"color": LINES[number % len(LINES)], "dash": ("solid", "dot")[number // len(LINES) % 2]}
        by_depth = effects.set_axis(depth(effects).round(4))
        _add_line(figure, name, by_depth, look, hover, text=list(largest_by_layer(table)), marker={"size": 4})
    figure.update_xaxes(title="share of the model's layers", tickformat=".0%")
    several = any(table.index.get_level_values("layer").has_duplicates for table in tables.values())
    _framed(figure, "largest |effect| in a layer" if several else f"effect ({metric})")
    below = {"orientation": "v", "y": -0.25, "yanchor": "top"}  # names are long: each has a line of its own
    return figure.update_layout(legend=below, height=340 + 22 * len(tables), margin={"t": 20})


def rank_agreement(table: pd.DataFrame) -> go.Figure:
    """Spearman correlations between the columns of a table: runs, or models at the same depths.

    Args:
        table: Effect by cell; of very many columns the first are drawn.
    """
    ranks = table.iloc[:, :SQUARES].corr(method="spearman")
    scale = {"zmin": -1, "zmax": 1, "colorscale": "RdBu", "colorbar": {"title": "Spearman"}}
    text = {"hovertemplate": "%{x} and %{y}<br>Spearman %{z:.2f}<extra></extra>"}
    if len(ranks) <= 8:
        text["texttemplate"] = "%{z:.2f}"
    squares = [_plain(row) for _, row in ranks.iterrows()]
    figure = go.Figure(go.Heatmap(z=squares, x=list(ranks), y=list(ranks), **scale, **text))
    figure.update_xaxes(type="category")
    figure.update_yaxes(type="category", autorange="reversed")
    return _framed(figure, "", legend=False)


def say_headline(numbers: Mapping[str, pd.Series]) -> str:
    """What the runs' numbers are: a mean only of one model's."""
    values = pd.concat(list(numbers.values()))
    who = f"{len(values)} runs" + (f" of {len(numbers)} models" if len(numbers) > 1 else "")
    mean = f"mean {values.mean():.2f}, " if len(numbers) == 1 else ""
    return f"Over {who}: {mean}from {values.min():.2f} to {values.max():.2f}."


def say_largest(table: pd.DataFrame) -> str:
    """The cell with the largest mean effect, and what the runs make of it."""
    means = table.mean(axis=1)
    cell: Any = means.abs().idxmax()
    values = table.loc[cell]
    return (
        f"Over {table.shape[1]} runs, {named(table, cell)} has the largest mean effect: {means[cell]:.2f}, "
        f"from {values.min():.2f} to {values.max():.2f}."
    )


def say_layers(table: pd.DataFrame) -> str:
    """Where the effect of the residual stream passes one half; elsewhere, or nowhere, what is largest."""
    passed = []
    for role, part in by_role(table).items():
        layers = sorted({layer for run in part if (layer := first_beyond_half(part[run])) is not None})
        if layers:
            where = f"L{layers[0]}" + (f" to L{layers[-1]}" if len(layers) > 1 else "")
            passed.append(f"{role or 'everywhere'} at {where}")
    if not passed:
        return say_largest(table)
    return f"The effect passes {HALF} for {', for '.join(passed)}; {table.shape[1]} runs."


def say_depth(tables: Mapping[str, pd.DataFrame], is_stream: bool) -> str:
    """After what share of its layers each model's effect comes."""
    places, said = [], []
    for model, table in at_telling_role(tables).items():
        effects = layer_means(table)
        layer: Any = first_beyond_half(effects) if is_stream else effects.abs().idxmax()
        if layer is not None:
            places.append(depth(effects)[layer])
            size = "" if is_stream else f" ({effects[layer]:.2f})"
            said.append(f"{largest_by_layer(table)[layer]} of {short_name(model)}{size}")
    what = f"The effect passes {HALF}" if is_stream else "The layer with the largest effect comes"
    where = f"after {min(places):.0%} to {max(places):.0%} of a model's layers" if places else "nowhere"
    return f"{what} {where}: {', '.join(said[:4])}{' and others' if len(said) > 4 else ''}."


def say_agreement(table: pd.DataFrame, columns: str = "runs", rows: str = "cells", left_out: int = 0) -> str:
    """How alike the columns of a table, runs or models, order its rows."""
    shown = table.iloc[:, :SQUARES]
    pairs = shown.corr(method="spearman").to_numpy()[np.triu_indices(shown.shape[1], 1)]
    pairs = pairs[np.isfinite(pairs)]
    of_all = f" of {len(table) + left_out} that all of them have" if left_out else ""
    said = f"How alike two {columns} order the {len(table)} {rows}{of_all}: a Spearman correlation of "
    said += f"{pairs.mean():.2f}" if len(pairs) else "unknown size"
    said += f" on average, from {pairs.min():.2f} to {pairs.max():.2f}" if len(pairs) > 1 else ""
    if (k := min(TOP, len(table) // 3)) > 1:
        tops = [set(shown[name].abs().nlargest(k).index) for name in shown]
        shared = [len(top & other) for i, top in enumerate(tops) for other in tops[:i]]
        said += f". All cells weigh the same in it, small as they may be; of the {k} largest, {np.mean(shared):.1f}"
        said += " are the same" + " on average" * (len(shared) > 1)
    return f"{said}; the first {SQUARES} only." if shown.shape[1] < table.shape[1] else f"{said}."


def has_all_layers(table: pd.DataFrame) -> bool:
    """Whether layers go from 0 without a gap: where only some were patched, the depth is not known."""
    layers = sorted(table.index.unique("layer")) if "layer" in table.index.names else list[int]()
    return len(layers) > 1 and layers == list(range(len(layers)))


def at_same_depths(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """By layer of the shallowest model, and role: the effects by layer of all, between their layers where need be."""
    points = min((depth(layer_means(table)) for table in tables.values()), key=len)
    columns = {}
    for model, table in tables.items():
        for role, part in by_role(table).items() if _have_roles(tables) else [("", table)]:
            effects = layer_means(part)
            columns[short_name(model), role] = np.interp(points, depth(effects), effects)
    return pd.DataFrame(pd.DataFrame(columns, index=list(points)).stack(level=1, future_stack=True)).dropna()


def named(table: pd.DataFrame | pd.Series, cell: Any) -> str:
    """The name of a cell, given by its place in the index."""
    row = dict(zip(map(str, table.index.names), cell if isinstance(cell, tuple) else (cell,), strict=True))
    return cell_name(row) if "layer" in row else ", ".join(f"{axis} {value}" for axis, value in row.items())


def by_role(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The table at each role; the whole under an empty name where it has none."""
    if "role" not in table.index.names:
        return {"": table}
    return {str(role): part.droplevel("role") for role, part in table.groupby(level="role", sort=False)}


def at_telling_role(tables: Mapping[str, pd.DataFrame]) -> Mapping[str, pd.DataFrame]:
    """The tables at the role where the effect of the first model changes most from layer to layer."""
    if not _have_roles(tables):
        return tables
    change = next(iter(tables.values())).mean(axis=1).groupby(level="role").agg(np.ptp)
    return {model: table[table.index.get_level_values("role") == change.idxmax()] for model, table in tables.items()}


def layer_means(table: pd.DataFrame) -> pd.Series:
    """Effect by layer, mean of the runs; of several cells the largest absolute one of each run.

    The largest of the mean would be smaller, the more runs there are: noise cancels out in it.
    """
    layers = table.groupby(level="layer")
    several = table.index.get_level_values("layer").has_duplicates
    return (table.abs().groupby(level="layer").max() if several else layers.first()).mean(axis=1)


def largest_by_layer(table: pd.DataFrame) -> pd.Series:
    """The name of the cell that a layer's point stands for."""
    return table.mean(axis=1).abs().groupby(level="layer").idxmax().map(lambda cell: named(table, cell))


def depth(by_layer: pd.Series) -> pd.Series:
    """The share of the model's layers that lies at or before each."""
    return pd.Series((by_layer.index + 1) / (by_layer.index.max() + 1), by_layer.index)


def first_beyond_half(by_layer: pd.Series) -> int | None:
    """The first layer that is on the other side of one half than the layer before it."""
    beyond = by_layer.to_numpy() > HALF
    (changes,) = np.nonzero(beyond[1:] != beyond[:-1])
    return int(by_layer.index[changes[0] + 1]) if len(changes) else None


def short_name(model: str) -> str:
    """A model's name without its hub's owner or its folder."""
    return model.rpartition("/")[2]


def _have_roles(tables: Mapping[str, pd.DataFrame]) -> bool:
    return all("role" in table.index.names for table in tables.values())


def _add_line(figure: go.Figure, name: str, values: pd.Series, look: dict[str, Any], hover: str, **more: Any) -> None:
    """A line with points over what indexes the values."""
    line = {"mode": "lines+markers", "line": {"width": 2, **look}, "name": name, "hovertemplate": hover}
    figure.add_scatter(x=list(values.index), y=_plain(values), **line, **more)


def _plain(values: Iterable[float] | Sequence[float]) -> list[float | None]:
    """Four digits, which take a quarter of the room in a page; None is a gap."""
    return [round(float(value), 4) if np.isfinite(value) else None for value in values]


def _framed(figure: go.Figure, unit: str, legend: bool = True) -> go.Figure:
    # Not a template: plotly's default one adds 6.5 KB to each figure.
    margin = {"l": 60, "r": 20, "t": 60 if legend else 20, "b": 50}
    figure.update_layout(template="none", height=360, margin=margin, legend=LEGEND, showlegend=legend)
    figure.update_xaxes(automargin=True, showgrid=False, zeroline=False)
    return figure.update_yaxes(title=unit, automargin=True, rangemode="tozero")  # or a thousandth looks like a trend
