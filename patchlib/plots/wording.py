"""Words that figures and sentences share: what was patched, how it was measured, and what an effect's number means."""

from __future__ import annotations

import html
from collections.abc import Mapping

import xarray as xr

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
