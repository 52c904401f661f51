"""Controls over results that are there already: every move redraws from arrays, and runs no model."""

import functools
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from patchlib import stats
from patchlib._util import Head, cell_dims, cell_name, check_heads, check_kind, check_text, head_name, listed
from patchlib.circuits.attention import attention_patterns, detector_scores
from patchlib.circuits.heads import direct_logit_attribution
from patchlib.errors import SweepError
from patchlib.models.check import check_model
from patchlib.plots import style, takeaways, wording
from patchlib.plots.heads import attention
from patchlib.plots.sweeps import layer_lines
from patchlib.tasks.base import PatchingDataset, as_pairs
from patchlib.tasks.pairs import PromptPairs
from patchlib.widgets.drawing import Live, Shown, in_a_row, live, wide
from patchlib.widgets.pickers import CellPicker

Cell = tuple[Any, ...]
"""A value on each swept axis, in their order."""


def result_explorer(results: Mapping[str, xr.Dataset] | xr.Dataset) -> Live:
    """Map, table and one cell's prompts of any sweep, always of the same selection.

    Args:
        results: From ``sweep`` or ``path_patch``; or several over the same axes by name, such as
            ``{"denoising": denoised, "noising": noised}``.

    Returns:
        Controls for result, metric, prompt, smallest effect, rows and cell, and below them what they pick. The cell is
        at first the one whose effect is largest in size in the first result.

    Raises:
        SweepError: A result that was not swept over anything, or results over different axes.

    Example:
        >>> result = patchlib.sweep(model, task, "z", ("layer", "head"), layers=[20], progress=False)
        >>> explorer = patchlib.widgets.result_explorer(result)
        >>> [widget.description for widget in explorer.children[0].children]
        ['Result', 'Metric', 'Prompt', 'Hide below', 'Rows']
    """
    given = {"result": results} if isinstance(results, xr.Dataset) else results
    check_kind("The results", given, Mapping, "give a result, or {name: result}")
    named = {check_text("A result's name", name): stats.check_result(given[name], "patched") for name in given}
    if not named:
        raise SweepError("There is nothing to explore: the mapping of names to results is empty.")
    first = next(iter(named.values()))
    dims = cell_dims(first)
    if not dims:
        raise SweepError("There is nothing to explore: this result was not swept over anything.")
    values = {axis: list(first[axis].values) for axis in dims}
    for name, result in named.items():
        if cell_dims(result) != dims or any(list(result[axis].values) != values[axis] for axis in dims):
            raise SweepError(f"{name} has other cells than the first result: give it an explorer of its own.")
    metrics = [str(name) for name in first.metric.values if all(name in result.metric for result in named.values())]
    prompts = [("mean of all", -1), *((f"prompt {i}", i) for i in range(first.sizes["example"]))]

    @functools.cache  # intervals take longer than a redraw may
    def view(name: str, metric: str, prompt: int) -> tuple[xr.Dataset, pd.DataFrame, str]:
        result = stats.one_metric(named[name], metric)
        picked = result if prompt < 0 else result.isel(example=[prompt])
        picked = picked.assign(effect=stats.effect(picked))
        return picked, stats.summary_table(picked, None), takeaways.of_cells(picked)

    tables = [view(name, metrics[0], -1)[1] for name in named]  # all of them now, so that no move waits
    picker = CellPicker(values, _cells(tables[0], dims)[0])
    controls = {
        "name": wide(ipywidgets.Dropdown, "Result", options=list(named)),
        "metric": wide(ipywidgets.Dropdown, "Metric", options=metrics),
        "prompt": wide(ipywidgets.Dropdown, "Prompt", options=prompts),
        "least": wide(ipywidgets.FloatSlider, "Hide below", value=0, min=0, max=0.5, step=0.01),
        "top_k": wide(ipywidgets.IntSlider, "Rows", value=5, min=1, max=20),
    }

    def draw(name: str, metric: str, prompt: int, least: float, top_k: int, cell: Cell) -> list[Shown]:
        picked, table, sentence = view(name, metric, prompt)
        whose = "mean of all prompts" if prompt < 0 else f"prompt {prompt}"
        hidden = f", effects below {least:.2f} hidden" if least else ""
        figure = _map(picked, cell, least, f"{name}: {whose}{hidden}")
        top = table[table.effect.abs() >= least].head(top_k)
        labels = (f"{label} ({effect:+.2f})" for label, effect in zip(wording.cell_names(top), top.effect, strict=True))
        picker.list_cells(zip(labels, _cells(top, dims), strict=True))
        row = table.iloc[_cells(table, dims).index(cell)]
        at_cell = dict(zip(dims, cell, strict=True))
        result = stats.one_metric(named[name], metric).sel(at_cell)
        rows = top.round(3) if len(top) else f"No effect of at least {least:.2f}."
        each_prompt = _prompts(result, row, f"{name}, {metric}: {cell_name(at_cell)}")
        return [figure, sentence, rows, each_prompt, _means(result)]

    above = [in_a_row(*controls.values()), in_a_row(*picker.sliders), in_a_row(picker.listed, *picker.buttons)]
    return live(draw, {**controls, "cell": picker}, above)


def _cells(table: pd.DataFrame, dims: list[str]) -> list[Cell]:
    """Each row's cell, from the columns that ``summary_table`` puts first: the swept axes."""
    return list(table.iloc[:, : len(dims)].itertuples(index=False, name=None))


def _map(picked: xr.Dataset, cell: Cell, least: float, title: str) -> go.Figure:
    """A sweep's effects, with the picked cell framed; of three axes those two that go with its value on the third."""
    at_cell = dict(zip(cell_dims(picked), cell, strict=True))
    about, meaning = wording.about({"": picked}), wording.meaning_of({"": picked})
    across = next((axis for axis in wording.AXIS_NAMES if axis in at_cell), None)
    if "layer" not in at_cell:
        table = stats.summary_table(picked, None)
        table = table[table.effect.abs() >= least]
        return style.draw_bars(wording.cell_names(table), table.effect.to_list(), title, about, meaning)
    if across is None:
        line = {"color": style.GREY, "dash": "dot"}
        return layer_lines(picked, title=title).add_vline(x=at_cell["layer"], line=line)
    effect = picked.effect.isel(metric=0)
    effect = effect.sel({axis: value for axis, value in at_cell.items() if axis not in ("layer", across)})
    shown = effect.where(abs(effect) >= least).assign_attrs(hover=wording.unpatched(picked))
    figure = style.draw_maps({"": shown}, title, about, meaning)
    column = wording.column_names(effect, across)[list(effect[across].values).index(at_cell[across])]
    for color, size, width in (("#fff", 17, 5), ("#111", 15, 2)):  # to be seen on light and on dark cells
        marker = {"symbol": "square-open", "size": size, "color": color, "line": {"width": width}}
        figure.add_scatter(x=[column], y=[str(at_cell["layer"])], mode="markers", marker=marker, **style.SILENT)
    return figure


def _prompts(result: xr.Dataset, row: pd.Series, title: str) -> go.Figure:
    """One cell's metric for each prompt, between those of the clean and the corrupted prompt."""
    figure = go.Figure()
    for kind, color in style.FORWARD_COLORS.items():
        y = np.round(result[kind].values.ravel(), 3).tolist()
        figure.add_scatter(x=list(range(len(y))), y=y, mode="markers", name=kind, marker={"color": color, "size": 9})
    figure.update_xaxes(title="prompt", dtick=1, gridcolor=style.PALE, zeroline=False)
    figure.update_yaxes(style.AXIS, title=wording.metric_name(result))
    style.style(figure, title, f"effect {wording.with_interval(row)}, n = {int(row.n)}", 320, above=20)
    return figure.update_layout(legend=style.LEGEND, showlegend=True)


def _means(result: xr.Dataset) -> str:
    """One cell's three means, and between which values the patched prompts lie."""
    means = ", ".join(f"{kind} {float(result[kind].mean()):.2f}" for kind in style.FORWARD_COLORS)
    low, high = float(result.patched.min()), float(result.patched.max())
    return f"Mean over all prompts: {means}; patched prompts from {low:.2f} to {high:.2f}."


def head_explorer(
    model: TransformerBridge,
    task: PatchingDataset | PromptPairs,
    result: xr.Dataset,
    head_types: pd.DataFrame | None = None,
) -> Live:
    """One head at a time: where it looks in a prompt, and all that was measured of it.

    Args:
        model: In eval mode.
        task: That of the result.
        result: From ``sweep(over=("layer", "head"))``.
        head_types: ``Discovery.head_types``, for the heads' names.

    Returns:
        Controls for the head (also in the order of the effects) and the prompt, and below them what they pick.

    Raises:
        SweepError: A result over other axes, or as ``direct_logit_attribution``.

    Example:
        >>> result = patchlib.sweep(model, task, "z", ("layer", "head"), layers=[20], progress=False)
        >>> explorer = patchlib.widgets.head_explorer(model, task, result)
        >>> explorer.children[1].children[0].options[0][0]  # the list by effect
        '1. L20H0 (+0.36)'
    """
    dims = cell_dims(stats.check_result(result, "patched"))
    if set(dims) != {"layer", "head"}:
        raise SweepError(f"The head explorer takes a sweep over layer and head, not over {dims}.")
    if head_types is not None:
        check_kind("head_types", head_types, pd.DataFrame, "give Discovery.head_types")
        if lacking := {"layer", "head_index", "position", "head_type"} - set(head_types):
            raise SweepError(f"head_types lack the columns {', '.join(sorted(lacking))}: give Discovery.head_types.")
    pairs = as_pairs(model, task)
    table = stats.summary_table(result.transpose("metric", "layer", "head", ...), None)
    by_effect: list[Head] = _cells(table, ["layer", "head"])
    attribution = direct_logit_attribution(model, pairs).mean("example")
    detectors = detector_scores(model, n_rows=2)
    layers, heads = (result[axis].values.tolist() for axis in ("layer", "head"))
    picker = CellPicker({"layer": layers, "head": heads}, by_effect[0])
    picker.list_cells(
        (f"{i}. {head_name(*head)} ({effect:+.2f})", head)
        for i, (head, effect) in enumerate(zip(by_effect, table.effect.dropna(), strict=False), start=1)
    )
    prompt_slider = wide(ipywidgets.IntSlider, "Prompt", value=0, min=0, max=len(pairs) - 1)

    @functools.cache
    def patterns_of(prompt: int) -> xr.DataArray:
        return attention_patterns(model, pairs.clean_tokens[prompt], itertools.product(layers, heads))

    def draw(cell: Head, prompt: int) -> list[Shown]:
        row, name = table.iloc[by_effect.index(cell)], head_name(*cell)
        at_head = {"layer": cell[0], "head": cell[1]}
        effect = f"{row.effect:.2f} [{row.ci_low:.2f}, {row.ci_high:.2f}], n = {int(row.n)}"
        if "estimate" in result and not row.n:
            effect = "left out by the estimate"
        facts = {
            "effect": effect,
            "direct logit attribution": f"{float(attribution.sel(at_head)):+.2f}",
        }
        for detector, score in detectors.sel(at_head).items():
            facts[f"{str(detector).replace('_', ' ')} score"] = f"{float(score):.2f}"
        if head_types is not None:
            rows = head_types[(head_types.layer == cell[0]) & (head_types.head_index == cell[1])]
            named = [f"{row.head_type} at {row.position}" for row in rows.itertuples()]
            facts["head type"] = ", ".join(named) or "not in the circuit"
        return [*_pattern(patterns_of(prompt), name, prompt), pd.DataFrame({name: facts})]

    above = [in_a_row(*picker.sliders, prompt_slider), in_a_row(picker.listed, *picker.buttons)]
    return live(draw, {"cell": picker, "prompt": prompt_slider}, above)


def _pattern(patterns: xr.DataArray, name: str, prompt: int) -> list[Shown]:
    """Where one head looks in a prompt: the map and the sentence."""
    pattern = patterns.sel(cell=[name])
    return [attention(pattern, title=f"{name} on prompt {prompt}"), takeaways.of_attention(pattern)]


def attention_view(model: TransformerBridge, prompts: Iterable[str], layer_heads: Iterable[Head]) -> Live:
    """Where some heads look in some prompts, one of each at a time.

    Args:
        model: In eval mode.
        prompts: Texts to choose from.
        layer_heads: (layer, head), to choose from.

    Returns:
        Controls for the head and the prompt, and below them the pattern that they pick.

    Raises:
        SweepError: A head that the model does not have, or no head or no prompt.
        TaskError: As ``attention_patterns``.

    Example:
        >>> view = patchlib.widgets.attention_view(model, [" blue cat, red dog, blue"], [(17, 4), (17, 5)])
        >>> view.children[0].children[0].options
        ('L17H4', 'L17H5')
    """
    check_model(model)
    texts = listed(prompts)
    heads = check_heads(layer_heads, model.cfg.n_layers, model.cfg.n_heads)
    if not texts:
        raise SweepError("There is no prompt to look at: give at least one text.")
    patterns = [attention_patterns(model, text, heads) for text in texts]
    short = [(text if len(text) <= 60 else text[:59] + "\u2026", i) for i, text in enumerate(texts)]
    controls = {
        "head": wide(ipywidgets.SelectionSlider, "Head", options=[head_name(*head) for head in heads]),
        "prompt": wide(ipywidgets.Dropdown, "Prompt", options=short),
    }

    def draw(head: str, prompt: int) -> list[Shown]:
        return _pattern(patterns[prompt], head, prompt)

    return live(draw, controls)
