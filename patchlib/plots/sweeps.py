"""Figures of sweep results. Every function returns a plotly Figure and never shows it.

Under each title stands what was patched, where, how it was measured and on how much.
"""

import html
from collections.abc import Iterable, Mapping

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from patchlib import stats
from patchlib._util import cell_dims
from patchlib.errors import SweepError
from patchlib.plots import style, wording
from patchlib.plots.style import GREY, LINES, PALE

Results = Mapping[str, xr.Dataset] | xr.Dataset
"""The title of each panel or line -> its result; or one result."""


def of_metric(results: Results, metric: str | None, *allowed: tuple[str, ...]) -> dict[str, xr.Dataset]:
    """One metric of each result; SweepError where one was not swept over one of the sets of axes (none: all go)."""
    named = wording.check_results(results)
    if not named:
        raise SweepError("There is no result to draw: the mapping of names to results is empty.")
    checked = {}
    for name, result in named.items():
        dims = tuple(cell_dims(result)) if "patched" in result else ()
        if allowed and set(dims) not in map(set, allowed):
            wanted = " or ".join(map(str, allowed))
            raise SweepError(
                f"This figure needs a sweep over {wanted}; {name or 'this one'} is over {dims}. "
                "Where that is one axis too many, pick a value of it, as in result.sel(role='END')."
            )
        result = stats.one_metric(result if "metric" in result.dims else result.expand_dims("metric"), metric)
        # Anew, because a result whose prompts were cut down still has the effect of them all.
        checked[name] = result.assign(effect=stats.effect(result)) if "patched" in result else result
    return checked


def heatmap_panels(
    results: Results,
    metric: str | None = None,
    title: str = "Patching effect",
    axes: Iterable[str] = tuple(wording.AXIS_NAMES),
) -> go.Figure:
    """Maps of layer by head, position or role, side by side on one colour scale.

    Args:
        results: From ``sweep`` or ``path_patch``, over ``layer`` and one of ``axes``; several by the titles of panels.
        metric: Each result's first when None.
        title: Of the figure.
        axes: Which axes may stand beside ``layer``.

    Returns:
        One heat map for each result, dims [layer, the other axis], blue above 0, red below, grey without a number.

    Raises:
        SweepError: A result has other axes than ``layer`` and one more, or lacks the metric; or there is none.

    Example:
        >>> results = {
        ...     site: patchlib.sweep(model, task, site, ("layer", "head"), layers=[20], progress=False)
        ...     for site in ("z", "pattern")
        ... }
        >>> figure = patchlib.plots.heatmap_panels(results)
        >>> [panel.text for panel in figure.layout.annotations]
        ['z', 'pattern']
        >>> figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax
        True
    """
    named = of_metric(results, metric, *(("layer", axis) for axis in axes))
    panels = {}
    for name, result in named.items():
        panels[name] = result.effect.isel(metric=0).assign_attrs(hover=wording.unpatched(result))
    return style.draw_maps(panels, title, wording.about(named), wording.meaning_of(named))


def head_heatmap(result: xr.Dataset, metric: str | None = None, title: str = "Effect of each head") -> go.Figure:
    """Map of layer by head (or k/v head).

    Args:
        result: From ``sweep(over=("layer", "head"))``.
        metric: The result's first when None.
        title: Of the figure.

    Returns:
        A heat map, dims [layer, head], layers upward.

    Raises:
        SweepError: As ``heatmap_panels``.

    Example:
        >>> result = patchlib.sweep(model, task, "z", ("layer", "head"), layers=[20], progress=False)
        >>> heat = patchlib.plots.head_heatmap(result).data[0]
        >>> heat.z.shape, heat.x[heat.z[0].argmax()]
        ((1, 9), 'H0')
    """
    return heatmap_panels(result, metric, title, axes=("head", "kv_head"))


def position_heatmap(result: xr.Dataset, metric: str | None = None, title: str = "Effect by position") -> go.Figure:
    """Map of layer by token position or role, labelled with the tokens.

    Args:
        result: From ``sweep(over=("layer", "pos"))`` or ``("layer", "role")``.
        metric: The result's first when None.
        title: Of the figure.

    Returns:
        A heat map, dims [layer, pos or role], layers upward.

    Raises:
        SweepError: As ``heatmap_panels``.

    Example:
        >>> result = patchlib.sweep(model, task, "resid_pre", ("layer", "role"), layers=[0, 29], progress=False)
        >>> heat = patchlib.plots.position_heatmap(result).data[0]
        >>> {layer: heat.x[row.argmax()] for layer, row in zip(heat.y, heat.z)}
        {'0': 'S2', '29': 'END'}
    """
    return heatmap_panels(result, metric, title, axes=("pos", "role"))


def layer_lines(results: Results, metric: str | None = None, title: str = "Effect of each layer") -> go.Figure:
    """A line for each result, with 95% bands.

    Args:
        results: From ``sweep(over=("layer",))``; several by the names of their lines.
        metric: Each result's first when None.
        title: Of the figure.

    Returns:
        Effect by layer; a band for each line whose result has more than one prompt.

    Raises:
        SweepError: As ``heatmap_panels``.

    Example:
        >>> results = {
        ...     site: patchlib.sweep(model, task, site, ("layer",), layers=[10, 20], progress=False)
        ...     for site in ("attn_out", "mlp_out")
        ... }
        >>> lines = [line for line in patchlib.plots.layer_lines(results).data if line.name]
        >>> [(line.name, len(line.x)) for line in lines]
        [('attn_out', 2), ('mlp_out', 2)]
    """
    named = of_metric(results, metric, ("layer",))
    figure, facts = go.Figure(), [wording.about(named), ", ".join(wording.meaning_of(named)[1:])]
    for i, (name, result) in enumerate(named.items()):
        interval = stats.effect_interval(result).dropna("layer")
        if interval.sizes["layer"]:  # a single prompt has none
            facts[2:] = ["bands: 95% intervals over prompts"]
            low, high = interval.low.to_series(), interval.high.to_series()
            style.add_band(figure, low, high, LINES[i % len(LINES)], 0.15, name)
        style.add_line(figure, result.layer.values, result.effect.values[0], name, i)
    layers = np.unique(np.concatenate([result.layer.values for result in named.values()]))
    figure.update_xaxes(range=[layers[0] - 0.5, layers[-1] + 0.5])
    style.effect_by_layer(figure, title, "; ".join(facts), len(layers))
    style.say_if_empty(figure, np.concatenate([result.effect.values for result in named.values()], axis=None))
    return figure.update_layout(showlegend=any(named))


def top_bar(result: xr.Dataset, top_k: int = 15, metric: str | None = None, title: str = "Top effects") -> go.Figure:
    """The cells of any sweep whose effects are largest in size, whatever their sign, with 95% intervals.

    Args:
        result: From ``sweep``, ``path_patch``, ``patch_set`` or ``patch_subspace``.
        top_k: How many cells.
        metric: The result's first when None.
        title: Of the figure.

    Returns:
        A bar for each row of ``summary_table``, the largest on top.

    Raises:
        SweepError: Not a result of patching, or it lacks the metric; top_k below 1.

    Example:
        >>> result = patchlib.sweep(model, task, "z", ("layer", "head"), layers=[20], progress=False)
        >>> patchlib.plots.top_bar(result, top_k=3).data[0].y[0]
        'L20H0'
    """
    named = of_metric(result, metric)
    result = named[""]
    if "patched" not in result or not {"layer", "set", "basis"} & set(cell_dims(result)):
        raise SweepError(
            "Bars need a result of sweep() over 'layer', of patch_set or of patch_subspace; this one has "
            f"{', '.join(map(str, result.dims))}."
        )
    table = stats.summary_table(result, top_k).dropna(subset="effect")
    names = [html.escape(name, quote=False) for name in wording.cell_names(table)]
    has_interval = bool(table.ci_low.notna().any())  # a single prompt has none
    subtitle = wording.about(named) + ("; lines: 95% intervals over prompts" if has_interval else "")
    figure = style.draw_bars(names, table.effect.to_list(), title, subtitle, wording.meaning_of(named))
    interval = " [%{customdata[0]:.3f}, %{customdata[1]:.3f}]" if has_interval else ""
    arms = {"array": (table.ci_high - table.effect).round(4), "arrayminus": (table.effect - table.ci_low).round(4)}
    return figure.update_traces(
        error_x={**arms, "color": "#333", "thickness": 1.2, "visible": has_interval},
        customdata=table[["ci_low", "ci_high"]].round(4),
        hovertemplate=f"%{{y}}<br>effect %{{x:.3f}}{interval}{wording.unpatched(result)}<extra></extra>",
    )


def contrast_plot(results: Results, metric: str | None = None, title: str = "Clean against corrupted") -> go.Figure:
    """Each prompt's metric on its clean and its corrupted version, joined by a line; a panel for each result.

    Args:
        results: Any of ``sweep`` or ``baseline``. Cut down to one cell, as in ``result.sel(layer=9, head=6)``, it has
            its patched forward passes between the two.
        metric: Each result's first when None.
        title: Of the figure.

    Returns:
        A panel for each result, a line for each prompt.

    Raises:
        SweepError: There is no result, or one lacks the metric.

    Example:
        >>> figure = patchlib.plots.contrast_plot(patchlib.baseline(model, task))
        >>> figure.data[0].x[:3]  # None: a gap before the next prompt's line
        ('clean', 'corrupted', None)
    """
    named = of_metric(results, metric)
    figure = style.side_by_side(named)
    for column, (name, result) in enumerate(named.items(), start=1):
        colors = dict(style.FORWARD_COLORS)
        if "patched" not in result or cell_dims(result):
            del colors["patched"]
            named[name] = result.drop_vars(["patched", "effect"], errors="ignore")
        n = result.sizes["example"]
        points = [(kind, i) for i in range(n) for kind in (*colors, None)]  # None: a gap before the next prompt's line
        x, y = [kind for kind, _ in points], [kind and round(float(result[kind][0, i]), 4) for kind, i in points]
        text = [_prompt(result, kind, i) for kind, i in points]
        hover = {"text": text, "hovertemplate": "%{x} %{y:.3f}<br>%{text}<extra></extra>", "showlegend": False}
        dots = {"color": [*colors.values(), GREY] * n, "size": 8}
        look = {"mode": "lines+markers", "line": {"color": GREY, "width": 1}, "marker": dots}
        figure.add_scatter(x=x, y=y, **look, **hover, row=1, col=column)
        figure.update_xaxes(type="category", range=[-0.3, len(colors) - 0.7], showgrid=False, row=1, col=column)
    figure.add_hline(y=0, line={"color": GREY, "width": 1, "dash": "dot"})
    figure.update_yaxes(gridcolor=PALE, zeroline=False)
    figure.update_yaxes(title=" / ".join(dict.fromkeys(map(wording.metric_name, named.values()))), row=1, col=1)
    return style.style(figure, title, wording.about(named), 420, above=20 * any(named))


def _prompt(result: xr.Dataset, kind: str | None, i: int) -> str:
    """The text of prompt i for what hovering shows, where the result has it."""
    name = f"{kind}_prompt"
    return html.escape(str(result[name].values[i]), quote=False) if name in result else ""
