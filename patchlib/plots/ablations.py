"""Figures of what is left without some heads: knock-outs, backup heads, completeness, minimality."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from patchlib.errors import SweepError
from patchlib.plots.circuits import BLUE, MARKS, color_of
from patchlib.plots.heads import head_points
from patchlib.plots.names import axis_range
from patchlib.plots.style import AXIS, GREY, LEGEND, LINES, PALE, RED, SILENT, style
from patchlib.plots.wording import METRIC_NAMES, check_table


def knock_out_strip(
    table: pd.DataFrame, title: str = "Knocked out, against random heads of the same layers"
) -> go.Figure:
    """What the loss of each set changes: a row for all ``random ...`` sets, one for each other.

    Args:
        table: From ``knock_out`` or ``ablated_losses``.
        title: Of the figure.

    Returns:
        The change of the metric across, with 95% intervals, the sets upward.

    Example:
        >>> sets = {"the writer": [(23, 3)], **patchlib.random_like(model, [(23, 3)], n_sets=3)}
        >>> table = patchlib.knock_out(patchlib.Ablation(model, task), sets)
        >>> figure = patchlib.plots.knock_out_strip(table)
        >>> [trace.y[0] for trace in figure.data]
        ['3 random sets', 'the writer']
    """
    check_table(table, "knock_out", "metric_mean", "change", "ci_low", "ci_high", "heads", "n", "metric")
    if "none" not in table.index:
        raise SweepError(
            "The table lacks the row 'none', with which the others are compared: give what knock_out returned."
        )
    sets = table.drop(index="none")
    is_random = sets.index.str.startswith("random ")
    figure = go.Figure()
    if n_random := int(is_random.sum()):
        label, change = [f"{n_random} random sets"] * n_random, sets.change[is_random]
        marker = {"color": GREY, "size": 8, "opacity": 0.6}
        figure.add_scatter(x=change.round(4), y=label, marker=marker, customdata=sets["heads"][is_random])
    named = sets[~is_random]
    for i, (name, row) in enumerate(zip(named.index, named.to_dict("records"), strict=True)):
        change, marker = row["change"], {"color": LINES[i % len(LINES)], "size": 11}
        bar = {"symmetric": False, "array": [row["ci_high"] - change], "arrayminus": [change - row["ci_low"]]}
        figure.add_scatter(x=[round(change, 4)], y=[name], marker=marker, error_x=bar, customdata=[row["heads"]])
    figure.update_traces(mode="markers", hovertemplate="%{customdata}<br>%{x:.2f}<extra></extra>")
    metric = METRIC_NAMES.get(table.metric.iloc[0], table.metric.iloc[0])
    figure.update_xaxes(AXIS, title=f"change of the {metric}")
    figure.update_yaxes(gridcolor=PALE, categoryorder="array", categoryarray=[])
    n, unablated = table.n.iloc[0], table.metric_mean["none"]
    said = f"mean over {n} clean prompts, bars: 95% intervals; unablated: {unablated:.2f}"
    height = 190 + 36 * (len(named) + (n_random > 0))
    return style(figure, title, said, height).update_layout(showlegend=False)


def backup_scatter(table: pd.DataFrame, top_k: int = 6, title: str = "Who steps in") -> go.Figure:
    """Each head's direct logit attribution before and after the knock-out.

    On the dashed line nothing changed; above it a head writes more of the answer than before.

    Args:
        table: From ``backup_heads``.
        top_k: How many heads are large and named where there is room, those that change most; 0 for none.
        title: Of the figure.

    Returns:
        A point for each head, before across and after upward, in logits.

    Raises:
        SweepError: A count below 0.

    Example:
        >>> table = patchlib.backup_heads(patchlib.Ablation(model, task), [(23, 3)])
        >>> figure = patchlib.plots.backup_scatter(table, top_k=1)
        >>> [name for name in figure.data[0].text if name]
        ['L29H1']
    """
    check_table(table, "backup_heads", "before", "after", "change", "layer", "head_index", "knocked_out", "n")
    before, after, change = (table[column].to_numpy() for column in ("before", "after", "change"))
    layer_heads = zip(table.layer, table.head_index, strict=True)
    ends = axis_range(np.concatenate([before, after]))
    figure = head_points(before, after, layer_heads, top_k, [change], ends, ends)
    figure.update_traces(hovertemplate="%{customdata}<br>before %{x:.2f}<br>after %{y:.2f}<extra></extra>")
    figure.update_traces(marker_color=np.where(change > 0, BLUE, RED))
    _diagonal(figure, ends)
    figure.update_xaxes(title="direct logit attribution before").update_yaxes(title="after the knock-out")
    gone, n = table.knocked_out.iloc[0], table.n.iloc[0]
    said = f"knocked out: {gone}; mean over {n} clean prompts"
    said += f"; large: the {top_k} that change most; blue: more than before"
    return style(figure, title, said, 480)


def completeness_scatter(
    table: pd.DataFrame, title: str = "Complete? Circuit and model without the same heads"
) -> go.Figure:
    """F(circuit without K) against F(model without K) for each K (Wang et al. 2022, figure 6).

    On the dashed line the two fall alike.

    Args:
        table: From ``completeness``.
        title: Of the figure.

    Returns:
        A point for each K, the model across and the circuit upward, in the metric's unit.

    Example:
        >>> circuit = patchlib.Circuit({"writers": [(23, 3), (29, 1)]})
        >>> table = patchlib.completeness(patchlib.Ablation(model, task), circuit, n_random=1, n_greedy=1)
        >>> [trace.name for trace in patchlib.plots.completeness_scatter(table).data if trace.name]
        ['without nothing', 'without a head type', 'without random sets', 'without greedy sets, grown to be worst']
    """
    check_table(table, "completeness", "kind", "heads", "model", "circuit", "protocol")
    numbered = table.kind.str.extract(r"^(.*) \d+$", expand=False)  # "random" and "greedy" of "random 0", "greedy 1"
    groups = numbered.fillna("a head type").where(table.kind != "none", "nothing")
    labels = {"random": "random sets", "greedy": "greedy sets, grown to be worst"}
    figure = go.Figure()
    for i, (group, rows) in enumerate(table.groupby(groups, sort=False)):
        mode, name = "lines+markers" if group == "greedy" else "markers", f"without {labels.get(str(group), group)}"
        marker = {"size": 10, "symbol": MARKS[i], "color": LINES[i % len(LINES)]}
        customdata = rows.kind + ": " + rows["heads"].replace("", "none")
        figure.add_scatter(x=rows.model.round(4), y=rows.circuit.round(4), mode=mode, name=name, marker=marker)
        figure.data[-1].update(line={"width": 1}, customdata=customdata)
    figure.update_traces(hovertemplate="%{customdata}<br>model %{x:.2f}, circuit %{y:.2f}<extra></extra>")
    _diagonal(figure, axis_range(np.concatenate([table.model, table.circuit])))
    figure.update_xaxes(title="model without the heads").update_yaxes(title="circuit without the heads")
    return style(figure, title, table.protocol.iloc[0], 480, above=30).update_layout(legend=LEGEND)


def minimality_bar(table: pd.DataFrame, title: str = "Minimal? What each head adds") -> go.Figure:
    """Each head's largest effect on the circuit (Wang et al. 2022, figure 7).

    Args:
        table: From ``minimality``.
        title: Of the figure.

    Returns:
        A bar for each head, as a share of the model's own metric, coloured by head type.

    Example:
        >>> circuit = patchlib.Circuit({"writers": [(23, 3), (29, 1)]})
        >>> table = patchlib.minimality(patchlib.Ablation(model, task), circuit)
        >>> patchlib.plots.minimality_bar(table).data[0].x.tolist()
        ['L23H3', 'L29H1']
    """
    check_table(table, "minimality", "head_type", "head_name", "share", "K", "protocol")
    figure = go.Figure()
    for i, (head_type, rows) in enumerate(table.groupby("head_type", sort=False)):
        marker = {"color": color_of(str(head_type), i)}
        figure.add_bar(x=rows.head_name, y=rows.share.round(4), name=str(head_type), marker=marker, customdata=rows.K)
    figure.update_traces(hovertemplate="%{x}<br>%{y:.1%} once the circuit lacks %{customdata}<extra></extra>")
    figure.update_xaxes(categoryorder="array", categoryarray=list(table.head_name.unique()), tickangle=-45)
    figure.update_yaxes(title="change, as a share of the model's", tickformat=".0%", gridcolor=PALE)
    return style(figure, title, table.protocol.iloc[0], 460, above=50).update_layout(legend=LEGEND)


def _diagonal(figure: go.Figure, ends: tuple[float, float]) -> None:
    """Equal axes with a dashed line where both are the same."""
    line = {"color": GREY, "dash": "dash", "width": 1}
    figure.add_scatter(x=ends, y=ends, mode="lines", line=line, **SILENT)
    figure.update_xaxes(AXIS, range=ends).update_yaxes(AXIS, range=ends)
