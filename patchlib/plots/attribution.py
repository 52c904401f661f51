"""Figures of estimates beside what patching gives, and of what circuits of each size keep."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from patchlib._util import check_count, check_kind, check_number
from patchlib.circuits.curves import FaithfulnessCurve
from patchlib.patching.attribution.agreement import paired_effects
from patchlib.plots.names import axis_range, place_names
from patchlib.plots.style import AXIS, GREY, LEGEND, LINES, PALE, RED, SILENT, add_band, side_by_side, style
from patchlib.plots.wording import DIRECTIONS, METRIC_NAMES

BLUE = LINES[0]
CURVES = {
    ("edges", ""): ("edges", LINES[0], "solid"),
    ("nodes", ""): ("nodes", LINES[1], "solid"),
    ("edges", " complement"): ("all but these edges", LINES[0], "dot"),
    ("nodes", " complement"): ("all but these nodes", LINES[1], "dot"),
}
"""(of, end of the ranking) -> name, colour and dashes of its line."""
OTHER_DASHES = ("longdashdot", "dash", "dashdot", "longdash")
"""Of the second ablation's lines, and of further ones."""


def estimate_against_exact(
    estimates: Mapping[str, xr.Dataset] | xr.Dataset,
    exact: xr.Dataset | None = None,
    top_k: int = 5,
    title: str = "Estimated against exact effects",
) -> go.Figure:
    """Each cell's estimated effect against the one that patching gives; a panel for each estimate.

    On the dashed line an estimate is right. The largest misses are named.

    Args:
        estimates: From ``attribute``; or several of the same cells by name.
        exact: From ``sweep`` of the same cells; when None, each estimate's own checked cells (``check_top``).
        top_k: How many of the largest misses are named; 0 for none.
        title: Of the figure.

    Returns:
        A point for each cell: the exact effect across, the estimated one upward, on the same axes in all panels.

    Raises:
        SweepError: As ``agreement``; a count below 0.

    Example:
        >>> estimate = patchlib.attribute(model, task, "mlp_out", ("layer",), check_top=30, progress=False)
        >>> figure = patchlib.plots.estimate_against_exact(estimate, top_k=1)
        >>> [name for name in figure.data[0].text if name]
        ['L0']
    """
    check_count("top_k", top_k, least=0)
    paired = paired_effects(estimates, exact)
    named = {"": estimates} if isinstance(estimates, xr.Dataset) else estimates
    both = pd.concat([pairs[["estimated", "exact"]] for pairs in paired.values()]).to_numpy()
    ends = axis_range(both)
    figure = side_by_side(named)
    for column, pairs in enumerate(paired.values(), start=1):
        panel, miss = {"row": 1, "col": column}, (pairs.estimated - pairs.exact).to_numpy()
        top = np.argsort(-abs(miss), kind="stable")[:top_k]
        is_top = np.isin(np.arange(len(miss)), top)
        x, y = (pairs[kind].to_numpy()[top] for kind in ("exact", "estimated"))
        room = (680 / len(paired), 330.0)
        sides = place_names(x, y, pairs.cell.iloc[top].tolist(), (ends, ends), room)
        named_here = {int(top[i]): side for i, side in sides.items()}
        line = {"color": GREY, "dash": "dash", "width": 1}
        figure.add_scatter(x=pairs.exact.round(4), y=pairs.estimated.round(4), mode="markers+text", **panel)
        figure.data[-1].update(
            marker={"size": np.where(is_top, 9, 6), "color": np.where(is_top, RED, BLUE), "opacity": 0.75},
            text=[name if i in named_here else "" for i, name in enumerate(pairs.cell)],
            textposition=[named_here.get(i, "middle right") for i in range(len(pairs))],
            textfont={"size": 11},
            customdata=pairs.cell,
            hovertemplate="%{customdata}<br>exact %{x:.3f}<br>estimated %{y:.3f}<extra></extra>",
            showlegend=False,
        )
        figure.add_scatter(x=ends, y=ends, mode="lines", line=line, **SILENT, **panel)
        figure.update_xaxes(title="exact effect", **panel)
    figure.update_xaxes(AXIS, range=ends).update_yaxes(AXIS, range=ends)
    figure.update_yaxes(title="estimated effect", row=1, col=1)
    return style(figure, title, _about_estimates(named, top_k), 480, above=20 * any(named))


def _about_estimates(named: Mapping[str, xr.Dataset], top_k: int) -> str:
    first = next(iter(named.values()))
    n, attrs = first.sizes["example"], first.attrs
    metric = str(first.metric.values[0])
    direction = DIRECTIONS[attrs["direction"]].partition(" ")[0]
    pairs = "1 prompt pair" if n == 1 else f"{n} prompt pairs"
    patched = f"{direction}, {attrs['site']}, {METRIC_NAMES.get(metric, metric)}, {pairs}, {attrs.get('model', '')}"
    misses = f"; red: the {top_k} largest misses" if top_k else ""
    return f"{patched}; dashed: both equal{misses}"


def faithfulness_curve(
    curve: FaithfulnessCurve, most: float = 3.0, title: str = "How much of the behaviour circuits of each size have"
) -> go.Figure:
    """Faithfulness over the share of edges or nodes that is kept: chosen by size on the left, by sign on the right.

    Of several ablations the first has solid lines and pale bands, 95% intervals over prompts. Dotted lines
    are what is left without the circuit; grey lines are circuits drawn at random, the same in both panels; both of the
    first ablation.

    Args:
        curve: From ``faithfulness_curve``.
        most: The axis ends at most here, and at minus as much, since curves may leave it far behind.
        title: Of the figure.

    Returns:
        The share kept across, on a logarithmic axis, and the faithfulness upward.

    Raises:
        SweepError: Not such a curve, or ``most`` is below 1.

    Example:
        >>> scores = patchlib.attribute_edges(model, task, progress=False)
        >>> ablation = patchlib.EdgeAblation(model, task)
        >>> curve = patchlib.faithfulness_curve(ablation, scores, shares=[0.05, 1], nodes=False)
        >>> sorted({trace.name for trace in patchlib.plots.faithfulness_curve(curve).data if trace.name})
        ['all but these edges', 'edges', 'random edges']
    """
    check_kind("A curve", curve, FaithfulnessCurve, "give what patchlib.faithfulness_curve returned")
    check_number("most", most, 1)
    table = curve.table
    panels = {"magnitude": "by size of the scores", "signed": "by sign: what supports it first"}
    figure = side_by_side(panels.values())
    is_random = table.ranking.str.fullmatch(r"random \d+")
    sources = table.source.unique().tolist()
    for column, ranking in enumerate(panels, start=1):
        panel = {"row": 1, "col": column}
        for _, rows in table[is_random & (table.source == sources[0])].groupby("ranking", sort=False):
            first = column == 1 and rows.ranking.iloc[0] == "random 1"
            _add_curve(figure, rows, "random edges", GREY, "solid", first, panel)
        for number, source in enumerate(sources):
            for (of, end), (name, color, dash) in CURVES.items():
                rows = table[(table.source == source) & (table.of == of) & (table.ranking == ranking + end)]
                if len(rows) and not (number and end):
                    said = name if len(sources) == 1 or end else f"{name}, {source}"
                    dash = OTHER_DASHES[number % 4] if number else dash
                    _add_curve(figure, rows, said, color, dash, column == 1, panel)
        figure.add_hline(y=1, line={"color": GREY, "width": 1, "dash": "dash"}, **panel)
        figure.update_xaxes(title="share of edges, or of nodes, kept", type="log", tickformat="~%", **panel)
    low, high = float(table.faithfulness.min()), float(table.faithfulness.max())
    figure.update_xaxes(gridcolor=PALE, tickvals=[0.001, 0.01, 0.1, 1], ticktext=["0.1%", "1%", "10%", "100%"])
    figure.update_yaxes(AXIS, range=[max(-most, min(-0.2, low - 0.1)), min(most, max(1.2, high + 0.1))])
    figure.update_yaxes(title="faithfulness", row=1, col=1)
    said = f"{curve.protocol}; bands: 95% intervals"
    figure = style(figure, title, said, 520, above=60)
    return figure.update_layout(legend={**LEGEND, "y": 1.08})


def _add_curve(
    figure: go.Figure, rows: pd.DataFrame, name: str, color: str, dash: str, in_legend: bool, panel: dict[str, int]
) -> None:
    """A line through its circuits, with a band around it unless it is one beside which the others stand."""
    by_share = rows.set_index("share")
    if dash == "solid" and by_share.ci_low.notna().all():
        add_band(figure, by_share.ci_low, by_share.ci_high, color, 0.15, name, **panel)
    look = {"line": {"color": color, "width": 2, "dash": dash}, "marker": {"size": 5}, "mode": "lines+markers"}
    hover = f"{name}<br>%{{x:.1%}} kept: %{{customdata}} edges<br>faithfulness %{{y:.2f}}<extra></extra>"
    figure.add_scatter(x=rows.share, y=rows.faithfulness.round(4), customdata=rows.n_edges, name=name, **panel)
    figure.data[-1].update(look, hovertemplate=hover, legendgroup=name, showlegend=in_legend)
