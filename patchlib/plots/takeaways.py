"""What figures say in words, made from the data so that it stays true for any model and task.

``of_contrast``, ``of_positions``, ``of_cells`` and ``of_layers`` give the sentence under a figure; the rest is the
line above it, and what the colours mean.
"""

from __future__ import annotations

import html
from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from patchlib import stats
from patchlib._util import cell_name

NO_CONTRAST = "Clean and corrupted runs hardly differ, so there is no effect to speak of."
METRIC_NAMES = {"logit_diff": "logit difference", "prob": "probability of the answer", "kl": "KL to the clean run"}
AXIS_NAMES = {"head": "head", "kv_head": "k/v head", "pos": "position", "role": "position in the sentence"}
HOW = {"denoise": "denoising (clean into corrupted)", "noise": "noising (corrupted into clean)"}
MEANING = {
    "denoise": ["effect", "1 = clean restored", "0 = nothing", "below 0 = worse"],
    "noise": ["effect", "1 = clean destroyed", "0 = nothing", "below 0 = better"],
    "both": ["effect", "1 = all of it", "0 = nothing", "below 0 = opposite"],
}


def metric_name(result: xr.Dataset) -> str:
    """The result's first metric in words."""
    name = str(result.metric.values[0])
    return METRIC_NAMES.get(name, name.replace("_", " "))


def about(results: Mapping[str, xr.Dataset]) -> str:
    """What was patched, how it was measured and on how much; every value where results differ."""
    facts = []
    for one in results.values():
        fixed = [axis for axis in ("layer", *AXIS_NAMES) if axis in one.coords and not one[axis].ndim]
        where = ", ".join([one.attrs.get("site", ""), *(f"{axis} {one[axis].item()}" for axis in fixed)])
        if one.attrs.get("positions", "all") != "all" and not {"pos", "role"} & set(one.coords):
            where += f" at {one.attrs['positions']}"
        n = one.sizes["example"]
        pairs = "1 prompt pair" if n == 1 else f"{n} prompt pairs"
        patched = [HOW[one.attrs["direction"]], where] if "patched" in one else ["", ""]
        if "receivers" in one.attrs:
            patched = [f"path patching, {patched[0]}", f"{where} to {one.attrs['receivers']}"]
        facts.append([*patched, metric_name(one), pairs, one.attrs.get("model", "")])
    together = [" / ".join(dict.fromkeys(filter(None, values))) for values in zip(*facts, strict=True)]
    return ", ".join(filter(None, together))


def meaning_of(results: Mapping[str, xr.Dataset]) -> list[str]:
    """What an effect of 1, 0 and below 0 says, in the direction of these results or in both."""
    directions = {one.attrs["direction"] for one in results.values()}
    return MEANING[directions.pop() if len(directions) == 1 else "both"]


def unpatched(one: xr.Dataset) -> str:
    """A line on the two unpatched runs, for what hovering shows."""
    clean, corrupted = (float(one[run].mean()) for run in ("clean", "corrupted"))
    return f"<br>{metric_name(one)}: clean {clean:.2f}, corrupted {corrupted:.2f}"


def column_names(effect: xr.DataArray, axis: str) -> list[str]:
    """Labels of an axis; positions with the token or role that stands there, since tokens repeat."""
    names = [{"head": "H", "kv_head": "KV"}.get(axis, "") + str(value) for value in effect[axis].values]
    if axis == "pos":
        names = [f"{label} {pos}".strip() for label, pos in zip(effect.pos_label.values, names, strict=True)]
    return [html.escape(name, quote=False) for name in names]  # plotly takes the token <s> for strike-through


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


def of_attention(patterns: xr.DataArray) -> str:
    """For each head of ``attention_patterns``, the textbook place that it looks at most.

    The places are the first token, the one before, the token itself, the last earlier token of the same text, and
    the one that followed it; each head's mean is over those positions that have such a place. From the
    last token, where a task's answer is read, the token that it looks at most is named.
    """
    tokens = [str(token) for token in patterns.token.values]
    earlier = [max((j for j in range(i) if tokens[j] == token), default=None) for i, token in enumerate(tokens)]
    places = {
        "the first token": {i: 0 for i in range(1, len(tokens))},
        "the one before": {i: i - 1 for i in range(2, len(tokens))},
        "itself": {i: i for i in range(1, len(tokens))},
        "the same token earlier": {i: j for i, j in enumerate(earlier) if j is not None},
        "what followed the same token": {i: j + 1 for i, j in enumerate(earlier) if j is not None and j + 1 < i},
    }
    said = []
    for cell in patterns.cell.values:
        values = patterns.sel(cell=cell).values
        means = {
            name: float(np.mean([values[i, j] for i, j in at.items()])) for name, at in places.items() if at
        }  # fmt: skip
        if not means:
            return "A prompt of one token leaves nowhere else to look."
        most = max(means, key=lambda name: means[name])
        n, last = len(places[most]), values[-1]
        at = int(last.argmax())
        said.append(
            f"{cell} looks most at {most} ({means[most]:.2f} on average over {n} position{'s' * (n > 1)}), from the "
            f"last token at {tokens[at].strip() or repr(tokens[at])}, position {at} ({last[at]:.2f})"
        )
    return "; ".join(said) + "."


def of_scores(score: xr.DataArray, what: str, top_k: int = 5, least: float = 0.2) -> str:
    """The heads with the largest score, and how many stand above ``least``."""
    top = score.to_series().nlargest(top_k)
    names = [f"L{layer}H{head} {value:.2f}" for (layer, head), value in top.items()]
    return f"Highest {what}: {', '.join(names)}; {int((score > least).sum())} of {score.size} heads above {least}."
