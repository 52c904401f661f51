"""Figures of cells that are patched together."""

import html

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from patchlib.plots import style
from patchlib.plots.wording import DIRECTIONS, METRIC_NAMES, check_interactions

MEANING = ("interaction", "0 = the sum of both", "above 0 = more than that", "below 0 = less")


def interactions(pairs: xr.Dataset, title: str = "Pairs together, minus the sum of the two alone") -> go.Figure:
    """A matrix of pairs of cells, with what each cell does alone beside its name.

    Args:
        pairs: From ``interactions``.
        title: Of the figure.

    Returns:
        A heat map, blue above 0 and red below, with the numbers in it; bold where the interval leaves out 0.

    Raises:
        SweepError: These are no interactions.

    Example:
        >>> pairs = patchlib.interactions(model, task, [(20, 0), (23, 3)], progress=False)
        >>> heat = patchlib.plots.interactions(pairs).data[0]
        >>> heat.y, heat.text[0, 1]
        (('L20H0 (0.36)', 'L23H3 (0.34)'), '<b>0.24</b>')
    """
    check_interactions(pairs)
    values = pairs.interaction.transpose("cell", "other").values
    low, high = (pairs[name].transpose("cell", "other").values for name in ("low", "high"))
    cells = [html.escape(str(cell), quote=False) for cell in pairs.cell.values]
    rows = [f"{cell} ({alone:.2f})" for cell, alone in zip(cells, pairs.alone.values, strict=True)]
    numbers_of = np.vectorize(lambda x, bold: "" if np.isnan(x) else f"<b>{x:.2f}</b>" if bold else f"{x:.2f}")
    text = numbers_of(values.round(2) + 0, (low > 0) | (high < 0))  # + 0: no minus before 0
    together = pairs.together.transpose("cell", "other").values
    numbers = values[np.isfinite(values)]
    limit = max(0.05, float(np.ceil(float(np.abs(numbers).max(initial=0.0)) * 20)) / 20)
    hover = (
        "%{y} with %{x}<br>interaction %{z:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<br>"
        "together %{customdata[2]:.3f}<extra></extra>"
    )
    figure = go.Figure(
        go.Heatmap(
            z=values.round(4), x=cells, y=rows, text=text, texttemplate="%{text}" if len(cells) <= 12 else None,
            customdata=np.stack([low, high, together], axis=-1).round(4), hovertemplate=hover, coloraxis="coloraxis",
            textfont={"size": 12}, xgap=1, ygap=1, hoverongaps=False,
        )
    )  # fmt: skip
    figure.update_xaxes(type="category", showgrid=False, tickangle=0 if max(map(len, cells)) < 7 else -45)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, title="cell (its effect alone)")
    attrs = pairs.attrs
    metric = METRIC_NAMES.get(attrs["metric"], attrs["metric"])
    facts = [
        DIRECTIONS[attrs["direction"]],
        attrs["site"],
        metric,
        f"{attrs['n_examples']} prompt pairs",
        attrs["model"],
    ]
    said = ", ".join(facts) + f"; bold: the {attrs['confidence']:.0%} intervals of all pairs together leave out 0"
    style.style(figure, title, said, min(900, 250 + 34 * len(cells)), min(900, 420 + 56 * len(cells)))
    colorbar = {"title": {"text": "<br>".join([*MEANING, "&nbsp;"]), "font": {"size": 12}}, "thickness": 20}
    coloraxis = {"colorscale": "RdBu", "cmin": -limit, "cmax": limit, "colorbar": colorbar}
    return style.say_if_empty(figure, values).update_layout(plot_bgcolor="#cdcdcd", coloraxis=coloraxis)
