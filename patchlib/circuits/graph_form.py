"""EAP-IG's graphs: its names of nodes and edges beside ours, and what a file has to be to hold one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from patchlib._util import LARGEST_FLOAT, check_count, check_flag, check_kind, first_line, head_name, shown
from patchlib.errors import SweepError
from patchlib.patching.receivers import INPUTS, Receiver

MOST_CELLS = 10**9
"""Senders times receivers: 80 layers of 64 heads have 8e7."""


class FormEdge(NamedTuple):
    """An edge of EAP-IG's.

    Attributes:
        name: EAP-IG's, such as ``"a0.h1->a1.h2<k>"``.
        cell: (sender, receiver), as places in ``GraphShape.table``.
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


@dataclass(frozen=True)
class GraphShape:
    """What a graph says of its model, and so which edges there are.

    Attributes:
        d_model: None where a file does not say it.
        parallel: Whether attention and MLP of a layer read the same stream.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int | None
    parallel: bool

    @property
    def group(self) -> int:
        """How many heads share their keys and values; in EAP-IG's graphs each of them has its own."""
        return self.n_heads // self.n_kv_heads

    @cached_property
    def senders(self) -> dict[str, str]:
        """EAP-IG's name -> ours, in the order of a forward pass."""
        names = {"input": "embed"}
        for layer in range(self.n_layers):
            names |= {f"a{layer}.h{head}": head_name(layer, head) for head in range(self.n_heads)}
            names[f"m{layer}"] = f"MLP{layer}"
        return names

    @cached_property
    def receivers(self) -> dict[str, str]:
        """EAP-IG's name -> ours, in the order of a forward pass: heads of a group have one name for k, and for v."""
        names = {}
        for layer in range(self.n_layers):
            for site in INPUTS:
                n_in_group = 1 if site == "q" else self.group
                for head in range(self.n_heads):
                    names[f"a{layer}.h{head}<{site}>"] = str(Receiver(site, layer, head // n_in_group))
            names[f"m{layer}"] = f"MLP{layer}"
        return names | {"logits": "logits"}

    def table(self, fill: float | bool) -> xr.DataArray:
        """A cell for each sender and receiver, by our names."""
        senders, receivers = [*self.senders.values()], [*dict.fromkeys(self.receivers.values())]
        cells = np.full((len(senders), len(receivers)), fill)
        return xr.DataArray(cells, {"sender": senders, "receiver": receivers}, ("sender", "receiver"))

    def edges(self) -> Iterator[FormEdge]:
        """Every edge, in the order in which EAP-IG writes them."""
        rows = {name: row for row, name in enumerate(self.senders)}
        places = {name: column for column, name in enumerate(dict.fromkeys(self.receivers.values()))}
        columns = {name: places[ours] for name, ours in self.receivers.items()}
        for sender, receiver, head in self._pairs():
            is_shared = head is not None and self.group > 1
            is_last = head is None or head % self.group == self.group - 1
            yield FormEdge(f"{sender}->{receiver}", (rows[sender], columns[receiver]), is_shared, is_last)

    def _pairs(self) -> Iterator[tuple[str, str, int | None]]:
        """(sender, receiver, the head of which it is the keys or values)."""
        below = ["input"]
        for layer in range(self.n_layers):
            heads, mlp = range(self.n_heads), f"m{layer}"
            for sender in below:
                for head in heads:
                    for site in INPUTS:
                        yield sender, f"a{layer}.h{head}<{site}>", None if site == "q" else head
                if self.parallel:
                    yield sender, mlp, None
            below += [f"a{layer}.h{head}" for head in heads]
            if not self.parallel:
                yield from ((sender, mlp, None) for sender in below)
            below.append(mlp)
        yield from ((sender, "logits", None) for sender in below)

    def __str__(self) -> str:
        kv_heads = "" if self.group == 1 else f" ({self.n_kv_heads} for k and v)"
        width = "" if self.d_model is None else f", width {self.d_model}"
        return f"{self.n_layers} layers of {self.n_heads} heads{kv_heads}{width}" + ", parallel" * self.parallel


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


def told_shape(cfg: dict[str, Any], where: str) -> GraphShape:
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
    return GraphShape(n_layers, n_heads, n_kv_heads, told.get("d_model"), parallel)


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


def told_node_scores(nodes: dict[str, object], shape: GraphShape, where: str) -> Float[np.ndarray, " sender"]:
    """Of a graph of nodes, NaN where a node has none; SweepError for a node that there is not."""
    places = {name: place for place, name in enumerate(shape.senders)}
    scores = np.full(len(places), np.nan)
    for name, told in nodes.items():
        if name not in places and name != "logits":
            raise SweepError(f"{where} has the node {shown(name)}, which a model of {shape} does not have.")
        told_flag(told.get("in_graph") if isinstance(told, dict) else told, name, where)
        score = told.get("score") if isinstance(told, dict) else None
        if score is not None and score == score and name in places:  # NaN: this node has not been scored
            scores[places[name]] = told_score(score, name, where)
    return scores
