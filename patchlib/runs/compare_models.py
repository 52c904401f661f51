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
HALF = 0.5
"""Effect beyond which more than half of what the prompts differ in has come, or has not gone yet."""


def over_models(means: Mapping[str, pd.Series], example: Effects) -> list[tuple[str, str, go.Figure]]:
    """Title, takeaway and figure of each comparison.

    Args:
        means: Effect by cell of each model, the mean of its runs.
        example: One of the results, which says what the cells are.
    """
    found = []
    if all(map(_has_all_layers, means.values())):
        found.append(_along_the_depth(means, example))
        if len(table := _at_same_depths(means)) > 2:  # of two there is no order to agree on
            what = "layers at the same share of the depth, by their strongest effect"
            found.append(("models, agreement along the depth", *agreement(table, "model", what)))
    first, *others = means.values()
    if len(first) > 2 and all(set(one.index) == set(first.index) for one in others):
        what = f"the {len(first)} cells, which says something where one was trained from the other"
        found.append(("models, agreement of ranks", *agreement(pd.DataFrame(means), "model", what)))
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
    left_out = table.shape[1] - shown.shape[1]
    said += f"; the first {MATRIX} {who}, {left_out} more are left out." if left_out else "."
    return said, compare_figures.matrix(ranks, axis)


def first_beyond_half(by_layer: pd.Series) -> int | None:
    """The first layer that is on the other side of one half than the layer before it."""
    beyond = by_layer.to_numpy() > HALF
    (changes,) = np.nonzero(beyond[1:] != beyond[:-1])
    return int(by_layer.index[changes[0] + 1]) if len(changes) else None


def _has_all_layers(cells: pd.Series) -> bool:
    """Whether the depth of the model is known: where only some layers were patched it is not."""
    layers = cells.index.unique("layer") if "layer" in cells.index.names else []
    return len(layers) > 1 and sorted(layers) == list(range(len(layers)))


def _along_the_depth(means: Mapping[str, pd.Series], example: Effects) -> tuple[str, str, go.Figure]:
    role = _telling_role(next(iter(means.values())))
    tables, said = {}, []
    for model, cells in means.items():
        shown = _strongest(cells if role is None else cells[cells.index.get_level_values("role") == role])
        by_layer = shown.set_axis(shown.index.get_level_values("layer"))
        names = {layer: named(cells, at) for layer, at in zip(by_layer.index, shown.index, strict=True)}
        depth = _depth(by_layer)
        tables[model] = pd.DataFrame({"depth": depth, "effect": by_layer.to_numpy(), "cell": names.values()})
        layer = first_beyond_half(by_layer) if example.is_stream else by_layer.abs().idxmax()
        if layer is not None:
            size = "" if example.is_stream else f"{by_layer[layer]:.2f}, "
            said.append(f"{names[layer]} of {model} ({size}{dict(zip(by_layer.index, depth, strict=True))[layer]:.0%})")
    how = f"The effect passes {HALF}" if example.is_stream else "The largest mean effect is"
    takeaway = f"{how} at {', '.join(said) or 'no layer'}; the share is that of the model's layers up to there."
    title = "models along their depth" + (f", at {role}" if role is not None else "")
    return title, takeaway, compare_figures.depths(tables, f"effect ({example.metric})")


def _strongest(cells: pd.Series) -> pd.Series:
    """The cell of each layer with the largest absolute effect."""
    known = cells.dropna()
    return known.loc[known.abs().groupby(level="layer").idxmax()].sort_index(level="layer")


def _depth(by_layer: pd.Series) -> np.ndarray:
    return (by_layer.index.to_numpy() + 1) / (by_layer.index.max() + 1)


def _telling_role(cells: pd.Series) -> Any:
    """The role at which the effect changes most from layer to layer; None where there are no roles."""
    if "role" not in cells.index.names:
        return None
    return cells.groupby(level="role").agg(lambda one: one.max() - one.min()).idxmax()


def _at_same_depths(means: Mapping[str, pd.Series]) -> pd.DataFrame:
    """By layer of the shallowest model and role: the strongest effects of all, between their layers where need be."""
    points = min((_depth(_by_layer(cells)) for cells in means.values()), key=len)
    columns = {}
    for model, cells in means.items():
        parts = cells.groupby(level="role") if "role" in cells.index.names else [("", cells)]
        for role, part in parts:
            by_layer = _by_layer(part)
            columns[model, role] = np.interp(points, _depth(by_layer), by_layer.to_numpy())
    return pd.DataFrame(columns, index=points).stack(level=1, future_stack=True).dropna()


def _by_layer(cells: pd.Series) -> pd.Series:
    strongest = _strongest(cells)
    return strongest.set_axis(strongest.index.get_level_values("layer"))
