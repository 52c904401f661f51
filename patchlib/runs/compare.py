"""What several runs say together: which of their numbers go beside each other, and what is to be read off them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from patchlib.runs import compare_figures
from patchlib.runs.collect import OK, Run
from patchlib.runs.compare_models import HALF, agreement, first_beyond_half, over_models
from patchlib.runs.effects import Effects, named


@dataclass(frozen=True)
class Comparison:
    """A figure, and what is to be read off it, in words made from its numbers."""

    notebook: str
    title: str
    takeaway: str
    figure: go.Figure


def compare(runs: Sequence[Run], effects: Sequence[Effects]) -> list[Comparison]:
    """What the runs of each notebook say together: its headline numbers, then each of its results with an effect.

    Within one model the same cell is followed from run to run. A head of one model is no head of another: between
    models, layers at the same share of the depth are compared. Token positions mean other words in other prompts:
    results over them are left out. Effects on different metrics, at different sites, in different directions
    or over different axes are never put together.
    """
    found = []
    for notebook, group in _grouped([run for run in runs if run.status == OK], lambda run: run.notebook):
        found += [Comparison(notebook, *one) for one in _headlines(group)]
        own = [one for one in effects if one.run.notebook == notebook and one.cells.notna().any()]
        for result, same in _grouped(own, lambda one: one.result):
            kinds = _grouped(same, lambda one: one.kind)
            for kind, alike in kinds:
                name = ", ".join([result, *(filter(None, kind) if len(kinds) > 1 else ())])
                if "pos" not in alike[0].cells.index.names:
                    found += [Comparison(notebook, f"{name}{title}", *rest) for title, *rest in _of_result(alike)]
    return found


def swept(runs: Sequence[Run]) -> list[str]:
    """Names of the parameters in which runs of one notebook differ; another may just have other defaults."""
    groups = _grouped(runs, lambda run: run.notebook)
    return list(dict.fromkeys(name for _, group in groups for name in _varying(group)))


def _varying(runs: Iterable[Run]) -> list[str]:
    table = pd.DataFrame([{name: repr(value) for name, value in run.parameters.items()} for run in runs])
    return [str(name) for name in table if table[name].nunique() > 1]


def _grouped(items: Iterable[Any], key: Any) -> list[tuple[Any, list[Any]]]:
    groups: dict[Any, list[Any]] = {}
    for one in items:
        groups.setdefault(key(one), []).append(one)
    return list(groups.items())


def _ordered(runs: Sequence[Run]) -> tuple[list[int], list[str], str]:
    """The runs in the order of what they differ in, their names by it, and what it is."""
    names = _varying(runs)
    rows = [tuple(run.parameters.get(name) for name in names) for run in runs]
    order = sorted(range(len(runs)), key=lambda i: [_sortable(value) for value in rows[i]])
    single = len(names) == 1
    texts = [str(row[0]) if single else ", ".join(map("{}={}".format, names, row)) for row in rows]
    if len(set(texts)) < len(texts):  # runs that differ in nothing that they say
        texts, single = [run.name for run in runs], False
    return order, [texts[i] for i in order], names[0] if single else "run"


def _sortable(value: Any) -> tuple[int, Any]:
    return (0, value) if isinstance(value, int | float) else (1, str(value))


def _headlines(runs: Sequence[Run]) -> list[tuple[str, str, go.Figure]]:
    """A figure for each number that the notebook calls its headline, where several runs have it."""
    found = []
    for name in dict.fromkeys(name for run in runs for name in run.headline):
        having = [run for run in runs if np.isfinite(run.headline.get(name, np.nan))]
        if len(having) > 1:
            values = pd.Series([run.headline[name] for run in having])
            by_model, axis = {}, "run"
            for model, group in _grouped(having, lambda run: run.model):
                order, texts, axis = _ordered(group)
                by_model[model] = pd.Series([group[i].headline[name] for i in order], texts)
            who = f"{len(values)} runs" + (f" of {len(by_model)} models" if len(by_model) > 1 else "")
            mean = f"mean {values.mean():.2f}, " if len(by_model) == 1 else ""  # of one model's runs only
            said = f"Over {who}: {mean}from {values.min():.2f} to {values.max():.2f}."
            found.append((name, said, compare_figures.lines(by_model, axis, name)))
    return found


def _of_result(effects: Sequence[Effects]) -> list[tuple[str, str, go.Figure]]:
    """Title, takeaway and figure of each comparison of one result: within each model, and between models."""
    found, tables = [], {}
    for model, group in _grouped(effects, lambda one: one.run.model):
        order, texts, axis = _ordered([one.run for one in group])
        table = pd.DataFrame({text: group[i].cells for i, text in zip(order, texts, strict=True)})
        cells = len(table)
        table = table.dropna()  # a notebook may choose its layers by what it finds
        tables[model] = table
        if len(group) > 1 and len(table):
            heads = group[0].has_heads or "layer" not in table.index.names
            drawn = _top(table, group[0], axis) if heads else _by_layer(table, group[0])
            found.append((f", {model}: {'the largest effects' if heads else 'effect by layer'}", *drawn))
            what = f"the {len(table)} cells" + (f" of {cells} that all of them have" if len(table) < cells else "")
            if len(table) > 2:  # of two cells there is no order to agree on
                found.append((f", {model}: agreement of ranks", *agreement(table, axis, what)))
    if len(tables) > 1:
        found = [(f": {title}", *rest) for title, *rest in over_models(tables, effects[0])] + found
    return found


def _top(table: pd.DataFrame, example: Effects, axis: str) -> tuple[str, go.Figure]:
    """The cells with the largest mean effects, from run to run."""
    top = table.mean(axis=1).abs().nlargest(len(compare_figures.LINES)).index
    lines = {named(example.cells, at): table.loc[at] for at in top}
    return _largest(table, example), compare_figures.lines(lines, axis, f"effect ({example.metric})")


def _by_layer(table: pd.DataFrame, example: Effects) -> tuple[str, go.Figure]:
    """Mean and range over the runs along the layers, at each role; those that change most where there are many."""
    roles = table.index.unique("role") if "role" in table.index.names else []
    parts = {str(role): table.xs(role, level="role") for role in roles} or {"": table}
    change = pd.Series({name: np.ptp(part.mean(axis=1)) for name, part in parts.items()})
    shown = change.nlargest(len(compare_figures.LINES)).index
    figure = compare_figures.bands({name: parts[name] for name in parts if name in shown}, f"effect ({example.metric})")
    passed = []
    for name, part in parts.items():
        layers = sorted({layer for run in part if (layer := first_beyond_half(part[run])) is not None})
        where = f"L{layers[0]}" + (f" to L{layers[-1]}" if len(layers) > 1 else "") if layers else ""
        passed += [f"{name or 'everywhere'} at {where}"] if layers else []
    if not (example.is_stream and passed):
        return _largest(table, example), figure
    return f"The effect passes {HALF} for {', for '.join(passed)}; {table.shape[1]} runs.", figure


def _largest(table: pd.DataFrame, example: Effects) -> str:
    means = table.mean(axis=1)
    at = means.abs().idxmax()
    values = table.loc[at]
    return (
        f"Over {table.shape[1]} runs, {named(example.cells, at)} has the largest mean effect: {means[at]:.2f}, "
        f"from {values.min():.2f} to {values.max():.2f}."
    )
