"""What sweeps say in words, made from the data so that it stays true for any model and task."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import xarray as xr

from patchlib import stats
from patchlib._util import cell_name
from patchlib.plots.wording import NO_CONTRAST


def _number(row: pd.Series) -> str:
    interval = "" if pd.isna(row.ci_low) else f" [{row.ci_low:.2f}, {row.ci_high:.2f}]"  # one prompt has none
    return f"{row.effect:.2f}{interval}"


def of_contrast(results: Mapping[str, xr.Dataset]) -> str:
    """Which contrasts can be used, from ``baseline`` or ``sweep`` results by name (their first metric)."""
    sentences = []
    for name, result in results.items():
        row = stats.contrast(result).iloc[0]
        verdict = "a contrast that we can divide by" if row.usable else "no usable contrast"
        sentences.append(f"{name}: {row.clean:.2f} clean, {row.corrupted:.2f} corrupted, {verdict}.")
    return " ".join(sentences)


def of_positions(result: xr.Dataset, metric: str | None = None) -> str:
    """Where the information is, and at which layer the last layer's position first holds more than half of it.

    Args:
        result: From ``sweep`` of a residual stream over ``layer`` and ``role`` or ``pos``.
        metric: Which metric; the result's first when None.
    """
    effect = stats.effect(stats.one_metric(result, metric)).isel(metric=0)
    axis = "role" if "role" in effect.dims else "pos"
    effect = effect.dropna("layer", how="all").dropna(axis, how="all").transpose("layer", axis)
    if not effect.size:
        return NO_CONTRAST
    layers = [int(layer) for layer in effect.layer]
    low, high = layers[0], layers[-1]
    first, last = (effect[axis].values[effect.isel(layer=i).argmax(axis).item()].item() for i in (0, -1))
    at_first, at_last = effect.sel({axis: first}), effect.sel({axis: last})
    elsewhere = effect.isel(layer=0).drop_sel({axis: first})
    whole = at_first[0] > 0.9 and not (abs(elsewhere) > 0.1).any()
    start = f"At layer {low} {'it all sits' if whole else 'the largest effect is'} at {_position(result, axis, first)}"
    start += f" ({float(at_first[0]):.2f})"
    if first == last:
        return f"{start}, as it is at layer {high} ({float(at_last[-1]):.2f})."
    name = _position(result, axis, last)
    arrived = (at_last > 0.5).values
    if not arrived.any():
        return f"{start}; {name}, where it is at layer {high}, never holds more than half ({float(at_last[-1]):.2f})."
    sentence = f"{start}; {name} first holds more than half of it at layer {layers[arrived.argmax()]}"
    kept = (abs(at_first) >= 0.1).values
    if kept.any() and not kept[-1]:
        left = layers[len(kept) - kept[::-1].argmax()]  # the layer after the last one that holds some
        sentence += f", and from layer {left} on {_position(result, axis, first)} holds less than a tenth"
    return sentence + "."


def _position(result: xr.Dataset, axis: str, value: int | str) -> str:
    if axis == "role":
        return str(value)
    label = str(result.pos_label.sel(pos=value).item())
    return f"position {value} ({label})" if label else f"position {value}"


def of_cells(result: xr.Dataset, metric: str | None = None) -> str:
    """The largest effect with its interval, how concentrated the positive ones are, and the most negative one."""
    table = stats.summary_table(result, None, metric).dropna(subset="effect")
    if table.empty:
        return NO_CONTRAST
    top, low = table.loc[table.effect.idxmax()], table.loc[table.effect.idxmin()]
    if top.effect <= 0:
        name = cell_name(low.to_dict())
        return f"No cell has a positive effect; the lowest is that of {name}, {_number(low)}, n = {int(low.n)}."
    positive = table.effect.clip(lower=0).sort_values(ascending=False).cumsum()
    n_half = int((positive < positive.iloc[-1] / 2).sum()) + 1
    sentence = (
        f"Largest effect: {cell_name(top.to_dict())} with {_number(top)}, n = {int(top.n)}; "
        f"{n_half} of {len(table)} cells {'holds' if n_half == 1 else 'hold'} half of all positive effect"
    )
    if low.ci_high < 0:
        sentence += f"; {cell_name(low.to_dict())} pushes the other way, {_number(low)}"
    return sentence + "."


def of_layers(results: Mapping[str, xr.Dataset], metric: str | None = None) -> str:
    """For each line of a layer comparison, the layer where it peaks."""
    sentences = []
    for name, result in results.items():
        table = stats.summary_table(result, None, metric).dropna(subset="effect")
        if table.empty:
            sentences.append(f"{name} has no effect to speak of, as clean and corrupted runs hardly differ")
            continue
        top = table.loc[table.effect.idxmax()]
        sentences.append(f"{name} peaks at layer {int(top.layer)} ({_number(top)})")
    return "; ".join(sentences) + "."
