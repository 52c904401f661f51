"""Graphs of edges as other people write them: EAP-IG's JSON, in which MIB takes circuits.

The form is that of ``Graph.to_json`` and ``from_json`` in github.com/hannamw/EAP-IG (Hanna, Pezzelle and Belinkov 2024,
"Have faith in faithfulness"; Mueller et al. 2025, "MIB: a mechanistic interpretability benchmark")::

    {"cfg":   {"n_layers": 2, "n_heads": 4, "parallel_attn_mlp": false, "d_model": 60},
     "nodes": {"input": {"in_graph": true}, "a0.h1": .., "m0": .., "logits": ..},
     "edges": {"input->a0.h1<q>": {"score": 0.5, "in_graph": true}, "a0.h1->m0": .., "m0->logits": ..}}

Earlier versions wrote a node as true or false alone and had no ``d_model``, and the first one had an ``n_pos``.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_count, check_kind, first_line, listed, shown
from patchlib.circuits.graph_form import (
    FormEdge,
    file_content,
    form_edges,
    sender_names,
    told_flag,
    told_form,
    told_node_scores,
    told_score,
    told_shape,
)
from patchlib.errors import SweepError
from patchlib.models.check import check_model
from patchlib.patching.attribution.edge_graph import EdgeGraph
from patchlib.patching.sites import SITES

LOSSES = ("kl",)
"""Metrics of which less is better."""


def helpfulness(scores: xr.Dataset) -> Float[xr.DataArray, "sender receiver"]:
    """One number for each edge, of the first metric: the sum over positions, in the mean over prompts, with one sign.

    Positive where the edge helps, in either direction: the metric gains by it when it is denoised, and loses when it is
    noised. This is the sign of EAP-IG's scores, which say what a *loss* (minus the logit difference) gains by noising.

    Raises:
        SweepError: These are no scores of edges, or the score of an edge is no number.
    """
    shape = told_graph(scores)
    score, table = scores.score, shape.table(np.nan)
    if "metric" in score.dims:
        score = score.isel(metric=0) * (-1 if str(score["metric"].values[0]) in LOSSES else 1)
    if scores.attrs.get("direction") == "noise":
        score = -score
    for dim in ("sender", "receiver"):
        if lacking := sorted(set(table[dim].values.tolist()) - set(score[dim].values.tolist())):
            raise SweepError(f"The scores lack the {dim} {lacking[0]!r}: a graph has every edge of {shape}.")
    positions = [str(dim) for dim in score.dims if dim not in ("sender", "receiver", "example")]
    score = score.sel(sender=table.sender, receiver=table.receiver).transpose("sender", "receiver", *positions, ...)
    rows, columns = np.array(list(dict.fromkeys(edge.cell for edge in form_edges(shape)))).T
    values = score.values[rows, columns].astype(float)  # [edge *position *example]
    if positions:
        no_position = np.isnan(values).all(0)  # a shorter prompt has it nowhere
        values = np.where(no_position & ~no_position.all(0), 0, values).sum(1)  # [edge *example]
    wrong = ~np.isfinite(values).reshape(len(rows), -1).all(-1)  # [edge]
    if wrong.any():
        row, column = rows[wrong][0], columns[wrong][0]
        edge = f"{table.sender.values[row]} -> {table.receiver.values[column]}"
        raise SweepError(f"The scores of {wrong.sum()} edges are NaN or infinite, such as {edge}: a graph has none.")
    table.values[rows, columns] = values.mean(-1) if "example" in score.dims else values
    return table


def write_graph(
    scores: xr.Dataset,
    path: str | os.PathLike[str],
    in_graph: Bool[xr.DataArray, "sender receiver"] | Iterable[tuple[str, str]] | None = None,
) -> None:
    """Write scores of edges to a file that EAP-IG's ``Graph.from_json`` reads, and MIB with it.

    A score is the mean over prompts, of the first metric, summed over positions or roles. Its sign is EAP-IG's,
    positive where the edge helps, so that scores of ``direction="noise"`` change theirs. In EAP-IG each head has keys
    and values of its own: the score of a group of heads is shared equally among them.

    Args:
        scores: From ``attribute_edges`` or ``read_graph``.
        path: The file; one that is there is replaced.
        in_graph: The circuit: its (sender, receiver) pairs, or True and False by ``sender`` and ``receiver``. None for
            no edge, as EAP-IG writes scores from which no circuit has been taken yet.

    Raises:
        SweepError: These are no scores of edges, one is no number, ``in_graph`` has an edge that there is not, or the
            file cannot be written.

    Example:
        >>> file = tmp_path / "graph.json"
        >>> cfg = '{"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": false}'
        >>> written = file.write_text('{"cfg": ' + cfg + ', "nodes": {}, "edges": {"m0->logits": {"score": 2}}}')
        >>> graph = patchlib.read_graph(file)
        >>> patchlib.write_graph(graph, file, in_graph=[("embed", "MLP0"), ("MLP0", "logits")])
        >>> file.read_text()[-48:]
        '"m0->logits": {"score": 2.0, "in_graph": true}}}'
    """
    shape, score = told_graph(scores), helpfulness(scores)
    chosen = _chosen(in_graph, shape)
    edges = {edge.name: edge for edge in form_edges(shape)}
    ends = {name: edge.nodes for name, edge in edges.items() if chosen[edge.cell]}
    senders, receivers = ({nodes[end] for nodes in ends.values()} for end in (0, 1))
    content = {
        "cfg": {
            "n_layers": shape.n_layers,
            "n_heads": shape.n_heads,
            "parallel_attn_mlp": shape.parallel,
            **({"d_model": shape.d_model} if shape.d_model else {}),
            **({} if shape.group == 1 else {"n_key_value_heads": shape.n_kv_heads}),  # ours; EAP-IG hands it on
        },
        # a node is in the graph if something leads to it, and it to something; the logits always are
        "nodes": {
            **{name: {"in_graph": name in senders & (receivers | {"input"})} for name in sender_names(shape)},
            "logits": {"in_graph": True},
        },
        "edges": {
            name: {"score": _share(float(score.values[edge.cell]), edge, shape), "in_graph": bool(chosen[edge.cell])}
            for name, edge in edges.items()
        },
    }
    try:
        Path(path).write_text(json.dumps(content), encoding="utf-8")
    except (OSError, TypeError, ValueError) as error:
        raise SweepError(f"No graph can be written to {shown(path)}: {first_line(error)}.") from error


def read_graph(path: str | os.PathLike[str], model: TransformerBridge | None = None) -> xr.Dataset:
    """Read scores and a circuit from a file that EAP-IG has written, in any of its versions, or that MIB takes.

    What a file does not name is not in the circuit and has the score 0, as in EAP-IG.

    Args:
        path: The file.
        model: Whose graph it has to be. Of a grouped-query model, it says which heads share their keys and values,
            which EAP-IG's files do not: their scores are summed, and they are in the circuit if one of them is. Without
            it, each head has its own, unless ``write_graph`` wrote the file.

    Returns:
        ``score`` (float, NaN where there is no edge; positive where the edge helps, see ``write_graph``) and
        ``in_graph`` (bool), dims ``sender`` and ``receiver``, named as ``attribute_edges`` names them; of a graph of
        nodes also ``node_score``, dim ``sender``, NaN where there is none. Attributes: ``form``, which version this is,
        by the file of EAP-IG's repository that wrote such; ``n_layers``, ``n_heads``, ``n_kv_heads``, ``d_model``
        (where it is told) and ``parallel``.

    Raises:
        SweepError: The file cannot be read, is no JSON or of another form, is of another model, names an edge that
            there is not, or has a score that is no number.

    Example:
        >>> file = tmp_path / "graph.json"
        >>> cfg = '{"n_layers": 1, "n_heads": 1, "parallel_attn_mlp": false}'
        >>> edges = '{"a0.h0->logits": {"score": 0.5, "in_graph": true}, "m0->logits": {"score": -1}}'
        >>> written = file.write_text('{"cfg": ' + cfg + ', "nodes": {"a0.h0": true}, "edges": ' + edges + "}")
        >>> graph = patchlib.read_graph(file)
        >>> graph.score.sel(receiver="logits").to_series()
        sender
        embed    0.0
        L0H0     0.5
        MLP0    -1.0
        Name: score, dtype: float64
        >>> graph.form
        'EAP-IG eap/graph.py'
        >>> patchlib.read_graph(file, model)
        Traceback (most recent call last):
        patchlib.errors.SweepError: '...graph.json' is a graph of another model: 1 layers of 1 heads, where
        smollm2-135m has 30 layers of 9 heads (3 for k and v), width 576.
    """
    where = shown(str(path))
    content = file_content(path, where)
    shape = told_shape(content["cfg"], where)
    if model is not None:
        shape = _same_model(shape, model, content["cfg"], where)
    cells = {edge.name: edge.cell for edge in form_edges(shape)}
    score, in_graph = shape.table(np.nan), shape.table(False)
    of_heads: dict[tuple[int, int], list[float]] = {cell: [] for cell in cells.values()}
    for name, told in content["edges"].items():
        if name not in cells:
            raise SweepError(f"{where} has the edge {shown(name)}, which a model of {shape} does not have.")
        check_kind(f"In {where}, {name}", told, dict, "give {'score': number, 'in_graph': true or false}")
        of_heads[cells[name]].append(told_score(told.get("score"), name, where))
        in_graph.values[cells[name]] |= told_flag(told.get("in_graph"), name, where)
    for cell, parts in of_heads.items():
        score.values[cell] = math.fsum(parts)
    attributes = {"form": told_form(content), **shape.attributes()}
    graph = xr.Dataset({"score": score, "in_graph": in_graph}, attrs=attributes)
    node_scores = told_node_scores(content["nodes"], shape, where)
    return graph if np.isnan(node_scores).all() else graph.assign(node_score=("sender", node_scores))


def _share(score: float, edge: FormEdge, shape: EdgeGraph) -> float:
    """Of a group's score, what one of its heads gets: to the last, what the others leave, so that the sum is exact."""
    if not edge.is_shared:
        return score
    share = score / shape.group
    return math.fsum([score, *[-share] * (shape.group - 1)]) if edge.is_last else share


def told_graph(scores: xr.Dataset) -> EdgeGraph:
    """The model's, as ``attribute_edges`` records it; SweepError for what is no result of it."""
    mend = "give what attribute_edges or read_graph gave"
    check_kind("scores", scores, xr.Dataset, mend)
    attributes = scores.attrs
    dims = [*scores.score.dims] if "score" in scores and scores.score.dtype.kind == "f" else []
    others = {*dims} - {"metric", "sender", "receiver", "example"}
    is_by_edge = {"sender", "receiver"} <= {*dims} & {*scores.indexes} and others in ({"pos"}, {"role"}, set())
    if not is_by_edge or not all(scores.indexes[dim].is_unique for dim in ("sender", "receiver")):
        raise SweepError(f"These are no scores of edges, one for each sender and receiver: {mend}.")
    if lacking := [name for name in ("n_layers", "n_heads", "n_kv_heads", "parallel") if name not in attributes]:
        raise SweepError(f"The scores do not say what model they are of (they lack {', '.join(lacking)}): {mend}.")
    n_layers, n_heads, n_kv_heads = (
        check_count(name, attributes[name]) for name in ("n_layers", "n_heads", "n_kv_heads")
    )
    d_model = check_count("d_model", attributes["d_model"]) if "d_model" in attributes else 0
    return EdgeGraph(n_layers, n_heads, n_kv_heads, d_model, parallel=str(attributes["parallel"]) == "True")


def _same_model(told: EdgeGraph, model: TransformerBridge, cfg: dict[str, object], where: str) -> EdgeGraph:
    """The model's shape; SweepError where the file tells of another one."""
    check_model(model)
    n_heads, d_model = int(model.cfg.n_heads), int(model.cfg.d_model)
    has_mid = bool(SITES["resid_mid"].layers(model))  # between attention and MLP, where they are not parallel
    shape = EdgeGraph(int(model.cfg.n_layers), n_heads, SITES["k"].n_heads(model), d_model, parallel=not has_mid)
    said = replace(
        told,
        d_model=told.d_model or d_model,
        n_kv_heads=shape.n_kv_heads if cfg.get("n_key_value_heads") is None else told.n_kv_heads,
    )
    if said != shape:
        raise SweepError(f"{where} is a graph of another model: {told}, where {model.cfg.model_name} has {shape}.")
    return shape


def _chosen(
    in_graph: xr.DataArray | Iterable[tuple[str, str]] | None, shape: EdgeGraph
) -> Bool[np.ndarray, "sender receiver"]:
    """Which edges are in the circuit; SweepError for one that there is not."""
    table = shape.table(False)
    if isinstance(in_graph, xr.DataArray):
        if {*in_graph.dims} != {"sender", "receiver"} or in_graph.dtype != bool:
            given = f"{in_graph.dtype} by {', '.join(map(str, in_graph.dims))}"
            raise SweepError(f"in_graph must be True or False by sender and receiver, not {given}.")
        stacked = in_graph.stack(edge=["sender", "receiver"])
        pairs = stacked.edge.values[stacked.values].tolist()
    else:
        pairs = [] if in_graph is None else listed(in_graph)
    senders, receivers = (list(table[dim].values) for dim in ("sender", "receiver"))
    cells = np.argwhere(shape.exists).tolist()
    there = {(senders[row], receivers[column]): (row, column) for row, column in cells}
    for pair in pairs:
        is_pair = isinstance(pair, tuple | list) and all(isinstance(end, str) for end in pair)
        cell = there.get(tuple(pair)) if is_pair else None
        if cell is None:
            raise SweepError(f"There is no edge {shown(pair)}: give (sender, receiver), such as ('L0H1', 'MLP1').")
        table.values[cell] = True
    return np.asarray(table.values)
