"""Which edges a model has: what writes to the residual stream (senders), and what reads it (receivers).

A sender is the embedding, a head or an MLP; a receiver is one head's queries, keys or values, an MLP, or the logits.
There is an edge wherever a receiver reads a stream to which the sender has written already (Syed et al. 2023,
"Attribution Patching Outperforms Automated Circuit Discovery", section 2).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import head_name
from patchlib.errors import SweepError
from patchlib.models.check import check_readable
from patchlib.patching.probes import alike, asked_once, probe_tokens, recorded
from patchlib.patching.receivers import INPUTS, Receiver
from patchlib.patching.sites import SITES, check_patchable, get_site

REFUSED = "attribute_edges cannot be told of {model}: {why}. Use sweep or path_patch."


class Sender(NamedTuple):
    """What writes to the stream.

    Attributes:
        site: Where what it writes is seen: ``"resid_pre"`` of layer 0 for the embedding, ``"z"`` or ``"mlp_out"``.
        layer: Its layer.
        head: None for what is no head.
    """

    site: str
    layer: int
    head: int | None = None

    def __str__(self) -> str:
        if self.head is not None:
            return head_name(self.layer, self.head)
        return "embed" if self.site == "resid_pre" else f"MLP{self.layer}"


class Reader(NamedTuple):
    """A receiver, by what it makes of the stream.

    Attributes:
        site: ``"q"``, ``"k"``, ``"v"`` or ``"mlp_out"``; ``"final"`` for the logits.
        layer: Its layer; the last for the logits.
        head: Of q, k and v, in k/v heads for the latter two.
    """

    site: str
    layer: int
    head: int | None = None

    def __str__(self) -> str:
        if self.head is not None:
            return str(Receiver(self.site, self.layer, self.head))
        return "logits" if self.site == "final" else f"MLP{self.layer}"


@dataclass(frozen=True)
class EdgeGraph:
    """The senders and receivers of a model, each in the order in which a forward comes to them.

    Attributes:
        n_layers, n_heads, n_kv_heads, d_model: The model's; a width of 0 where a file does not say it.
        parallel: Whether attention and MLP of a layer read the same stream.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    parallel: bool

    @cached_property
    def senders(self) -> list[Sender]:
        """The embedding, and in each layer the heads before the MLP."""
        layers = range(self.n_layers)
        of_layers = ([*(Sender("z", i, h) for h in range(self.n_heads)), Sender("mlp_out", i)] for i in layers)
        return [Sender("resid_pre", 0), *(sender for of_layer in of_layers for sender in of_layer)]

    @cached_property
    def readers(self) -> list[Reader]:
        """In each layer the heads' q, k and v before the MLP; then the logits."""
        n_heads = {"q": self.n_heads, "k": self.n_kv_heads, "v": self.n_kv_heads}
        readers = []
        for layer in range(self.n_layers):
            readers += [Reader(site, layer, head) for site in INPUTS for head in range(n_heads[site])]
            readers.append(Reader("mlp_out", layer))
        return [*readers, Reader("final", self.n_layers - 1)]

    def n_read(self, reader: Reader) -> int:
        """How many of the senders, from the first on, have written to the stream that a receiver reads."""
        n_below = 1 + reader.layer * (self.n_heads + 1)
        if reader.site == "final":
            return len(self.senders)
        return n_below + self.n_heads if reader.site == "mlp_out" and not self.parallel else n_below

    def read_hook(self, reader: Reader) -> str:
        """The hook of the stream that a receiver reads, where a change of it is a change for its layer alone."""
        stream = "resid_mid" if reader.site == "mlp_out" and not self.parallel else "resid_pre"
        return SITES["final" if reader.site == "final" else stream].hook_name(reader.layer)

    @cached_property
    def exists(self) -> Bool[np.ndarray, "sender receiver"]:
        """Where there is an edge."""
        n_read = np.array([self.n_read(reader) for reader in self.readers])
        return np.asarray(np.arange(len(self.senders))[:, None] < n_read)

    @cached_property
    def inputs(self) -> list[list[int]]:
        """Of each sender, its node's inputs among the readers: of a head with its group's keys and values."""
        by_node: dict[Sender, list[int]] = {sender: [] for sender in self.senders}
        for number, reader in enumerate(self.readers):
            for node in self.nodes_of(reader):
                by_node[node].append(number)
        return list(by_node.values())

    def nodes_of(self, reader: Reader) -> list[Sender]:
        """The nodes whose input a receiver is: for keys and values the heads that share them; none for the logits."""
        if reader.site == "final":
            return []
        if reader.head is None:
            return [Sender("mlp_out", reader.layer)]
        n_in_group = self.group if reader.site in ("k", "v") else 1
        first = reader.head * n_in_group
        return [Sender("z", reader.layer, head) for head in range(first, first + n_in_group)]

    @property
    def group(self) -> int:
        """How many heads share their keys and values."""
        return self.n_heads // self.n_kv_heads

    def table(self, fill: float | bool) -> xr.DataArray:
        """A cell for each sender and receiver."""
        names = {"sender": list(map(str, self.senders)), "receiver": list(map(str, self.readers))}
        return xr.DataArray(np.full(self.exists.shape, fill), names, ("sender", "receiver"))

    def __str__(self) -> str:
        kv_heads = "" if self.group == 1 else f" ({self.n_kv_heads} for k and v)"
        width = f", width {self.d_model}" if self.d_model else ""
        return f"{self.n_layers} layers of {self.n_heads} heads{kv_heads}{width}" + ", parallel" * self.parallel

    def attributes(self) -> dict[str, str | int]:
        """What a result records."""
        sizes = {name: int(getattr(self, name)) for name in ("n_layers", "n_heads", "n_kv_heads")}
        return {**sizes, "parallel": str(self.parallel), **({"d_model": self.d_model} if self.d_model else {})}


def edge_graph(model: TransformerBridge, *, patched: bool) -> EdgeGraph:
    """The edges of a model, which have to be such as can be ``patched``, where that is wanted.

    Raises:
        SweepError: Weights that cannot be read, a layer without attention or MLP, or senders of which the stream is
            not the sum, as where a norm stands behind the attention.
    """
    check_readable(model)
    layers = range(int(model.cfg.n_layers))
    for name in ("resid_pre", "z", *INPUTS, "mlp_out", "final"):
        get_site(model, name, None if name == "final" else layers)
    with_mid = SITES["resid_mid"].layers(model)
    if with_mid and len(with_mid) < len(layers):
        get_site(model, "resid_mid", layers)
    for name in (*INPUTS, *(("mlp_out", "final") if patched else ())):
        check_patchable(model, SITES[name], by_head=name in INPUTS)
    cfg = model.cfg
    n_kv_heads = SITES["k"].n_heads(model)
    graph = EdgeGraph(len(layers), int(cfg.n_heads), n_kv_heads, int(cfg.d_model), parallel=not with_mid)
    if not _adds_up(model, graph):
        refuse(model, "its stream is not the sum of what its embedding, heads and MLPs write")
    return graph


def refuse(model: TransformerBridge, why: str) -> None:
    """Raise a SweepError that says why a model's edges are none."""
    raise SweepError(REFUSED.format(model=model.cfg.model_name, why=why))


def written(model: TransformerBridge, sender: Sender, activation: Tensor) -> Tensor:
    """``[... d_model]``: what a sender adds to the stream, but for a bias, of the activation at its site."""
    if sender.head is None:
        return activation.float()
    weight: Tensor = model.blocks[sender.layer].attn.W_O[sender.head]  # [d_head d_model]
    return activation.select(-2, sender.head).float() @ weight.float()  # of [... head d_head]


@asked_once
def _adds_up(model: TransformerBridge, graph: EdgeGraph) -> bool:
    """Whether two prompts' streams differ, wherever one is read, by what the senders below write differently.

    Between two prompts, because biases and positions are in both.
    """
    names = {SITES[sender.site].hook_name(sender.layer) for sender in graph.senders}
    names |= {graph.read_hook(reader) for reader in graph.readers}
    seen = recorded(model, probe_tokens(model), sorted(names))
    difference = {name: activation[0] - activation[1] for name, activation in seen.items()}
    streams = {graph.n_read(reader): graph.read_hook(reader) for reader in graph.readers}
    total = torch.zeros_like(difference[graph.read_hook(graph.readers[0])], dtype=torch.float32)  # [pos d_model]
    for n_read, sender in enumerate(graph.senders, start=1):
        try:
            total = total + written(model, sender, difference[SITES[sender.site].hook_name(sender.layer)])
        except (AttributeError, IndexError, RuntimeError):  # its weights are not one W_O for each head
            return False
        if n_read in streams and not alike(total.to(difference[streams[n_read]]), difference[streams[n_read]]):
            return False
    return True
