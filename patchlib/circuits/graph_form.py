"""EAP-IG's graphs: its names of nodes and edges beside ours, and what a file has to be to hold one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from patchlib._util import LARGEST_FLOAT, check_count, check_flag, check_kind, first_line, shown
from patchlib.errors import SweepError
from patchlib.patching.attribution.edge_graph import EdgeGraph, Reader
from patchlib.patching.receivers import INPUTS

MOST_CELLS = 10**9
"""Senders times receivers: 80 layers of 64 heads have 8e7."""


class FormEdge(NamedTuple):
    """An edge of EAP-IG's.

    Attributes:
        name: EAP-IG's, such as ``"a0.h1->a1.h2<k>"``.
        cell: (sender, receiver), by number in the graph.
        is_shared: Whether it is one of several that are one here: keys or values of a group of heads.
        is_last: Of those that are one.
    """

    name: str
    cell: tuple[int, int]
    is_shared: bool
    is_last: bool

    @property
    def nodes(self) -> tuple[str, str]:
        """The names of both ends: ("a0.h1", "a1.h2")."""
        sender, receiver = self.name.split("->")
        return sender, receiver.partition("<")[0]


def sender_names(graph: EdgeGraph) -> list[str]:
    """EAP-IG's names of the senders, in the order of a forward pass."""
    names = {"resid_pre": "input", "z": "a{0.layer}.h{0.head}", "mlp_out": "m{0.layer}"}
    return [names[sender.site].format(sender) for sender in graph.senders]


def form_edges(graph: EdgeGraph) -> Iterator[FormEdge]:
    """Every edge, in the order in which EAP-IG writes them: there each head has keys and values of its own."""
    senders, columns = sender_names(graph), {reader: column for column, reader in enumerate(graph.readers)}
    n_layers = graph.n_layers
    for layer in range(n_layers):
        heads = [FormInput(f"a{layer}.h{head}<{site}>", columns[_input(graph, site, layer, head)], site, head)
                 for head in range(graph.n_heads) for site in INPUTS]  # fmt: skip
        mlp = [FormInput(f"m{layer}", columns[Reader("mlp_out", layer)])]
        for inputs in [heads + mlp] if graph.parallel else [heads, mlp]:
            yield from _edges_to(graph, senders, inputs)
    yield from _edges_to(graph, senders, [FormInput("logits", columns[Reader("final", n_layers - 1)])])


class FormInput(NamedTuple):
    """A receiver of EAP-IG's: its name, ours by number, and of which head it is which input."""

    name: str
    column: int
    site: str = ""
    head: int = 0


def _input(graph: EdgeGraph, site: str, layer: int, head: int) -> Reader:
    return Reader(site, layer, head if site == "q" else head // graph.group)


def _edges_to(graph: EdgeGraph, senders: list[str], inputs: list[FormInput]) -> Iterator[FormEdge]:
    """Edges to receivers that read the same stream."""
    for row, sender in enumerate(senders[: graph.n_read(graph.readers[inputs[0].column])]):
        for name, column, site, head in inputs:
            is_shared = site in ("k", "v") and graph.group > 1
            is_last = not is_shared or head % graph.group == graph.group - 1
            yield FormEdge(f"{sender}->{name}", (row, column), is_shared, is_last)


def file_content(path: str | os.PathLike[str], where: str) -> dict[str, Any]:
    """What a graph's file holds; SweepError for what is no such file."""
    check_kind("path", path, str | os.PathLike, "give the file that holds the graph")
    try:
        content = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:  # no file, a folder, no text, no JSON
        mend = "give a graph that EAP-IG's to_json or patchlib.write_graph wrote"
        raise SweepError(f"{where} cannot be read as JSON ({first_line(error)}): {mend}.") from error
    parts = [content.get(part) for part in ("cfg", "nodes", "edges")] if isinstance(content, dict) else [None]
    if not all(isinstance(part, dict) for part in parts):
        raise SweepError(f"{where} is no graph of EAP-IG's: it lacks cfg, nodes and edges, each with names in it.")
    graph: dict[str, Any] = content
    if graph.get("n_pos") is not None:
        raise SweepError(f"{where} is a graph by positions, which is not read: give one of all positions together.")
    if "neurons" in graph or any("neurons" in node for node in graph["nodes"].values() if isinstance(node, dict)):
        raise SweepError(f"{where} is a graph of neurons, which edges cannot hold: give one of edges, or of nodes.")
    return graph


def told_form(content: dict[str, Any]) -> str:
    """Which version of the form this is, by the file of EAP-IG's repository that wrote such."""
    if "n_pos" in content:
        return "EAP-IG graph.py"
    has_flags = any(isinstance(node, bool) for node in content["nodes"].values())
    return "EAP-IG eap/graph.py" if has_flags else "EAP-IG src/eap/graph.py"


def told_shape(cfg: dict[str, Any], where: str) -> EdgeGraph:
    """What the file says of its model; SweepError where it says too little, or what cannot be."""
    sizes = ("n_layers", "n_heads", *(name for name in ("n_key_value_heads", "d_model") if cfg.get(name) is not None))
    told = {name: check_count(f"In {where}, {name}", cfg.get(name)) for name in sizes}
    parallel = check_flag(f"In {where}, parallel_attn_mlp", cfg.get("parallel_attn_mlp"))  # type: ignore[arg-type]
    n_layers, n_heads = told["n_layers"], told["n_heads"]
    n_kv_heads = told.get("n_key_value_heads", n_heads)
    if n_heads % n_kv_heads:
        raise SweepError(f"In {where}, {n_kv_heads} key/value heads cannot be shared by {n_heads} heads.")
    if 3 * (n_layers * (n_heads + 1)) ** 2 > MOST_CELLS:
        raise SweepError(f"{where} has {n_layers} layers of {n_heads} heads, more edges than can be held.")
    return EdgeGraph(n_layers, n_heads, n_kv_heads, told.get("d_model", 0), parallel)


def told_flag(value: Any, name: str, where: str) -> bool:
    """Whether something is in the graph; not, where nothing is said."""
    if value not in (None, 0, 1) or isinstance(value, float):
        raise SweepError(f"In {where}, in_graph of {name} must be true or false, not {shown(value)}.")
    return bool(value)


def told_score(value: Any, name: str, where: str) -> float:
    """A finite number; 0 where there is none, as MIB reads it."""
    if value is None:
        return 0.0
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= LARGEST_FLOAT:
        raise SweepError(f"In {where}, the score of {name} must be a finite number, not {shown(value)}.")
    return float(value)


def told_node_scores(nodes: dict[str, object], shape: EdgeGraph, where: str) -> Float[np.ndarray, " sender"]:
    """Of a graph of nodes, NaN where a node has none; SweepError for a node that there is not."""
    places = {name: place for place, name in enumerate(sender_names(shape))}
    scores = np.full(len(places), np.nan)
    for name, told in nodes.items():
        if name not in places and name != "logits":
            raise SweepError(f"{where} has the node {shown(name)}, which a model of {shape} does not have.")
        told_flag(told.get("in_graph") if isinstance(told, dict) else told, name, where)
        score = told.get("score") if isinstance(told, dict) else None
        if score is not None and score == score and name in places:  # NaN: this node has not been scored
            scores[places[name]] = told_score(score, name, where)
    return scores
