"""Figures of sweep results. Every function returns a plotly Figure and never shows it.

Under each title stands what was patched, where, how it was measured and on how much.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from patchlib import stats
from patchlib._util import cell_dims, cell_name
from patchlib.errors import SweepError
from patchlib.plots.style import (
    GREY,
    LEGEND,
    LINES,
    PALE,
    draw_bars,
    draw_maps,
    layer_step,
    say_if_empty,
    style,
)
from patchlib.plots.wording import AXIS_NAMES, about, meaning_of, metric_name, unpatched

Results = Mapping[str, xr.Dataset] | xr.Dataset  # the title of each panel or line -> result; or one result


def _picked(results: Results, metric: str | None, *allowed: tuple[str, ...]) -> dict[str, xr.Dataset]:
    """One metric of each result; SweepError where one was not swept over one of the sets of axes (none: all go)."""
    named = {"": results} if isinstance(results, xr.Dataset) else results  # a Dataset is a Mapping too
    if not named:
        raise SweepError("There is no result to draw: the mapping of names to results is empty.")
    picked = {}
    for name, result in named.items():
        dims = tuple(cell_dims(result)) if "patched" in result else ()
        if allowed and set(dims) not in map(set, allowed):
            wanted = " or ".join(map(str, allowed))
            raise SweepError(
                f"This figure needs a sweep over {wanted}; {name or 'this one'} is over {dims}. "
                "Where that is one axis too many, pick a value of it, as in result.sel(role='END')."
            )
        one = stats.one_metric(result if "metric" in result.dims else result.expand_dims("metric"), metric)
        picked[name] = one.assign(effect=stats.effect(one)) if "patched" in one else one
    return picked


def heatmap_panels(
    results: Results, metric: str | None = None, title: str = "Patching effect", axes: Iterable[str] = AXIS_NAMES
) -> go.Figure:
    """Maps of layer by head, position or role (one of ``axes``), side by side on one colour scale.

    ``metric`` is each result's first when None, here as in the other figures.

    Raises:
        SweepError: A result has other axes than ``layer`` and one more, or lacks the metric.
    """
    picked = _picked(results, metric, *(("layer", axis) for axis in axes))
    panels = {name: one.effect.isel(metric=0).assign_attrs(hover=unpatched(one)) for name, one in picked.items()}
    return draw_maps(panels, title, about(picked), meaning_of(picked))


def head_heatmap(result: xr.Dataset, metric: str | None = None, title: str = "Effect of each head") -> go.Figure:
    """Map of layer by head (or k/v head) from ``sweep(over=("layer", "head"))``; raises as ``heatmap_panels``."""
    return heatmap_panels(result, metric, title, axes=("head", "kv_head"))


def position_heatmap(result: xr.Dataset, metric: str | None = None, title: str = "Effect by position") -> go.Figure:
    """Map of layer by token position or role, labelled with the tokens; raises as ``heatmap_panels``."""
    return heatmap_panels(result, metric, title, axes=("pos", "role"))


def layer_lines(results: Results, metric: str | None = None, title: str = "Effect of each layer") -> go.Figure:
    """A line for each result of ``sweep(over=("layer",))``, with 95% bootstrap bands; raises as ``heatmap_panels``."""
    picked = _picked(results, metric, ("layer",))
    figure, said = go.Figure(), [about(picked), ", ".join(meaning_of(picked)[1:])]
    for i, (name, one) in enumerate(picked.items()):
        color, interval = LINES[i % len(LINES)], stats.effect_interval(one).dropna("layer")
        if interval.sizes["layer"]:  # a single prompt has none
            said[2:] = ["bands: 95% bootstrap over prompts"]
            figure.add_scatter(
                x=np.concatenate([interval.layer, interval.layer[::-1]]),
                y=np.round(np.concatenate([interval.high, interval.low[::-1]]), 4), fill="toself", fillcolor=color,
                opacity=0.15, mode="none", hoverinfo="skip", showlegend=False, legendgroup=name,
            )  # fmt: skip
        figure.add_scatter(
            x=one.layer.values, y=np.round(one.effect.values[0], 4), name=name, legendgroup=name, mode="lines+markers",
            line={"color": color, "width": 2, "dash": ("solid", "dash", "dot")[i // len(LINES) % 3]},
            hovertemplate=f"{name} layer %{{x}}<br>effect %{{y:.3f}}<extra></extra>",
        )  # fmt: skip
    layers = np.unique(np.concatenate([one.layer.values for one in picked.values()]))
    figure.add_hline(y=0, line={"color": GREY, "width": 1})
    ends = [layers[0] - 0.5, layers[-1] + 0.5]
    figure.update_xaxes(title="layer", showgrid=False, zeroline=False, dtick=layer_step(len(layers)), range=ends)
    figure.update_yaxes(title="effect", gridcolor=PALE, zeroline=False)
    style(figure, title, "; ".join(said), 440, above=30)
    say_if_empty(figure, np.concatenate([one.effect.values for one in picked.values()], axis=None))
    return figure.update_layout(showlegend=any(picked), legend=LEGEND)


def top_bar(result: xr.Dataset, top_k: int = 15, metric: str | None = None, title: str = "Top effects") -> go.Figure:
    """The cells of any sweep with the largest absolute effect, with 95% bootstrap intervals (``summary_table``)."""
    one = (picked := _picked(result, metric))[""]
    if "patched" not in one or "layer" not in cell_dims(one):
        raise SweepError(f"Bars need a result of sweep() over 'layer'; this one has {', '.join(map(str, one.dims))}.")
    table = stats.summary_table(one, top_k).dropna(subset="effect")
    names = [html.escape(cell_name(row), quote=False) for row in table.to_dict("records")]
    known = bool(table.ci_low.notna().any())  # a single prompt has no interval
    said = about(picked) + "; lines: 95% bootstrap over prompts" * known
    figure = draw_bars(names, table.effect.to_list(), title, said, meaning_of(picked))
    arms = {"array": (table.ci_high - table.effect).round(4), "arrayminus": (table.effect - table.ci_low).round(4)}
    interval = " [%{customdata[0]:.3f}, %{customdata[1]:.3f}]" * known
    return figure.update_traces(
        error_x={**arms, "color": "#333", "thickness": 1.2, "visible": known},
        customdata=table[["ci_low", "ci_high"]].round(4),
        hovertemplate=f"%{{y}}<br>effect %{{x:.3f}}{interval}{unpatched(one)}<extra></extra>",
    )


def contrast_plot(results: Results, metric: str | None = None, title: str = "Clean against corrupted") -> go.Figure:
    """Each prompt's metric on its clean and its corrupted version, joined by a line; a panel for each result.

    Any result of ``sweep`` or ``baseline`` goes. Cut down to one cell, as in ``result.sel(layer=9, head=6)``, it has
    its patched runs between the two.
    """
    picked = _picked(results, metric)
    figure = make_subplots(1, len(picked), shared_yaxes=True, horizontal_spacing=0.12 / len(picked),
                           subplot_titles=list(picked) if any(picked) else None)  # fmt: skip
    for column, (name, one) in enumerate(picked.items(), start=1):
        runs = {"clean": LINES[0], "patched": LINES[2], "corrupted": LINES[1]}
        if "patched" not in one or cell_dims(one):
            del runs["patched"]
            picked[name] = one.drop_vars(["patched", "effect"], errors="ignore")
        n = one.sizes["example"]
        points = [(run, i) for i in range(n) for run in (*runs, None)]  # None: a gap before the next prompt's line
        figure.add_scatter(
            x=[run for run, _ in points], mode="lines+markers", showlegend=False, line={"color": GREY, "width": 1},
            y=[run and round(float(one[run][0, i]), 4) for run, i in points],
            marker={"color": [*runs.values(), GREY] * n, "size": 8},
            text=[html.escape(str(one[f"{run}_prompt"].values[i]), quote=False) if f"{run}_prompt" in one else ""
                  for run, i in points],
            hovertemplate="%{x} %{y:.3f}<br>%{text}<extra></extra>", row=1, col=column,
        )  # fmt: skip
        figure.update_xaxes(type="category", range=[-0.3, len(runs) - 0.7], showgrid=False, row=1, col=column)
    figure.add_hline(y=0, line={"color": GREY, "width": 1, "dash": "dot"})
    figure.update_yaxes(gridcolor=PALE, zeroline=False)
    figure.update_yaxes(title=" / ".join(dict.fromkeys(map(metric_name, picked.values()))), row=1, col=1)
    return style(figure, title, about(picked), 420, above=20 * any(picked))
