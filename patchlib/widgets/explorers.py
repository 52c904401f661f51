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

from patchlib import plots, stats, takeaways
from patchlib.errors import SweepError
from patchlib.heads import attention_patterns, detector_scores, direct_logit_attribution
from patchlib.induction_plots import attention
from patchlib.tasks.base import PatchingDataset, PromptPairs, as_pairs
from patchlib.widgets.drawing import Shown, live, wide


def result_explorer(results: Mapping[str, xr.Dataset] | xr.Dataset) -> ipywidgets.VBox:
    """Map, table and one cell's prompts of any sweep over layers and one more axis, always of the same selection.

    Args:
        results: From ``sweep``, or several by name, such as ``{"denoising": one, "noising": other}``.

    Raises:
        SweepError: A result that is not over layer and one more axis.
    """
    named = {"result": results} if isinstance(results, xr.Dataset) else dict(results)
    for name, result in named.items():
        dims = stats.cell_dims(result)
        if len(dims) != 2 or "layer" not in dims:
            raise SweepError(f"{name} is over {dims}: the explorer takes a sweep over layer and one more axis.")
    first = next(iter(named.values()))
    metrics = [str(one) for one in first.metric.values if all(one in result.metric for result in named.values())]
    prompts = [("mean of all", -1), *((f"prompt {i}", i) for i in range(first.sizes["example"]))]
    controls = {
        "name": wide(ipywidgets.Dropdown, "Result", options=list(named)),
        "metric": wide(ipywidgets.Dropdown, "Metric", options=metrics),
        "prompt": wide(ipywidgets.Dropdown, "Prompt", options=prompts),
        "least": wide(ipywidgets.FloatSlider, "Hide below", value=0, min=0, max=0.5, step=0.01),
        "top_k": wide(ipywidgets.IntSlider, "Rows", value=5, min=1, max=20),
        "rank": wide(ipywidgets.IntSlider, "Cell (rank)", value=1, min=1, max=20),
    }

    @functools.cache  # intervals take longer than a redraw may
    def view(name: str, metric: str, prompt: int) -> tuple[xr.Dataset, xr.Dataset, pd.DataFrame, str]:
        one = stats.one_metric(named[name], metric)
        picked = one if prompt < 0 else one.isel(example=[prompt])
        picked = picked.assign(effect=stats.effect(picked))
        return one, picked, stats.summary_table(picked).dropna(subset="effect"), takeaways.of_cells(picked)

    for name in named:
        view(name, controls["metric"].value, -1)

    def draw(name: str, metric: str, prompt: int, least: float, top_k: int, rank: int) -> list[Shown]:
        one, picked, table, sentence = view(name, metric, prompt)
        shown = picked.assign(effect=picked.effect.where(abs(picked.effect) >= least))
        whose = "mean of all prompts" if prompt < 0 else f"prompt {prompt}"
        hidden = f", effects below {least:.2f} hidden" if least else ""
        figure = plots.heatmap_panels(shown, title=f"{name}: {whose}{hidden}")
        table = table[table.effect.abs() >= least]
        if table.empty:
            return [figure, f"No effect of at least {least:.2f}."]
        cell = table.iloc[min(rank, len(table)) - 1]
        return [
            figure,
            sentence,
            table.head(top_k).round(3),
            _prompts_of(one, cell, f"{name}, {metric}: {stats.cell_name(cell.to_dict())}"),
        ]

    return live(draw, controls)


def _prompts_of(result: xr.Dataset, cell: pd.Series, title: str) -> go.Figure:
    """One cell's metric for each prompt, between those of the clean and the corrupted run."""
    dims = stats.cell_dims(result)
    at = {axis: cell[axis] for axis in dims}
    runs = {"clean": result.clean, "patched": result.patched.sel(at), "corrupted": result.corrupted}
    figure = go.Figure()
    for (name, values), color in zip(runs.items(), (plots.LINES[0], plots.LINES[2], plots.LINES[1]), strict=True):
        figure.add_scatter(
            x=list(range(result.sizes["example"])), y=np.round(values.values.ravel(), 3).tolist(), mode="markers",
            name=name, marker={"color": color, "size": 9},
        )  # fmt: skip
    figure.update_xaxes(title="prompt", dtick=1, gridcolor=plots.PALE, zeroline=False)
    figure.update_yaxes(title=takeaways.metric_name(result), gridcolor=plots.PALE, zerolinecolor=plots.GREY)
    interval = "" if pd.isna(cell.ci_low) else f" [{cell.ci_low:.2f}, {cell.ci_high:.2f}]"
    said = f"effect {cell.effect:.2f}{interval}, n = {int(cell.n)}"
    figure = plots.style(figure, title, said, 320, above=20)
    return figure.update_layout(legend=plots.LEGEND, showlegend=True)


def head_explorer(
    model: TransformerBridge, task: PatchingDataset | PromptPairs, result: xr.Dataset, roles: pd.DataFrame | None = None
) -> ipywidgets.VBox:
    """One head at a time, by effect: where it looks in a prompt, and all that is known of it.

    Args:
        model: In eval mode.
        task: That of the result.
        result: From ``sweep(over=("layer", "head"))``.
        roles: ``Discovery.roles``, for the heads' names.

    Raises:
        SweepError: A result over other axes, or as ``direct_logit_attribution``.
    """
    if set(stats.cell_dims(result)) != {"layer", "head"}:
        raise SweepError(f"The head explorer takes a sweep over layer and head, not over {stats.cell_dims(result)}.")
    pairs = as_pairs(model, task)
    table = stats.summary_table(result).dropna(subset="effect").reset_index(drop=True)
    attribution = direct_logit_attribution(model, pairs).mean("example")
    detectors = detector_scores(model, n_rows=2)
    ranked = [(f"{i + 1}. L{row.layer}H{row.head} ({row.effect:+.2f})", i) for i, row in enumerate(table.itertuples())]
    head = wide(ipywidgets.Dropdown, "Head, by effect", options=ranked)
    prompt = wide(ipywidgets.IntSlider, "Prompt", value=0, min=0, max=len(pairs) - 1)
    step = {"Previous": -1, "Next": 1}
    buttons = [ipywidgets.Button(description=name, tooltip=f"{name} head by effect") for name in step]

    def move(button: ipywidgets.Button) -> None:
        head.value = min(max(head.value + step[button.description], 0), len(table) - 1)

    for button in buttons:
        button.on_click(move)

    every = [(layer, head) for layer in range(int(model.cfg.n_layers)) for head in range(int(model.cfg.n_heads))]

    @functools.cache
    def looks(prompt: int) -> xr.DataArray:
        return attention_patterns(model, pairs.clean_tokens[prompt], every)

    def draw(head: int, prompt: int) -> list[Shown]:
        row = table.iloc[head]
        cell = (int(row["layer"]), int(row["head"]))
        at = {"layer": cell[0], "head": cell[1]}
        facts = {
            "effect": f"{row.effect:.2f} [{row.ci_low:.2f}, {row.ci_high:.2f}], n = {int(row.n)}",
            "direct logit attribution": f"{float(attribution.sel(at)):+.2f}",
            **{f"{str(name).replace('_', ' ')} score": f"{float(detectors[name].sel(at)):.2f}" for name in detectors},
        }
        if roles is not None:
            named = roles[(roles.layer == cell[0]) & (roles["head"] == cell[1])]
            facts["role"] = ", ".join(f"{one.role} at {one.at}" for one in named.itertuples()) or "not in the circuit"
        figure = attention(
            looks(prompt).sel(cell=[f"L{cell[0]}H{cell[1]}"]), title=f"L{cell[0]}H{cell[1]} on prompt {prompt}"
        )
        return [figure, pd.DataFrame({f"L{cell[0]}H{cell[1]}": facts})]

    return live(draw, {"head": head, "prompt": prompt}, extra=buttons)


def attention_view(
    model: TransformerBridge, prompts: Iterable[str], heads: Iterable[tuple[int, int]]
) -> ipywidgets.VBox:
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
        return [attention(known[prompt].sel(cell=[head]), title=f"{head} on prompt {prompt}")]

    return live(draw, controls)
