"""Faithfulness over the size of a circuit, and the two areas by which methods are compared (MIB)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import xarray as xr

from patchlib._util import check_count, check_fraction, check_kind, check_seed, check_text, listed, shown
from patchlib.circuits.edge_ablation import EdgeAblation
from patchlib.circuits.edge_circuits import (
    RANKINGS,
    Kept,
    graph_of,
    largest,
    node_scores,
    of_nodes,
    pruned,
)
from patchlib.circuits.exchange import helpfulness
from patchlib.errors import SweepError
from patchlib.patching.attribution.edge_graph import EdgeGraph
from patchlib.stats import ratio_interval

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Of all edges that a circuit keeps: those of MIB."""
MOST_RANDOM = 1000
"""More random rankings are a slip of the keyboard: each takes a forward pass for every share."""


@dataclass(frozen=True)
class FaithfulnessCurve:
    """Faithfulness over size, and its areas.

    Attributes:
        table: A row for each circuit: ``source`` (the ablation's, or its name where there are several), ``of`` ("edges"
            or "nodes"), ``ranking`` ("signed", "magnitude", "random 1" ..., or "magnitude complement": all edges but
            those), ``share`` (of all edges or nodes that were chosen), ``n_edges`` (left after pruning), ``metric``
            (its mean), ``faithfulness`` (mean of the metric above the floor / that of the model), ``ci_low`` and
            ``ci_high`` (95%, ``stats.ratio_interval``), ``n`` (prompts).
        areas: A row for each ``source``, ``of`` and ``ranking``: ``cpr``, the area under the curve, of which more is
            better (circuit performance ratio), and ``cmd``, the area between the curve and 1, of which less is better
            (circuit-model distance), by trapezoids over the share (Mueller et al. 2025, "MIB: a mechanistic
            interpretability benchmark", section 3.2). MIB takes signed rankings for the first and magnitudes for the
            second.
        protocol: In words what these numbers depend on.

    Example:
        On a toy whose circuit is 5 of 110 edges:

        >>> toy = patchlib.toys.induction()
        >>> scores = patchlib.attribute_edges(toy.model, toy.task, "eap-ig-inputs", progress=False)
        >>> curve = patchlib.faithfulness_curve(patchlib.EdgeAblation(toy.model, toy.task), scores, shares=[0.05, 1])
        >>> by_size = curve.table[curve.table.ranking == "magnitude"]
        >>> print(by_size[["of", "share", "n_edges", "faithfulness"]].round(2).to_string(index=False))
           of  share  n_edges  faithfulness
        edges   0.05        5           1.0
        edges   1.00      110           1.0
        nodes   0.05        1           0.0
        nodes   1.00      110           1.0
    """

    table: pd.DataFrame
    areas: pd.DataFrame
    protocol: str


def faithfulness_curve(
    ablation: EdgeAblation | Mapping[str, EdgeAblation],
    scores: xr.Dataset,
    *,
    shares: Sequence[float] = SHARES,
    nodes: bool = True,
    n_random: int = 1,
    complement: bool = True,
    seed: int = 0,
) -> FaithfulnessCurve:
    """How much of the behaviour circuits of growing size have, by the scores of their edges.

    A circuit's faithfulness is ``(m(circuit) - m(no edge)) / (m(model) - m(no edge))``, means over prompts; with no
    edge at all the model reads what stands in for every sender, which is the floor. The same scores give circuits of
    edges and of nodes (whole heads and MLPs, with all edges between them); circuits of random edges, and what is left
    without a circuit, say what such a number is worth.

    Args:
        ablation: The prompts, and what stands in for what is cut; or several by name, such as
            ``{"mean": EdgeAblation(..., source="mean"), "resample": ...}``, for one curve each of the same circuits.
        scores: From ``attribute_edges`` or ``read_graph``, on other prompts than the ablation's for a number that says
            something of unseen ones.
        shares: Of the edges (or nodes) that are chosen, each above 0 and at most 1, in growing order.
        nodes: Circuits of nodes too.
        n_random: How many random rankings.
        complement: Also what is left without each circuit by magnitude.
        seed: Of the random rankings.

    Returns:
        The curve as a table, its areas, and the protocol.

    Raises:
        SweepError: No ablation, scores of another model's edges, or shares or counts that cannot be used.

    Example:
        >>> scores = patchlib.attribute_edges(model, task, progress=False)
        >>> ablation = patchlib.EdgeAblation(model, task)
        >>> curve = patchlib.faithfulness_curve(ablation, scores, shares=[0.05, 1], nodes=False, complement=False)
        >>> whole = curve.table[curve.table.share == 1]
        >>> whole.faithfulness.round(3).tolist()  # by sign, by size, at random: with all edges it is the model
        [1.0, 1.0, 1.0]
    """
    graph, values = graph_of(scores), helpfulness(scores).values
    ablations = _named(ablation, graph)
    sizes = _check_shares(shares)
    draw = np.random.default_rng(check_seed(seed))
    rankings: dict[tuple[str, str], np.ndarray] = {("edges", ranking): values for ranking in RANKINGS}
    if nodes:
        rankings |= {("nodes", ranking): node_scores(graph, values) for ranking in RANKINGS}
    for number in range(check_count("n_random", n_random, 0, most=MOST_RANDOM)):
        rankings["edges", f"random {number + 1}"] = np.where(graph.exists, draw.random(graph.exists.shape), np.nan)
    chosen: list[tuple[str, str, float, Kept]] = []
    for (of, ranking), ranked in rankings.items():
        for share in sizes:
            n = max(1, int(share * np.isfinite(ranked).sum()))
            kept = largest(ranked, n, "magnitude" if ranking == "magnitude" else "signed")
            kept = pruned(graph, kept if of == "edges" else of_nodes(graph, kept))
            chosen.append((of, ranking, share, kept))
            if complement and ranking == "magnitude" and share < 1:
                chosen.append((of, f"{ranking} complement", share, graph.exists & ~kept))
    table = pd.concat([_measured(name, of_name, chosen) for name, of_name in ablations.items()], ignore_index=True)
    by = ["source", "of", "ranking"]
    curves = table[~table.ranking.str.endswith("complement")].groupby(by, sort=False)
    areas = pd.DataFrame([(*key, *_areas(curve)) for key, curve in curves], columns=[*by, "cpr", "cmd"])
    first = next(iter(ablations.values()))
    stands_in = "; ".join(f"{name}: {of_name.stands_in}" for name, of_name in ablations.items())
    return FaithfulnessCurve(table, areas, first.said_of(stands_in if len(ablations) > 1 else first.stands_in))


def _named(ablation: EdgeAblation | Mapping[str, EdgeAblation], graph: EdgeGraph) -> dict[str, EdgeAblation]:
    """The ablations by name; SweepError for what is none, or is one of another model than the scores'."""
    mend = "make one with patchlib.EdgeAblation(model, task), or give {name: ablation}"
    named = ablation if isinstance(ablation, Mapping) else {None: ablation}
    ablations = {}
    for name, of_name in named.items():
        check_kind("An ablation", of_name, EdgeAblation, mend)
        if replace(of_name.graph, d_model=graph.d_model) != graph:
            raise SweepError("The scores are of another model's edges than the ablation: give both of one model.")
        ablations[of_name.source if name is None else check_text("An ablation's name", name)] = of_name
    if not ablations:
        raise SweepError(f"There is no ablation: {mend}.")
    return ablations


def _measured(name: str, ablation: EdgeAblation, chosen: list[tuple[str, str, float, Kept]]) -> pd.DataFrame:
    """A row for each circuit under one ablation."""
    every = ablation.graph.exists
    measured = ablation.measure([every, np.zeros_like(every), *(kept for *_, kept in chosen)]).astype(np.float64)
    whole, floor, rest = measured[0], measured[1], measured[2:]  # [example], [example], [circuit example]
    rows = []
    for (of, ranking, share, kept), metric in zip(chosen, rest, strict=True):
        low, high = ratio_interval(metric - floor, whole - floor, clusters=ablation.pairs.clusters)
        faithfulness = (metric - floor).mean() / (whole - floor).mean()
        rows.append((name, of, ranking, share, int(kept.sum()), metric.mean(), faithfulness, low, high, len(whole)))
    names = ["source", "of", "ranking", "share", "n_edges", "metric", "faithfulness", "ci_low", "ci_high", "n"]
    return pd.DataFrame(rows, columns=names)


def _check_shares(shares: Sequence[float]) -> list[float]:
    sizes = [1.0 if share == 1 else check_fraction("A share", share) for share in listed(shares)]
    if not sizes or sizes != sorted(set(sizes)):
        raise SweepError(f"shares={shown(shares)} must be fractions of all edges in growing order, each once.")
    return sizes


def _areas(curve: pd.DataFrame) -> tuple[float, float]:
    """CPR and CMD as MIB computes them: trapezoids over the share, which is not taken logarithmically."""
    share, faithfulness = curve.share.to_numpy(), curve.faithfulness.to_numpy()
    return float(np.trapezoid(faithfulness, share)), float(np.trapezoid(abs(1 - faithfulness), share))
