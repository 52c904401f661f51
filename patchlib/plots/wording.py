"""Words that figures and sentences share: what was patched, how it was measured, and what an effect's number means."""

import html
from collections.abc import Mapping
from typing import Any

import pandas as pd
import xarray as xr

from patchlib._util import cell_name, check_kind
from patchlib.errors import SweepError
from patchlib.models.default import NATURES
from patchlib.stats import check_result, contrast

NO_CONTRAST = "There is no effect to speak of: the contrast is not usable."
METRIC_NAMES = {
    "logit_diff": "logit difference",
    "prob": "probability of the answer",
    "prob_diff": "probability of right minus wrong",
    "kl": "KL to the clean prompt",
    "accuracy": "accuracy (right above wrong, of two)",
}
AXIS_NAMES = {"head": "head", "kv_head": "k/v head", "pos": "position", "role": "role in the sentence"}
DIRECTIONS = {"denoise": "denoising (clean into corrupted)", "noise": "noising (corrupted into clean)"}
MEANING = {
    "denoise": ("effect", "1 = clean restored", "0 = nothing", "below 0 = worse"),
    "noise": ("effect", "1 = clean destroyed", "0 = nothing", "below 0 = better"),
    "both": ("effect", "1 = all of it", "0 = nothing", "below 0 = opposite"),
}


def check_table(table: pd.DataFrame, source: str, *columns: str) -> None:
    """SweepError unless this is a table with these columns and a row, such as the function `source` gives."""
    mend = f"give what patchlib.{source} returned"
    check_kind("A table", table, pd.DataFrame, mend)
    if lacking := [column for column in columns if column not in table]:
        raise SweepError(f"The table lacks the columns {', '.join(lacking)}: {mend}.")
    if table.empty:
        raise SweepError(f"The table has no rows to show: {mend}, with more asked of it.")


def check_array(array: xr.DataArray, source: str, *dims: str) -> None:
    """SweepError unless this is an array of numbers over these axes, such as the function `source` gives."""
    mend = f"give what patchlib.{source} returned"
    check_kind("An array", array, xr.DataArray, mend)
    if set(array.dims) != set(dims) or not set(dims) <= set(array.coords) or not array.size:
        raise SweepError(f"An array over {array.dims} cannot be shown, only one over {', '.join(dims)}: {mend}.")
    if array.dtype.kind not in "fiu":
        raise SweepError(f"An array without real numbers cannot be shown: {mend}.")


def check_results(results: Mapping[str, xr.Dataset] | xr.Dataset) -> Mapping[str, xr.Dataset]:
    """Results by name, a single one under no name; SweepError for what are none."""
    named = {"": results} if isinstance(results, xr.Dataset) else results  # a Dataset is a Mapping too
    mend = "give a result of patchlib.sweep, path_patch or baseline, or {name: result}"
    for name in check_kind("The results", named, Mapping, mend):
        check_kind("A result's name", name, str, mend)
        check_kind("A result", named[name], xr.Dataset, mend)
    return named


def check_corruptions(traced: xr.Dataset, swept: xr.Dataset) -> None:
    """SweepError unless these are a causal trace and a sweep that restores one site in prompts of other tokens."""
    attrs, others = (check_result(result, "patched").attrs for result in (traced, swept))
    if "noise_sd" not in attrs:
        raise SweepError("traced must be what patchlib.causal_trace returned.")
    if "noise_sd" in others or others.get("source") != "clean":
        raise SweepError("swept must be a sweep of direction 'denoise', whose corrupted prompts have other tokens.")
    if attrs.get("site") != others.get("site"):
        raise SweepError(f"traced restores {attrs.get('site')} and swept {others.get('site')}: give one site.")


def check_interactions(pairs: xr.Dataset) -> None:
    """SweepError unless these are pairs of cells, such as ``interactions`` gives."""
    mend = "give what patchlib.interactions returned"
    check_kind("Interactions", pairs, xr.Dataset, mend)
    matrices = ("interaction", "low", "high", "together")
    if (
        any(name not in pairs or set(pairs[name].dims) != {"cell", "other"} for name in matrices)
        or "alone" not in pairs
    ):
        raise SweepError(f"A dataset without 'interaction' over cell and other cannot be read: {mend}.")


def check_transplant(result: xr.Dataset) -> None:
    """SweepError unless this is what ``transplant`` gives."""
    mend = "give what patchlib.transplant returned"
    check_kind("A transplant", result, xr.Dataset, mend)
    wanted = ("token", "prob", "kl", "unpatched_token", "unpatched_prob")
    if any(name not in result for name in wanted) or "source_layer" not in result.kl.dims:
        raise SweepError(f"A dataset without tokens over source_layer cannot be read: {mend}.")


def metric_name(result: xr.Dataset) -> str:
    """The result's first metric in words."""
    name = str(result.metric.values[0])
    return METRIC_NAMES.get(name, name.replace("_", " "))


def no_effect(result: xr.Dataset) -> str:
    """That a result's first metric has no effect, and why."""
    reason = contrast(result).reason.iloc[0]
    return f"{NO_CONTRAST[:-1]} ({reason})." if reason else "There is no effect to speak of: no prompt has a position."


def about(results: Mapping[str, xr.Dataset]) -> str:
    """What was patched, how it was measured and on how much; every value where results differ."""
    facts = []
    for result in results.values():
        # Axes of which one value was picked say where the patch is, as those do that a sweep was told to patch.
        picked = [axis for axis in ("layer", *AXIS_NAMES) if axis in result.coords and not result[axis].ndim]
        patched = ", ".join([result.attrs.get("site", ""), *(f"{axis} {result[axis].item()}" for axis in picked)])
        if result.attrs.get("positions", "all") != "all" and not {"pos", "role"} & set(result.coords):
            patched += f" at {result.attrs['positions']}"
        direction = DIRECTIONS[result.attrs["direction"]] if "patched" in result else ""
        noise = severed = ""
        if "noise_sd" in result.attrs and direction:
            direction, noise, severed, windows = _about_trace(result.attrs)
            patched += windows
        if "estimate" in result.attrs and direction:
            direction = f"estimate ({result.attrs['estimate']}) of {direction}"
        if "receivers" in result.attrs:
            direction, patched = f"path patching, {direction}", f"{patched} to {result.attrs['receivers']}"
        n = result.sizes["example"]
        pairs = "1 prompt pair" if n == 1 else f"{n} prompt pairs"
        patched = patched if "patched" in result else ""
        if n := n_left_out(result):
            patched += f" ({n} cells left out by the estimate)"
        facts.append([direction, noise, severed, patched, metric_name(result), pairs, _about_model(result.attrs)])
    together = [" / ".join(dict.fromkeys(filter(None, values))) for values in zip(*facts, strict=True)]
    return ", ".join(filter(None, together))


def _about_model(attrs: Mapping[str, Any]) -> str:
    """Which model, what its weights are where that is known, and whether prompts begin with BOS."""
    name = attrs.get("model", "")
    nature = f" ({NATURES[name]})" if name in NATURES else ""
    bos = {"True": ", with BOS", "False": ", without BOS"}.get(str(attrs.get("prepend_bos")), "")
    return f"{name}{nature}{bos}"


def _about_trace(attrs: Mapping[str, Any]) -> tuple[str, ...]:
    """How a causal trace was made: what it is, its noise, what was severed, its windows."""
    draws = f"{attrs['draws']} draw{'s' * (attrs['draws'] != 1)}"
    own = str(attrs["span"]).startswith(("[", "its own"))  # a list for each prompt, which says nothing to a reader
    span = "tokens of each prompt's own" if own else attrs["span"]
    return (
        "causal trace (clean into noised)",
        f"noise of {attrs['noise']:g} sd at {span} ({draws})",
        {"mlp": "MLPs severed", "attn": "attention severed"}.get(attrs["severed"], ""),
        f" in windows of {attrs['window']} layers" if attrs["window"] > 1 else "",
    )


def n_left_out(result: xr.Dataset) -> int:
    """How many cells were not patched because an estimate ruled them out (``prefilter``)."""
    if "estimate" not in result:
        return 0
    at = {"metric": result.metric.values[0]}
    return int((result.patched.sel(at).isnull().all("example") & result.estimate.sel(at).notnull()).sum())


def meaning_of(results: Mapping[str, xr.Dataset]) -> tuple[str, ...]:
    """What an effect of 1, 0 and below 0 says, in the direction of these results or in both."""
    directions = {result.attrs["direction"] for result in results.values()}
    return MEANING[directions.pop() if len(directions) == 1 else "both"]


def unpatched(result: xr.Dataset) -> str:
    """A line on the two unpatched forward passes, for what hovering shows."""
    clean, corrupted = (float(result[kind].mean()) for kind in ("clean", "corrupted"))
    return f"<br>{metric_name(result)}: clean {clean:.2f}, corrupted {corrupted:.2f}"


def column_names(effect: xr.DataArray, axis: str) -> list[str]:
    """Labels of an axis; positions with the token or role that stands there, since tokens repeat."""
    names = [{"head": "H", "kv_head": "KV"}.get(axis, "") + str(value) for value in effect[axis].values]
    if axis == "pos":
        names = [f"{label} {pos}".strip() for label, pos in zip(effect.pos_label.values, names, strict=True)]
    return [html.escape(name, quote=False) for name in names]  # plotly takes the token <s> for strike-through


def cell_names(table: pd.DataFrame) -> list[str]:
    """The name of each row's cell, of a table such as ``summary_table`` gives."""
    return [cell_name({str(axis): value for axis, value in row.items()}) for row in table.to_dict("records")]


def interval(row: Any) -> str:
    """What follows a number: the interval of its table's row or result, where it has one."""
    return "" if pd.isna(row.ci_low) else f" [{row.ci_low:.2f}, {row.ci_high:.2f}]"  # one prompt has none


def with_interval(row: pd.Series) -> str:
    """A row's effect, and its interval where it has one: "0.41 [0.32, 0.50]"."""
    return f"{row.effect:.2f}{interval(row)}"
