"""Circuits of edges, chosen by scores: the largest, those that are reached from the logits, those above a threshold."""

import heapq
from typing import Literal

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from patchlib._util import check_choice, check_count, check_number
from patchlib.circuits.exchange import helpfulness, told_graph
from patchlib.errors import SweepError
from patchlib.patching.attribution.edge_graph import EdgeGraph

Kept = Bool[np.ndarray, "sender receiver"]
Scores = Float[np.ndarray, "sender receiver"]
RANKINGS = ("signed", "magnitude")


def graph_of(scores: xr.Dataset) -> EdgeGraph:
    """The graph that edges' scores are of; SweepError for what are no such scores."""
    graph = told_graph(scores)
    names = list(map(str, graph.senders)), list(map(str, graph.readers))
    if (list(scores.sender.values), list(scores.receiver.values)) != names:
        raise SweepError("The scores are of some senders and receivers only: give those of all edges.")
    return graph


def node_scores(graph: EdgeGraph, scores: Scores) -> Float[np.ndarray, " sender"]:
    """One score a node: its outgoing edges' sum, which is what attribution gives of the node itself."""
    sums: np.ndarray = np.nansum(np.where(graph.exists, scores, np.nan), axis=1)
    return sums


def largest(scores: np.ndarray, n: int, ranking: str) -> np.ndarray:
    """True at the ``n`` largest scores, by sign or by size; NaN is none."""
    size = np.nan_to_num(abs(scores) if ranking == "magnitude" else scores, nan=-np.inf).ravel()
    kept = np.zeros(size.shape, dtype=bool)
    kept[np.argsort(-size, kind="stable")[:n]] = True
    chosen: np.ndarray = (kept & np.isfinite(size)).reshape(scores.shape)
    return chosen


def of_nodes(graph: EdgeGraph, nodes: Bool[np.ndarray, " sender"]) -> Kept:
    """The edges between some nodes: a k/v head is there where one of the heads that share it is."""
    reads = np.zeros(len(graph.readers), dtype=bool)
    reads[-1] = True
    for node in np.flatnonzero(nodes):
        reads[graph.inputs[node]] = True
    between: Kept = graph.exists & nodes[:, None] & reads
    return between


def pruned(graph: EdgeGraph, kept: Kept) -> Kept:
    """Without the edges that lead from nothing or to nothing: no way from the embedding to the logits has them."""
    kept = kept & graph.exists
    from_embed = np.zeros(len(graph.senders), dtype=bool)
    from_embed[0] = True
    for node in range(1, len(graph.senders)):  # senders stand in the order in which a forward comes to them
        from_embed[node] = kept[:node, graph.inputs[node]][from_embed[:node]].any()
    to_logits = np.zeros(len(graph.readers), dtype=bool)
    to_logits[-1] = True
    for node in reversed(range(len(graph.senders))):
        if kept[node, to_logits].any():
            to_logits[graph.inputs[node]] = True
    return kept & from_embed[:, None] & to_logits


def edge_circuit(
    scores: xr.Dataset,
    n_edges: int | None = None,
    *,
    threshold: float | None = None,
    choose: Literal["top", "greedy"] = "top",
    ranking: Literal["signed", "magnitude"] = "magnitude",
    of: Literal["edges", "nodes"] = "edges",
) -> xr.DataArray:
    """A circuit of edges from their scores, without those that are connected to nothing.

    Args:
        scores: From ``attribute_edges`` or ``read_graph``, of all edges.
        n_edges: How many edges (or nodes) to choose, before those are taken away that lead from or to nothing.
        threshold: Instead: all with at least this support (or size of it), in the metric's units.
        choose: ``"top"``: the largest. ``"greedy"``: from the logits on, always the largest edge to a node that is in
            the circuit already (Hanna et al. 2024, "Have faith in faithfulness", section 4.1).
        ranking: By ``"magnitude"`` of the scores, or ``"signed"``: what supports the behaviour first.
        of: ``"edges"``, or ``"nodes"``, which are chosen by the sum of their outgoing edges, with all edges between.

    Returns:
        True where an edge is kept, dims ``sender`` and ``receiver``.

    Raises:
        SweepError: These are no scores of edges; unknown settings; neither or both of ``n_edges`` and ``threshold``.

    Example:
        >>> scores = patchlib.attribute_edges(model, task, progress=False)
        >>> circuit = patchlib.edge_circuit(scores, 200)
        >>> circuit.dims, bool(circuit.sum() <= 200)
        (('sender', 'receiver'), True)
    """
    graph, values = graph_of(scores), helpfulness(scores).values
    check_choice("choose", choose, ("top", "greedy"))
    check_choice("ranking", ranking, RANKINGS)
    check_choice("of", of, ("edges", "nodes"))
    if (n_edges is None) == (threshold is None):
        raise SweepError("Give one of n_edges and threshold: how many to keep, or the least score.")
    if of == "nodes" and choose == "greedy":
        raise SweepError("choose='greedy' follows edges: give of='edges'.")
    ranked = values if of == "edges" else node_scores(graph, values)
    if threshold is not None:
        check_number("threshold", threshold)
        size = abs(ranked) if ranking == "magnitude" else ranked
        n_edges = int((np.nan_to_num(size, nan=-np.inf) >= threshold).sum())
    n = check_count("n_edges", n_edges, 0)
    kept = _greedy(graph, values, n, ranking) if choose == "greedy" else largest(ranked, n, ranking)
    kept = pruned(graph, kept if of == "edges" else of_nodes(graph, kept))
    return xr.DataArray(
        kept, {"sender": scores.sender, "receiver": scores.receiver}, ("sender", "receiver"), attrs=graph.attributes()
    )


def _greedy(graph: EdgeGraph, scores: Scores, n: int, ranking: str) -> Kept:
    """The largest edge to what is in the circuit already, again and again."""
    size = np.nan_to_num(abs(scores) if ranking == "magnitude" else scores, nan=-np.inf)
    kept = np.zeros(graph.exists.shape, dtype=bool)
    heap: list[tuple[float, int, int]] = []

    def reach(reader: int) -> None:
        for sender in np.flatnonzero(graph.exists[:, reader] & np.isfinite(size[:, reader])):
            heapq.heappush(heap, (-float(size[sender, reader]), int(sender), reader))

    reached = {len(graph.readers) - 1}
    reach(len(graph.readers) - 1)
    while heap and kept.sum() < n:
        _, sender, reader = heapq.heappop(heap)
        kept[sender, reader] = True
        for further in graph.inputs[sender]:
            if further not in reached:
                reached.add(further)
                reach(further)
    return kept
