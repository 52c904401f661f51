"""Circuits of edges as a picture: who writes to whom."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from patchlib._util import check_count, check_kind
from patchlib.circuits.edge_circuits import graph_of
from patchlib.circuits.exchange import helpfulness
from patchlib.errors import SweepError
from patchlib.patching.attribution.edge_graph import EdgeGraph, Reader, Sender
from patchlib.plots.style import LINES, PALE, RED, SILENT, style
from patchlib.plots.wording import METRIC_NAMES

BLUE = LINES[0]
DASHES = {"q": "dash", "k": "dot"}
"""Of edges into queries and keys; all others have solid lines."""
BOWS = {"q": -0.6, "k": 0.2}
"""How far such lines bend, against 1 of the others, so that two between the same nodes are seen apart."""


def edge_graph(
    scores: xr.Dataset, circuit: xr.DataArray, most: int = 60, title: str = "The circuit's edges"
) -> go.Figure:
    """A circuit of edges: heads and MLPs across, layers up, the embedding below and the logits on top.

    Blue edges support the behaviour and red ones work against it, the thicker the more. Lines into queries are dashed,
    those into keys dotted; an edge into keys or values that heads share leads to each of these heads that writes to
    another node shown here.

    Args:
        scores: From ``attribute_edges`` or ``read_graph``.
        circuit: From ``edge_circuit``, True where an edge is kept.
        most: How many of its edges are drawn at most, those with the largest scores.
        title: Of the figure.

    Returns:
        A line for each edge and a mark for each node.

    Raises:
        SweepError: These are no scores of edges or no circuit of theirs, or ``most`` is below 1.

    Example:
        >>> scores = patchlib.attribute_edges(model, task, progress=False)
        >>> figure = patchlib.plots.edge_graph(scores, patchlib.edge_circuit(scores, 3000), most=12)
        >>> print(figure.layout.title.subtitle.text)
        12 of the circuit's ... edges, of 70651 in all, eap, logit difference, 4 prompt pairs; blue helps, ...
    """
    check_count("most", most)
    graph, score = graph_of(scores), helpfulness(scores).values
    kept = check_circuit(graph, circuit)
    size = np.where(kept, abs(score), -np.inf)
    drawn = np.zeros(kept.size, dtype=bool)
    drawn[np.argsort(-size, axis=None, kind="stable")[: min(most, int(kept.sum()))]] = True
    edges = np.argwhere(drawn.reshape(kept.shape))
    edges = edges[np.argsort(size[tuple(edges.T)], kind="stable")]  # the largest last, on top of the others
    senders = {graph.senders[i] for i, _ in edges}
    figure = go.Figure()
    largest = float(size.max()) if len(edges) else 1.0
    nodes: set[Sender | Reader] = {Sender("resid_pre", 0), graph.readers[-1], *senders}
    hovers: list[tuple[float, float, str]] = []
    for i, j in edges:
        sender, reader = graph.senders[i], graph.readers[j]
        # Heads that share keys stand for them where they are in the picture, or else the first of them does.
        shared: list[Sender] = graph.nodes_of(reader)
        hearing = [node for node in shared if node in senders] or shared[:1] or [reader]
        for node in hearing:
            nodes.add(node)
            x, y = _curve(_point(graph, sender), _point(graph, node), BOWS.get(reader.site, 1.0))
            line = {
                "color": BLUE if score[i, j] > 0 else RED,
                "width": round(float(1 + 5 * abs(score[i, j]) / largest), 2),
            }
            line["dash"] = DASHES.get(reader.site, "solid")
            figure.add_scatter(x=x, y=y, mode="lines", line=line, opacity=0.55, **SILENT)
            hovers.append((x[len(x) // 2], y[len(y) // 2], f"{sender} to {reader}: {score[i, j]:+.3f}"))
    if hovers:  # lines cannot be hovered over between their points
        middle_x, middle_y, text = zip(*hovers, strict=True)
        look = {"marker": {"size": 10, "opacity": 0}, "hovertemplate": "%{text}<extra></extra>", "showlegend": False}
        figure.add_scatter(x=middle_x, y=middle_y, mode="markers", text=text, **look)
    _draw_nodes(figure, graph, nodes)
    step = 5 if graph.n_layers > 16 else 1
    layers = list(range(0, graph.n_layers, step))
    names = {"tickvals": [-2, *layers, graph.n_layers + 1], "ticktext": ["input", *map(str, layers), "logits"]}
    figure.update_yaxes(names, title="layer", gridcolor=PALE, zeroline=False, range=[-3, graph.n_layers + 2])
    step = max(1, graph.n_heads // 12)
    heads = list(range(0, graph.n_heads, step))
    figure.update_xaxes(tickvals=[*heads, graph.n_heads + 0.5], ticktext=[*(f"H{head}" for head in heads), "MLP"])
    figure.update_xaxes(title="head", showgrid=False, zeroline=False, range=[-0.8, graph.n_heads + 1.6])
    n, metric = scores.sizes.get("example"), str(scores.metric.values[0]) if "metric" in scores else "score"
    about = [f"{len(edges)} of the circuit's {int(kept.sum())} edges, of {int(graph.exists.sum())} in all"]
    about += [scores.attrs.get("method", ""), METRIC_NAMES.get(metric, metric), f"{n} prompt pairs" if n else ""]
    said = f"{', '.join(filter(None, about))}; blue helps, red hurts; into queries dashed, into keys dotted"
    return style(figure, title, said, max(480, min(860, 200 + 22 * graph.n_layers)))


def check_circuit(graph: EdgeGraph, circuit: xr.DataArray) -> np.ndarray:
    """Which edges a circuit has; SweepError unless it is one of this graph."""
    mend = "give what patchlib.edge_circuit returned for these scores"
    check_kind("A circuit", circuit, xr.DataArray, mend)
    if circuit.dims != ("sender", "receiver") or circuit.dtype != bool or circuit.shape != graph.exists.shape:
        raise SweepError(f"This circuit is not one of the scores' edges: {mend}.")
    return np.asarray(circuit.values & graph.exists)


def _point(graph: EdgeGraph, node: Sender | Reader) -> tuple[float, float]:
    middle = (graph.n_heads - 1) / 2
    if node.site == "final":
        return middle, graph.n_layers + 1
    if node.site == "resid_pre":
        return middle, -2
    return (graph.n_heads + 0.5, node.layer + 0.4) if node.head is None else (node.head, node.layer)


def _curve(start: tuple[float, float], end: tuple[float, float], bend: float) -> tuple[list[float], list[float]]:
    """A bow between two points, so that a line does not run through the nodes that stand between them."""
    (x0, y0), (x1, y1) = start, end
    t = np.linspace(0, 1, 9)
    bow = 0.12 * abs(y1 - y0) / max(1.0, 0.5 + abs(x1 - x0))  # steep lines have the others below and above them
    x, y = x0 + (x1 - x0) * t + 4 * bend * min(bow, 0.9) * t * (1 - t), y0 + (y1 - y0) * t
    return x.round(2).tolist(), y.round(2).tolist()


def _draw_nodes(figure: go.Figure, graph: EdgeGraph, nodes: set[Sender | Reader]) -> None:
    """A mark and a name for each; a head's is its sender's."""
    ordered = sorted(nodes, key=lambda node: (_point(graph, node)[::-1], str(node)))
    x, y = zip(*(_point(graph, node) for node in ordered), strict=True)
    symbols = ["circle" if node.head is not None else "square" for node in ordered]
    marker = {"size": 9, "symbol": symbols, "color": "#333", "line": {"width": 1, "color": "white"}}
    figure.add_scatter(x=x, y=y, mode="markers", text=[str(node) for node in ordered], marker=marker, **SILENT)
    for node in ordered:  # on a pale ground, since lines run below them
        label = {"xanchor": "left", "xshift": 6, "font": {"size": 11}, "bgcolor": "rgba(255,255,255,0.75)"}
        x0, y0 = _point(graph, node)
        figure.add_annotation(x=x0, y=y0, text=str(node), showarrow=False, borderpad=0, **label)
