"""Figures of sweep results. Every function returns a plotly Figure and never shows it.

One look for all: red to blue around 0, the same range for panels of one quantity, layers from the bottom up as
the model computes them, and under the title what was patched, where, how it was measured and on how much.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import xarray as xr
from plotly.subplots import make_subplots

from patchlib import stats
from patchlib.errors import SweepError

COLORS = "RdBu"  # red below 0, blue above; told apart by colour-blind readers too
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito 2008
GREY = "#8a8a8a"
METRIC_NAMES = {
    "logit_diff": "logit difference",
    "prob": "probability of the right answer",
    "kl": "KL to the clean run",
    "accuracy": "accuracy",
    "task_metric": "the task's own metric",
}
MEANING = {
    "denoise": "effect<br>1 = clean restored<br>0 = nothing<br>below 0 = worse",
    "noise": "effect<br>1 = clean destroyed<br>0 = nothing<br>below 0 = better",
}
AXIS_NAMES = {
    "head": "head",
    "kv_head": "k/v head",
    "pos": "position",
    "role": "position in the sentence",
    "layer": "layer",
}
_SMALL = {"size": 12, "color": "#5a5a5a"}


def set_renderer() -> None:
    """Let notebooks store figures as data, without plotly's 4.5 MB of JavaScript in every file.

    Colab has a renderer of its own, and PLOTLY_RENDERER in the environment goes before: with
    ``plotly_mimetype+png`` (and kaleido with a Chrome) figures are stored as pictures too, for GitHub.
    """
    if "PLOTLY_RENDERER" not in os.environ and "google.colab" not in sys.modules:
        pio.renderers.default = "plotly_mimetype"


def style(figure: go.Figure, title: str, subtitle: str, height: int) -> go.Figure:
    """The look that all figures share; title and subtitle say what is shown."""
    # Set here rather than as a template: plotly's default one adds 6.5 KB to each figure in a notebook.
    figure.update_layout(
        template="none",
        title={"text": title, "subtitle": {"text": subtitle, "font": _SMALL}, "x": 0.02, "y": 0.97, "yanchor": "top"},
        font={"family": "Helvetica, Arial, sans-serif", "size": 13, "color": "#222"},
        width=820,
        height=height,
        margin={"l": 70, "r": 30, "t": 90, "b": 70},
        paper_bgcolor="white",
        plot_bgcolor="white",
        hoverlabel={"font": {"size": 13}},
    )
    return figure


def _pick(result: xr.Dataset, metric: str | None) -> xr.Dataset:
    """One metric of a result, as a dataset without the metric axis."""
    return stats.one_metric(result, metric).isel(metric=0)


def _about(result: xr.Dataset) -> str:
    """The line under a title: what was patched, on what, and how it was measured."""
    how = "clean into corrupted" if result.attrs["direction"] == "denoise" else "corrupted into clean"
    n = result.attrs["n_examples"]
    metric = METRIC_NAMES.get(str(result.metric.item()), str(result.metric.item()))
    direction = {"denoise": "denoising", "noise": "noising"}[result.attrs["direction"]]
    where = "" if result.attrs["positions"] == "all" else f" at {result.attrs['positions']}"
    prompts = "1 prompt pair" if n == 1 else f"{n} prompt pairs"
    return f"{direction} {result.attrs['site']}{where} ({how}), {metric}, {prompts}, {result.attrs['model']}"


def _columns(result: xr.Dataset, axis: str) -> list[str]:
    """Tick labels of a map's columns; positions with the token or role that stands there."""
    values = result[axis].values
    if axis == "pos":
        labels = result.pos_label.values
        return [f"{label} {pos}".strip() for pos, label in zip(values, labels, strict=True)]
    return [f"H{value}" for value in values] if axis.endswith("head") else [str(value) for value in values]


def _range(effects: list[np.ndarray]) -> float:
    """Symmetric colour range that holds everything, rounded up to a tidy number."""
    values = np.concatenate([effect.ravel() for effect in effects])
    largest = np.abs(values[np.isfinite(values)]).max(initial=0.0)
    return max(0.05, float(np.ceil(largest * 20) / 20))


def heatmap_panels(
    results: Mapping[str, xr.Dataset],
    metric: str | None = None,
    title: str = "Patching effect",
    width: int | None = None,
) -> go.Figure:
    """Maps of layer by head, position or role, side by side on one colour scale.

    Args:
        results: Panel title -> result of ``sweep`` over ``layer`` and one other axis.
        metric: Which metric; each result's first when None.
        title: Of the whole figure.
        width: In pixels; by the number of columns when None.

    Raises:
        SweepError: A result has other axes than ``layer`` and one more, or lacks the metric.
    """
    picked = {name: _pick(result, metric) for name, result in results.items()}
    for name, result in picked.items():
        dims = stats.cell_dims(result)
        if len(dims) != 2 or "layer" not in dims:
            raise SweepError(f"A map needs a sweep over 'layer' and one other axis; {name!r} was over {tuple(dims)}.")
    axes = [next(dim for dim in stats.cell_dims(result) if dim != "layer") for result in picked.values()]
    grids = [result.effect.transpose("layer", axis).values for result, axis in zip(picked.values(), axes, strict=True)]
    limit = _range(grids)
    shown = len(picked) > 1
    figure = make_subplots(
        1, len(picked), subplot_titles=list(picked) if shown else None, shared_yaxes=True, horizontal_spacing=0.06,
        column_widths=[grid.shape[1] for grid in grids],
    )  # fmt: skip
    for column, (result, axis, grid) in enumerate(zip(picked.values(), axes, grids, strict=True), start=1):
        labels, layers = _columns(result, axis), result.layer.values
        figure.add_heatmap(
            z=np.round(grid, 4),
            x=list(range(len(labels))),
            y=layers,
            customdata=[labels] * len(layers),
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            hovertemplate=f"layer %{{y}}, {AXIS_NAMES[axis]} %{{customdata}}<br>effect %{{z:.3f}}<extra></extra>",
            row=1,
            col=column,
        )
        ticks = {"tickvals": list(range(len(labels))), "ticktext": labels, "tickangle": -45 if axis == "pos" else 0}
        figure.update_xaxes(title=AXIS_NAMES[axis], showgrid=False, zeroline=False, **ticks, row=1, col=column)
    n_layers = grids[0].shape[0]
    figure.update_yaxes(showgrid=False, zeroline=False, dtick=1 if n_layers <= 16 else 5, tick0=0)
    figure.update_yaxes(title="layer", row=1, col=1)
    first = next(iter(picked.values()))
    directions = {result.attrs["direction"] for result in picked.values()}
    meaning = MEANING[directions.pop()] if len(directions) == 1 else "effect<br>1 = all of it<br>0 = nothing"
    style(figure, title, _about(first) if not shown else _about_panels(picked), max(380, 170 + 15 * n_layers))
    figure.update_layout(
        plot_bgcolor="#e8e8e8",  # a cell without a number shows as grey, not as white, which is 0
        coloraxis={"colorscale": COLORS, "cmin": -limit, "cmax": limit, "colorbar": {"title": {"text": meaning}}},
        width=width or min(900, max(620, 260 + 34 * sum(grid.shape[1] for grid in grids) + 40 * len(grids))),
        margin={"b": 110 if "pos" in axes else 70, "t": 110 if shown else 90},
    )
    return figure


def _about_panels(picked: Mapping[str, xr.Dataset]) -> str:
    first = next(iter(picked.values()))
    metric = METRIC_NAMES.get(str(first.metric.item()), str(first.metric.item()))
    return f"{metric}, {first.attrs['n_examples']} prompt pairs, {first.attrs['model']}"


def head_heatmap(
    result: xr.Dataset, metric: str | None = None, title: str = "Effect of patching each head"
) -> go.Figure:
    """Map of layer by head (or k/v head) from ``sweep(over=("layer", "head"))``; raises as ``heatmap_panels``."""
    return heatmap_panels({"": result}, metric, title)


def position_heatmap(
    result: xr.Dataset, metric: str | None = None, title: str = "Effect of patching each layer and position"
) -> go.Figure:
    """Map of layer by token position or role, labelled with the tokens; raises as ``heatmap_panels``."""
    return heatmap_panels({"": result}, metric, title)


def layer_lines(
    results: Mapping[str, xr.Dataset], metric: str | None = None, title: str = "Effect of patching whole layers"
) -> go.Figure:
    """Effect by layer for several sites or directions, with 95% bootstrap bands over prompts.

    Args:
        results: Line name -> result of ``sweep(over=("layer",))``.
        metric: Which metric; each result's first when None.
        title: Of the figure.

    Raises:
        SweepError: A result was not swept over ``layer`` alone, or lacks the metric.
    """
    figure = go.Figure()
    for color, (name, result) in zip(LINES * len(results), results.items(), strict=False):
        one = _pick(result, metric)
        if stats.cell_dims(one) != ["layer"]:
            raise SweepError(
                f"layer_lines needs sweeps over ('layer',); {name!r} was over {tuple(stats.cell_dims(one))}."
            )
        interval = stats.effect_interval(result, metric)
        layers, effect = one.layer.values, np.round(one.effect.values, 4)
        band = np.round(np.concatenate([interval.high.values, interval.low.values[::-1]]), 4)
        figure.add_scatter(
            x=np.concatenate([layers, layers[::-1]]), y=band, fill="toself", fillcolor=color, opacity=0.15,
            line={"width": 0}, hoverinfo="skip", showlegend=False, legendgroup=name,
        )  # fmt: skip
        figure.add_scatter(
            x=layers, y=effect, name=name, legendgroup=name, mode="lines+markers", marker={"size": 5},
            line={"color": color, "width": 2}, hovertemplate=f"{name}, layer %{{x}}<br>effect %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
    figure.add_hline(y=0, line={"color": GREY, "width": 1})
    figure.update_xaxes(title="layer", showgrid=False, zeroline=False)
    figure.update_yaxes(title="effect (1 = all of it, 0 = nothing)", gridcolor="#eee", zeroline=False)
    about = _about_panels({name: _pick(result, metric) for name, result in results.items()})
    style(figure, title, f"{about}; bands: 95% bootstrap over prompts", 420)
    return figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}, margin={"t": 110})


def top_bar(
    result: xr.Dataset, top_k: int = 15, metric: str | None = None, title: str = "Largest effects"
) -> go.Figure:
    """The cells with the largest absolute effect as bars, with 95% bootstrap intervals (``stats.summary_table``)."""
    table = stats.summary_table(result, top_k, metric).dropna(subset="effect")[::-1]
    names = [stats.cell_name(row) for row in table.to_dict("records")]
    figure = go.Figure(
        go.Bar(
            x=table.effect.round(4),
            y=names,
            orientation="h",
            marker={"color": [LINES[0] if effect > 0 else "#B2182B" for effect in table.effect]},
            error_x={
                "array": (table.ci_high - table.effect).round(4),
                "arrayminus": (table.effect - table.ci_low).round(4),
                "color": "#333",
                "thickness": 1.2,
            },
            hovertemplate="%{y}<br>effect %{x:.3f}<extra></extra>",
        )
    )
    figure.update_xaxes(title="effect, with 95% bootstrap interval over prompts", gridcolor="#eee", zerolinecolor=GREY)
    figure.update_yaxes(showgrid=False)
    one = _pick(result, metric)
    return style(figure, title, _about(one), 150 + 24 * max(4, len(names))).update_layout(margin={"l": 110})


def contrast_plot(
    results: Mapping[str, xr.Dataset], metric: str | None = None, title: str = "The contrast: clean against corrupted"
) -> go.Figure:
    """Each prompt's metric on its clean and its corrupted version, joined by a line; one panel a task.

    Args:
        results: Panel title -> any result of ``sweep``.
        metric: Which metric; each result's first when None.
        title: Of the figure.
    """
    figure = make_subplots(1, len(results), subplot_titles=list(results), shared_yaxes=True, horizontal_spacing=0.04)
    picked = {name: _pick(result, metric) for name, result in results.items()}
    for column, one in enumerate(picked.values(), start=1):
        for i in range(one.sizes["example"]):
            figure.add_scatter(
                x=["clean", "corrupted"], y=np.round([one.clean.values[i], one.corrupted.values[i]], 4),
                mode="lines+markers", line={"color": GREY, "width": 1}, marker={"color": [LINES[0], LINES[1]], "size": 8},
                text=[one.clean_prompt.values[i], one.corrupted_prompt.values[i]],
                hovertemplate="%{text}<br>%{y:.2f}<extra></extra>", showlegend=False, row=1, col=column,
            )  # fmt: skip
    figure.add_hline(y=0, line={"color": GREY, "width": 1, "dash": "dot"})
    first = next(iter(picked.values()))
    name = METRIC_NAMES.get(str(first.metric.item()), str(first.metric.item()))
    figure.update_yaxes(gridcolor="#eee", zeroline=False)
    figure.update_yaxes(title=name, row=1, col=1)
    figure.update_xaxes(showgrid=False, range=[-0.3, 1.3])
    return style(figure, title, _about_panels(picked), 420).update_layout(margin={"t": 110})
