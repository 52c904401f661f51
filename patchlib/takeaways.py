"""One sentence under each figure, made from the data, so that it stays true for any model and task."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from patchlib import stats

NO_CONTRAST = "Clean and corrupted runs hardly differ, so there is no effect to speak of."


def _number(row: pd.Series) -> str:
    return f"{row.effect:.2f} [{row.ci_low:.2f}, {row.ci_high:.2f}]"


def of_contrast(results: Mapping[str, xr.Dataset]) -> str:
    """Which contrasts can be used, from ``baseline`` or ``sweep`` results by name (their first metric)."""
    sentences = []
    for name, result in results.items():
        row = stats.contrast(result).iloc[0]
        verdict = "a contrast that we can divide by" if row.usable else "no usable contrast"
        sentences.append(f"{name}: {row.clean:.2f} clean, {row.corrupted:.2f} corrupted, {verdict}.")
    return " ".join(sentences)


def of_positions(result: xr.Dataset, metric: str | None = None) -> str:
    """Where the information is, and from which layer on the next position holds more than half of it.

    Args:
        result: From ``sweep`` of a residual stream over ``layer`` and ``role`` or ``pos``.
        metric: Which metric; the result's first when None.
    """
    effect = stats.one_metric(result, metric).effect.isel(metric=0)
    axis = "role" if "role" in effect.dims else "pos"
    if effect.isnull().all():
        return NO_CONTRAST
    names = dict(zip(effect[axis].values, _position_names(result, axis), strict=True))
    first = effect.isel(layer=0).idxmax(axis).item()
    last = effect.isel(layer=-1).idxmax(axis).item()
    start = f"At layer {int(effect.layer[0])} it all sits at {names[first]} ({float(effect.isel(layer=0).max()):.2f})"
    if first == last:
        return f"{start}, and there it stays up to layer {int(effect.layer[-1])}."
    arrived = effect.sel({axis: last}) > 0.5
    if not arrived.any():
        return f"{start}; no other position holds more than half of it up to layer {int(effect.layer[-1])}."
    layer = int(effect.layer[int(arrived.values.argmax())])
    left = effect.sel({axis: first}) < 0.1
    gone = (
        f", and from layer {int(effect.layer[int(left.values.argmax())])} on {names[first]} holds less than a tenth"
        if left.any()
        else ""
    )
    return f"{start}; from layer {layer} on {names[last]} holds more than half of it{gone}."


def _position_names(result: xr.Dataset, axis: str) -> list[str]:
    if axis == "role":
        return [str(role) for role in result.role.values]
    return [f"position {pos} ({label})" if label else f"position {pos}"
            for pos, label in zip(result.pos.values, result.pos_label.values, strict=True)]  # fmt: skip


def of_cells(result: xr.Dataset, metric: str | None = None) -> str:
    """The largest effect with its interval, how concentrated the positive ones are, and the most negative one."""
    table = stats.summary_table(result, None, metric).dropna(subset="effect")
    if table.empty:
        return NO_CONTRAST
    top, low = table.loc[table.effect.idxmax()], table.loc[table.effect.idxmin()]
    positive = table.effect.clip(lower=0).sort_values(ascending=False)
    n_half = int(np.searchsorted(positive.cumsum() / positive.sum(), 0.5)) + 1
    named = {name: stats.cell_name(row.to_dict()) for name, row in (("top", top), ("low", low))}
    sentence = (
        f"Largest effect: {named['top']} with {_number(top)}, n = {int(top.n)}; "
        f"{n_half} of {len(table)} cells hold half of all positive effect"
    )
    if low.ci_high < 0:
        sentence += f"; {named['low']} pushes the other way, {_number(low)}"
    return sentence + "."


def of_layers(results: Mapping[str, xr.Dataset], metric: str | None = None) -> str:
    """For each line of a layer comparison, the layer where it peaks."""
    sentences = []
    for name, result in results.items():
        table = stats.summary_table(result, None, metric).dropna(subset="effect")
        if table.empty:
            return NO_CONTRAST
        top = table.loc[table.effect.idxmax()]
        sentences.append(f"{name} peaks at layer {int(top.layer)} ({_number(top)})")
    return "; ".join(sentences) + "."
