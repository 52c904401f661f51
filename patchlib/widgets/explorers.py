"""Controls over results that are there already: every move redraws from arrays, and runs no model."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

import ipywidgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from patchlib import stats
from patchlib._util import cell_dims, cell_name, head_names
from patchlib.circuits.attention import attention_patterns, detector_scores
from patchlib.circuits.heads import direct_logit_attribution
from patchlib.errors import SweepError
from patchlib.plots import takeaways, wording
from patchlib.plots.heads import attention
from patchlib.plots.style import GREY, LEGEND, LINES, PALE, draw_bars, draw_maps, style
from patchlib.plots.sweeps import layer_lines
from patchlib.tasks.base import PatchingDataset, PromptPairs, as_pairs
from patchlib.widgets.drawing import Live, Shown, in_a_row, live, wide
from patchlib.widgets.pickers import CellPicker


def result_explorer(results: Mapping[str, xr.Dataset] | xr.Dataset) -> Live:
    """Map, table and one cell's prompts of any sweep, always of the same selection.

    Args:
        results: From ``sweep`` or ``path_patch``; or several over the same axes by name, such as
            ``{"denoising": one, "noising": other}``.

    Raises:
        SweepError: A result that was not swept over anything, or results over different axes.
    """
    named = {"result": results} if isinstance(results, xr.Dataset) else dict(results)
    first = next(iter(named.values()))
    dims = cell_dims(first)
    if not dims:
        raise SweepError("There is nothing to explore: this result was not swept over anything.")
    for name, result in named.items():
        if cell_dims(result) != dims or any(list(result[axis].values) != list(first[axis].values) for axis in dims):
            raise SweepError(f"{name} has other cells than the first result: give it an explorer of its own.")
    metrics = [str(one) for one in first.metric.values if all(one in result.metric for result in named.values())]
    prompts = [("mean of all", -1), *((f"prompt {i}", i) for i in range(first.sizes["example"]))]

    @functools.cache  # intervals take longer than a redraw may
    def view(name: str, metric: str, prompt: int) -> tuple[xr.Dataset, pd.DataFrame, str]:
        one = stats.one_metric(named[name], metric)
        picked = one if prompt < 0 else one.isel(example=[prompt])
        picked = picked.assign(effect=stats.effect(picked))
        return picked, stats.summary_table(picked, None), takeaways.of_cells(picked)

    columns = ["head_index" if axis == "head" else axis for axis in dims]
    tables = [view(name, metrics[0], -1)[1] for name in named]
    top = tables[0].to_dict("records")[0]
    picker = CellPicker({axis: list(first[axis].values) for axis in dims}, [top[column] for column in columns])
    controls = {
        "name": wide(ipywidgets.Dropdown, "Result", options=list(named)),
        "metric": wide(ipywidgets.Dropdown, "Metric", options=metrics),
        "prompt": wide(ipywidgets.Dropdown, "Prompt", options=prompts),
        "least": wide(ipywidgets.FloatSlider, "Hide below", value=0, min=0, max=0.5, step=0.01),
        "top_k": wide(ipywidgets.IntSlider, "Rows", value=5, min=1, max=20),
    }

    def draw(name: str, metric: str, prompt: int, least: float, top_k: int, cell: tuple) -> list[Shown]:
        picked, table, sentence = view(name, metric, prompt)
        whose = "mean of all prompts" if prompt < 0 else f"prompt {prompt}"
        hidden = f", effects below {least:.2f} hidden" if least else ""
        figure = _map(picked, cell, least, f"{name}: {whose}{hidden}")
        top = table[table.effect.abs() >= least].head(top_k)
        picker.list_cells((f"{cell_name(row)} ({row['effect']:+.2f})", tuple(row[column] for column in columns))
                          for row in top.to_dict("records"))  # fmt: skip
        row = table[(table[columns] == list(cell)).all(axis=1)].iloc[0]
        one = stats.one_metric(named[name], metric).sel(dict(zip(dims, cell, strict=True)))
        shown = [top.round(3)] if len(top) else [f"No effect of at least {least:.2f}."]
        return [figure, sentence, *shown, _runs(one, row, f"{name}, {metric}: {cell_name(row)}"), _of_runs(one)]

    above = [in_a_row(*controls.values()), in_a_row(*picker.sliders), in_a_row(picker.listed, *picker.buttons)]
    return live(draw, {**controls, "cell": picker}, above)


def _map(picked: xr.Dataset, cell: tuple, least: float, title: str) -> go.Figure:
    """A sweep's effects, with the picked cell framed; of three axes those two that go with its place on the third."""
    at = dict(zip(cell_dims(picked), cell, strict=True))
    about, meaning = wording.about({"": picked}), wording.meaning_of({"": picked})
    across = next((axis for axis in ("head", "kv_head", "role", "pos") if axis in at), None)
    if "layer" not in at:
        table = stats.summary_table(picked, None)
        table = table[table.effect.abs() >= least]
        names = [cell_name(row) for row in table.to_dict("records")]
        return draw_bars(names, table.effect.to_list(), title, about, meaning)
    if across is None:
        lines = layer_lines(picked, title=title)
        return lines.add_vline(x=at["layer"], line={"color": GREY, "dash": "dot"})
    effect = picked.effect.isel(metric=0)
    effect = effect.sel({axis: place for axis, place in at.items() if axis not in ("layer", across)})
    shown = effect.where(abs(effect) >= least).assign_attrs(hover=wording.unpatched(picked))
    figure = draw_maps({"": shown}, title, about, meaning)
    column = wording.column_names(effect, across)[list(effect[across].values).index(at[across])]
    for color, size, width in (("#fff", 17, 5), ("#111", 15, 2)):  # to be seen on light and on dark cells
        figure.add_scatter(
            x=[column], y=[str(at["layer"])], mode="markers", hoverinfo="skip", showlegend=False,
            marker={"symbol": "square-open", "size": size, "color": color, "line": {"width": width}},
        )  # fmt: skip
    return figure


def _runs(one: xr.Dataset, row: pd.Series, title: str) -> go.Figure:
    """One cell's metric for each prompt, between those of the clean and the corrupted run."""
    runs = {"clean": one.clean, "patched": one.patched, "corrupted": one.corrupted}
    figure = go.Figure()
    for (name, values), color in zip(runs.items(), (LINES[0], LINES[2], LINES[1]), strict=True):
        figure.add_scatter(
            x=list(range(one.sizes["example"])), y=np.round(values.values.ravel(), 3).tolist(), mode="markers",
            name=name, marker={"color": color, "size": 9},
        )  # fmt: skip
    figure.update_xaxes(title="prompt", dtick=1, gridcolor=PALE, zeroline=False)
    figure.update_yaxes(title=wording.metric_name(one), gridcolor=PALE, zerolinecolor=GREY)
    interval = "" if pd.isna(row.ci_low) else f" [{row.ci_low:.2f}, {row.ci_high:.2f}]"
    figure = style(figure, title, f"effect {row.effect:.2f}{interval}, n = {int(row.n)}", 320, above=20)
    return figure.update_layout(legend=LEGEND, showlegend=True)


def _of_runs(one: xr.Dataset) -> str:
    """The three runs' means, and between which values the patched one lies."""
    means = ", ".join(f"{run} {float(one[run].mean()):.2f}" for run in ("clean", "patched", "corrupted"))
    low, high = float(one.patched.min()), float(one.patched.max())
    return f"Mean over all prompts: {means}; patched prompts from {low:.2f} to {high:.2f}."


def head_explorer(
    model: TransformerBridge,
    task: PatchingDataset | PromptPairs,
    result: xr.Dataset,
    head_types: pd.DataFrame | None = None,
) -> Live:
    """One head at a time: where it looks in a prompt, and all that is known of it.

    Args:
        model: In eval mode.
        task: That of the result.
        result: From ``sweep(over=("layer", "head"))``.
        head_types: ``Discovery.head_types``, for the heads' names.

    Raises:
        SweepError: A result over other axes, or as ``direct_logit_attribution``.
    """
    if set(cell_dims(result)) != {"layer", "head"}:
        raise SweepError(f"The head explorer takes a sweep over layer and head, not over {cell_dims(result)}.")
    pairs = as_pairs(model, task)
    table = stats.summary_table(result, None).set_index(["layer", "head_index"])
    attribution = direct_logit_attribution(model, pairs).mean("example")
    detectors = detector_scores(model, n_rows=2)
    axes = {axis: list(result[axis].values) for axis in ("layer", "head")}
    picker = CellPicker(axes, table.index[0])
    picker.list_cells((f"{i}. L{layer}H{head} ({effect:+.2f})", (layer, head))
                      for i, ((layer, head), effect) in enumerate(table.effect.dropna().items(), start=1))  # fmt: skip
    prompt = wide(ipywidgets.IntSlider, "Prompt", value=0, min=0, max=len(pairs) - 1)
    every = [(layer, head) for layer in axes["layer"] for head in axes["head"]]

    @functools.cache
    def looks(prompt: int) -> xr.DataArray:
        return attention_patterns(model, pairs.clean_tokens[prompt], every)

    def draw(cell: tuple[int, int], prompt: int) -> list[Shown]:
        row, at, name = table.loc[cell], {"layer": cell[0], "head": cell[1]}, head_names([cell])
        facts = {
            "effect": f"{row.effect:.2f} [{row.ci_low:.2f}, {row.ci_high:.2f}], n = {int(row.n)}",
            "direct logit attribution": f"{float(attribution.sel(at)):+.2f}",
            **{f"{str(one).replace('_', ' ')} score": f"{float(detectors[one].sel(at)):.2f}" for one in detectors},
        }
        if head_types is not None:
            of_head = head_types[(head_types.layer == cell[0]) & (head_types.head_index == cell[1])]
            named = [f"{row['head_type']} at {row['position']}" for row in of_head.to_dict("records")]
            facts["head type"] = ", ".join(named) or "not in the circuit"
        pattern = looks(prompt).sel(cell=[name])
        figure = attention(pattern, title=f"{name} on prompt {prompt}")
        return [figure, takeaways.of_attention(pattern), pd.DataFrame({name: facts})]

    above = [in_a_row(*picker.sliders, prompt), in_a_row(picker.listed, *picker.buttons)]
    return live(draw, {"cell": picker, "prompt": prompt}, above)


def attention_view(model: TransformerBridge, prompts: Iterable[str], heads: Iterable[tuple[int, int]]) -> Live:
    """Where some heads look in some prompts, one of each at a time.

    Args:
        model: In eval mode.
        prompts: Texts to choose from.
        heads: (layer, head), to choose from.

    Raises:
        SweepError, TaskError: As ``attention_patterns``.
    """
    texts, cells = list(prompts), [(int(layer), int(head)) for layer, head in heads]
    if not texts:
        raise SweepError("There is no prompt to look at: give at least one text.")
    known = [attention_patterns(model, text, cells) for text in texts]
    short = [(text if len(text) <= 60 else text[:59] + "\u2026", i) for i, text in enumerate(texts)]
    controls = {
        "head": wide(ipywidgets.SelectionSlider, "Head", options=list(known[0].cell.values)),
        "prompt": wide(ipywidgets.Dropdown, "Prompt", options=short),
    }

    def draw(head: str, prompt: int) -> list[Shown]:
        pattern = known[prompt].sel(cell=[head])
        return [attention(pattern, title=f"{head} on prompt {prompt}"), takeaways.of_attention(pattern)]

    return live(draw, controls)
