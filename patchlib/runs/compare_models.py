"""Results of several models beside each other: along their depth, since a head of one is no head of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from patchlib.runs import compare_figures
from patchlib.runs.effects import Effects, named

MATRIX = 40
"""Columns of a matrix of rank agreements, beyond which its squares cannot be read."""
TOP = 10
"""Cells of each run that its agreement with another is told of."""
NAMED = 4
"""Models in a sentence; the figure has all of them."""
HALF = 0.5
"""Effect beyond which more than half of what the prompts differ in has come, or has not gone yet."""


def over_models(tables: Mapping[str, pd.DataFrame], example: Effects) -> list[tuple[str, str, go.Figure]]:
    """Title, takeaway and figure of each comparison.

    Args:
        tables: Effect by cell and run of each model.
        example: One of the results, which says what the cells are.
    """
    if not all(map(_has_all_layers, tables.values())):  # where only some were patched, the depth is not known
        return []
    found = [_along_the_depth(tables, example)]
    if len(table := _at_same_depths(tables)) > 2:  # of two there is no order to agree on
        what = f"the {table.index.unique(0).size} layers at the same share of the depth" + (
            ", at each role" * _has_roles(tables)
        )
        found.append(("models, agreement along the depth", *agreement(table, "model", what)))
    return found


def agreement(table: pd.DataFrame, axis: str, what: str) -> tuple[str, go.Figure]:
    """How alike the columns of a table, runs by ``axis`` or models, order its rows, which are ``what``."""
    shown = table.iloc[:, :MATRIX]
    ranks = shown.corr(method="spearman")
    pairs = ranks.to_numpy()[np.triu_indices(len(ranks), 1)]
    pairs = pairs[np.isfinite(pairs)]
    who = "models" if axis == "model" else "runs"
    said = f"How alike two {who} order {what}: a Spearman correlation of "
    said += f"{pairs.mean():.2f}" if len(pairs) else "unknown size"
    said += f" on average, from {pairs.min():.2f} to {pairs.max():.2f}" if len(pairs) > 1 else ""
    if (k := min(TOP, len(table) // 3)) > 1:
        tops = [set(shown[name].abs().nlargest(k).index) for name in shown]
        shared = [len(one & other) for i, one in enumerate(tops) for other in tops[:i]]
        said += f". All cells weigh the same in it, small as they may be; of the {k} largest, {np.mean(shared):.1f}"
        said += " are the same" + " on average" * (len(shared) > 1)
    left_out = table.shape[1] - shown.shape[1]
    said += f"; the first {MATRIX} {who}, {left_out} more are left out." if left_out else "."
    return said, compare_figures.matrix(ranks, axis)


def first_beyond_half(by_layer: pd.Series) -> int | None:
    """The first layer that is on the other side of one half than the layer before it."""
    beyond = by_layer.to_numpy() > HALF
    (changes,) = np.nonzero(beyond[1:] != beyond[:-1])
    return int(by_layer.index[changes[0] + 1]) if len(changes) else None


def _has_all_layers(table: pd.DataFrame) -> bool:
    layers = table.index.unique("layer") if "layer" in table.index.names else []
    return len(layers) > 1 and sorted(layers) == list(range(len(layers)))


def _has_roles(tables: Mapping[str, pd.DataFrame]) -> bool:
    return all("role" in table.index.names for table in tables.values())


def _along_the_depth(tables: Mapping[str, pd.DataFrame], example: Effects) -> tuple[str, str, go.Figure]:
    role = _telling_role(next(iter(tables.values()))) if _has_roles(tables) else None
    profiles, places, said = {}, [], []
    for name, table in zip(compare_figures.short(tables), tables.values(), strict=True):
        shown = table if role is None else table[table.index.get_level_values("role") == role]
        by_layer, means = _by_layer(shown), shown.mean(axis=1)
        at = means.abs().groupby(level="layer").idxmax()  # the cell that a layer's point is named after
        cells = {layer: named(example.cells, at[layer]) for layer in by_layer.index}
        depth = pd.Series(_depth(by_layer), by_layer.index)
        legend = f"{name} ({table.shape[1]} runs)" if table.shape[1] > 1 else name
        profiles[legend] = pd.DataFrame({"depth": depth, "effect": by_layer, "cell": cells})
        layer = first_beyond_half(by_layer) if example.is_stream else by_layer.abs().idxmax()
        if layer is not None:
            places.append(depth[layer])
            said.append(f"{cells[layer]} of {name}" + ("" if example.is_stream else f" ({means[at[layer]]:.2f})"))
    what = f"The effect passes {HALF}" if example.is_stream else "The layer with the largest effect comes"
    where = f"after {min(places):.0%} to {max(places):.0%} of a model's layers" if places else "nowhere"
    takeaway = f"{what} {where}: {', '.join(said[:NAMED])}{' and others' if len(said) > NAMED else ''}."
    title = "models along their depth" + (f", at {role}" if role is not None else "")
    unit = "largest |effect| of a head" if example.has_heads else f"effect ({example.metric})"
    return title, takeaway, compare_figures.depths(profiles, unit)


def _by_layer(table: pd.DataFrame) -> pd.Series:
    """Effect by layer, mean of the runs; of several cells the largest absolute one of each run.

    The largest of the mean would be smaller, the more runs there are: noise cancels out in it.
    """
    several = table.index.get_level_values("layer").has_duplicates
    return (table.abs().groupby(level="layer").max() if several else table.groupby(level="layer").first()).mean(axis=1)


def _depth(by_layer: pd.Series) -> np.ndarray:
    return (by_layer.index.to_numpy() + 1) / (by_layer.index.max() + 1)


def _telling_role(table: pd.DataFrame) -> Any:
    """The role at which the effect changes most from layer to layer."""
    return table.mean(axis=1).groupby(level="role").agg(lambda one: one.max() - one.min()).idxmax()


def _at_same_depths(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """By layer of the shallowest model and role: the effects by layer of all, between their layers where need be."""
    points = min((_depth(_by_layer(table)) for table in tables.values()), key=len)
    columns = {}
    for model, table in tables.items():
        for role, part in table.groupby(level="role") if _has_roles(tables) else [("", table)]:
            by_layer = _by_layer(part)
            columns[model, role] = np.interp(points, _depth(by_layer), by_layer.to_numpy())
    return pd.DataFrame(columns, index=points).stack(level=1, future_stack=True).dropna()
