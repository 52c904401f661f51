"""Forwards in which some edges are cut, many sets of edges at once.

Where an edge is cut, its receiver reads the stream without what the sender writes, and with what the sender writes on
other prompts instead; all else is computed (the ablation of edges in Hanna et al. 2024, section 2). So a receiver reads
the stream with every edge cut, plus what the senders that it keeps write differently. (1) One that keeps all its edges
reads the forward's own stream, and one that keeps none is computed once for all sets; only the others are computed for
each set. (2) An MLP of which no edge is kept is not run. (3) Positions before the first at which the two prompts
differ are not computed.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib.circuits.writing import projected, reads
from patchlib.patching.attribution.edge_forwards import EdgeForwards, EdgeGrid
from patchlib.patching.attribution.edge_graph import EdgeGraph, Reader, Sender
from patchlib.patching.donors import PromptBatch
from patchlib.patching.probes import alike, asked_once, probe_tokens, recorded
from patchlib.patching.receivers import INPUTS
from patchlib.patching.shortcuts import Forward, of_rows
from patchlib.patching.sites import SITES
from patchlib.patching.unpatched import UNEMBED_LAST, Hooks, Work

Streams = Float[Tensor, "row example window d_model"]


class CutForwards(EdgeForwards):
    """Every forward of some prompts with edges cut.

    Args:
        model: One that ``is_whole``.
        graph: Its edges.
        prompts: The base is run, and the source stands in for what is cut.
        work: As for ``PatchedForwards``.
    """

    def __init__(self, model: TransformerBridge, graph: EdgeGraph, prompts: PromptBatch, work: Work) -> None:
        layers = list(range(graph.n_layers))
        super().__init__(model, EdgeGrid(SITES["mlp_out"], {}, layers, graph=graph, chosen=[]), prompts, work)
        self._readers: dict[tuple[str, int], list[int]] = {}
        for number, reader in enumerate(graph.readers):
            self._readers.setdefault((reader.site, reader.layer), []).append(number)
        self._floor = self._streams_with_every_edge_cut()
        self._made: dict[tuple[str, int], Tensor] = {}

    @property
    def written_names(self) -> list[str]:
        """The hooks at which senders are seen, and streams are read."""
        return list(dict.fromkeys([*super().written_names, *map(self.graph.read_hook, self.graph.readers)]))

    @torch.no_grad()
    def _streams_with_every_edge_cut(self) -> dict[int, Float[Tensor, "example window d_model"]]:
        """By how many senders have written: biases and positions are there as ever."""
        read = {self.graph.n_read(reader): self.graph.read_hook(reader) for reader in self.graph.readers}
        total, streams = torch.zeros(()), {}
        for n_read, sender in enumerate(self.graph.senders, start=1):
            total = total.to(self.base_tokens.device) + self.difference(sender)
            if n_read in read:
                streams[n_read] = self._base[read[n_read]].float() + total.to(self._base[read[n_read]].device)
        return streams

    @torch.no_grad()
    def logits(self, kept: Bool[Tensor, "set sender receiver"]) -> Float[Tensor, "set example read read_vocab"]:
        """The logits that are read with all edges cut but those that are kept."""
        sets, last = _Sets(self, kept), self.graph.n_layers - 1
        hooks: Hooks = [(SITES["resid_pre"].hook_name(0), partial(sets.write, site="resid_pre", layer=0))]
        live_mlps: dict[torch.nn.Module, Forward] = {}
        for layer in range(last + 1):
            z, mlp_out = (SITES[site].hook_name(layer) for site in ("z", "mlp_out"))
            hooks += [(SITES[site].hook_name(layer), partial(sets.attend, site=site, layer=layer)) for site in INPUTS]
            hooks.append((z, partial(sets.write, site="z", layer=layer)))
            hooks.append((f"blocks.{layer}.mlp.hook_in", partial(sets.enter, layer=layer)))
            hooks.append((mlp_out, partial(sets.write, site="mlp_out", layer=layer)))
            mlp = self.model.blocks[layer].mlp
            live_mlps[mlp] = of_rows(mlp.forward, sets.live_rows(layer))
        hooks.append((SITES["final"].hook, sets.leave))
        if self.reads.last_only and not self.fast:
            hooks.append(UNEMBED_LAST)
        logits = self._resume(hooks, len(kept), 0, self.start, instead=live_mlps)
        return self._read_from(self.start, logits, len(kept))

    def made_of_floor(self, site: str, layer: int) -> Tensor:
        """What receivers make of the stream with every edge cut: ``[example window ...]``."""
        if (site, layer) not in self._made:
            reader = self.graph.readers[self._readers[site, layer][0]]
            self._made[site, layer] = self.makes(reader, self._floor[self.graph.n_read(reader)][None])[0]
        return self._made[site, layer]

    def makes(self, reader: Reader, streams: Streams) -> Tensor:
        """What all heads of a layer, or its MLP's norm, make of some streams."""
        streams = streams.to(self._base[SITES["mlp_out"].hook_name(reader.layer)].dtype)
        if reader.site == "mlp_out":
            norms = mlp_norms(self.model, self.graph)
            assert norms is not None  # as is_whole says
            read: Tensor = getattr(self.model.blocks[reader.layer], norms[reader.layer])(streams.flatten(0, 1))
            return torch.unflatten(read, 0, streams.shape[:2])
        return projected(self.model, reader.layer, reads(self.model, reader.layer, streams), reader.site.upper())

    def source_of(self, name: str) -> Tensor:
        """What stands in at a sender's site."""
        return self._source[name]

    def one_makes(self, reader: Reader, read: Streams) -> Tensor:
        """What one head makes of what attention is given."""
        attn, letter = self.model.blocks[reader.layer].attn, reader.site.upper()
        made: Tensor = read @ getattr(attn, f"W_{letter}")[reader.head]
        bias = getattr(attn, f"b_{letter}", None)
        return made if bias is None else made + bias[reader.head]

    def floor(self, reader: Reader) -> Float[Tensor, "example window d_model"]:
        """The stream that a receiver reads with every edge cut."""
        return self._floor[self.graph.n_read(reader)]

    def readers(self, site: str, layer: int) -> list[int]:
        """Receivers of one kind in a layer, by number."""
        return self._readers[site, layer]


class _Sets:
    """Sets of edges in one forward, and what senders have written so far."""

    def __init__(self, forwards: CutForwards, kept: Bool[Tensor, "set sender receiver"]) -> None:
        self._forwards, self._graph, self._kept = forwards, forwards.graph, kept
        exists = torch.from_numpy(self._graph.exists)
        self._none = ~kept.any(1)  # [set receiver]
        self._some = ~self._none & (exists & ~kept).any(1)  # [set receiver]
        self._live = kept.any(2)  # [set sender]
        self._numbers = {sender: number for number, sender in enumerate(self._graph.senders)}
        window = forwards.n_pos - forwards.start
        size = forwards.n_examples * window * self._graph.d_model
        # What each sender writes, less what stands in for it: filled in as the forward comes to it.
        self._differs = torch.zeros(len(kept), len(self._numbers), size, device=forwards.base_tokens.device)
        self._streams: dict[int, Streams] = {}
        self._layer = -1

    def live_sets(self, layer: int) -> Tensor:
        """The sets for which a layer's MLP is run: one at least, since some MLPs cannot be given nothing."""
        live = self._live[:, self._numbers[Sender("mlp_out", layer)]].nonzero()[:, 0]
        return live if len(live) else torch.zeros(1, dtype=torch.long)

    def live_rows(self, layer: int) -> Tensor:
        """Their rows in a forward."""
        n = self._forwards.n_examples
        return (n * self.live_sets(layer)[:, None] + torch.arange(n)).flatten()

    def _rows(self, activation: Tensor, sets: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """An activation by set, and where some sets are in it: those whose MLP is not run may be missing."""
        by_set = torch.unflatten(activation, 0, (-1, self._forwards.n_examples))
        return by_set, sets if len(by_set) == len(self._kept) else torch.searchsorted(self.live_sets(layer), sets)

    def write(self, activation: Tensor, hook: Any, site: str, layer: int) -> None:
        """Keep what senders write differently, where an edge of theirs is kept."""
        heads = [None] if site != "z" else range(self._graph.n_heads)
        source = self._forwards.source_of(SITES[site].hook_name(layer)).to(activation.device)
        for head in heads:
            sender = Sender(site, layer, head)
            sets = self._live[:, self._numbers[sender]].nonzero()[:, 0]
            if len(sets):
                by_set, rows = self._rows(activation, sets, layer)
                change = by_set[rows] - source if head is None else by_set[rows, :, :, head] - source[:, :, head]
                self._differs[sets, self._numbers[sender]] = self._writes(sender, change)

    def _writes(self, sender: Sender, change: Tensor) -> Float[Tensor, "set example*window*d_model"]:
        """What a change at a sender's site adds to the stream."""
        if sender.head is None:
            return change.float().flatten(1).to(self._differs)
        weight = self._forwards.model.blocks[sender.layer].attn.W_O[sender.head]  # [d_head d_model]
        written: Tensor = change.float() @ weight.float()
        return written.flatten(1).to(self._differs)

    def _read(self, numbers: list[int]) -> tuple[dict[int, Tensor], Streams]:
        """For each receiver the sets for which it reads a stream of its own, and these streams, one after the other."""
        reader = self._graph.readers[numbers[0]]
        n_read, floor = self._graph.n_read(reader), self._forwards.floor(reader)
        floor = floor.to(self._differs.device)
        sets_of = {number: self._some[:, number].nonzero()[:, 0] for number in numbers}
        streams = floor.new_empty(sum(map(len, sets_of.values())), *floor.shape)
        ends = np.cumsum([0, *map(len, sets_of.values())])
        place = {(int(s), number): int(first) + i for (number, sets), first in zip(sets_of.items(), ends, strict=False)
                 for i, s in enumerate(sets)}  # fmt: skip
        for s in sorted({s for s, _ in place}):
            own = [number for number in numbers if (s, number) in place]
            weights = self._kept[s, :n_read][:, own].T.to(floor)  # [receiver sender]
            used = weights.any(0).nonzero()[:, 0]
            if 2 * len(used) < n_read:  # few senders: it is cheaper to gather them
                share = weights[:, used] @ self._differs[s, used]
            else:
                share = weights @ self._differs[s, :n_read]
            streams[[place[s, number] for number in own]] = floor + share.view(-1, *floor.shape)
        return sets_of, streams

    def attend(self, activation: Tensor, hook: Any, site: str, layer: int) -> Tensor:
        """Set each head's queries, keys or values to what it makes of the stream that it reads."""
        forwards = self._forwards
        if self._layer != layer:  # of queries, keys and values together
            self._layer = layer
            numbers = [number for name in INPUTS for number in forwards.readers(name, layer)]
            self._sets_of, streams = self._read(numbers)
            block_reads = reads(forwards.model, layer, streams.to(activation)) if len(streams) else streams
            ends = np.cumsum([len(sets) for sets in self._sets_of.values()])[:-1]
            self._streams = dict(zip(numbers, torch.tensor_split(block_reads, ends.tolist()), strict=True))
        by_set = torch.unflatten(activation, 0, (len(self._kept), forwards.n_examples))
        for head, number in enumerate(forwards.readers(site, layer)):
            none = self._none[:, number]
            if none.any():
                by_set[none, :, :, head] = forwards.made_of_floor(site, layer)[:, :, head].to(activation)
            if len(read := self._streams.pop(number)):
                by_set[self._sets_of[number], :, :, head] = forwards.one_makes(self._graph.readers[number], read)
        return activation

    def enter(self, activation: Tensor, hook: Any, layer: int) -> Tensor:
        """Set what an MLP is given to the norm of the stream that it reads."""
        (number,) = self._forwards.readers("mlp_out", layer)
        live = torch.zeros(len(self._kept), dtype=torch.bool)
        live[self.live_sets(layer)] = True
        none = (self._none[:, number] & live).nonzero()[:, 0]
        sets_of, streams = self._read([number])
        entered = activation.clone()
        if len(none):
            by_set, rows = self._rows(entered, none, layer)
            by_set[rows] = self._forwards.made_of_floor("mlp_out", layer).to(activation)
        some = live[sets_of[number]]
        if some.any():
            by_set, rows = self._rows(entered, sets_of[number][some], layer)
            by_set[rows] = self._forwards.makes(self._graph.readers[number], streams[some]).to(activation)
        return entered

    def leave(self, stream: Tensor, hook: Any) -> Tensor:
        """The stream that the logits read: a new tensor."""
        number = len(self._graph.readers) - 1
        by_set = torch.unflatten(stream.clone(), 0, (len(self._kept), -1))
        none = self._none[:, number]
        by_set[none] = self._forwards.floor(self._graph.readers[number]).to(stream)
        sets_of, streams = self._read([number])
        by_set[sets_of[number]] = streams.to(stream)
        return by_set.flatten(0, 1)


@asked_once
def mlp_norms(model: TransformerBridge, graph: EdgeGraph) -> list[str] | None:
    """By layer, the norm of the stream that gives the MLP its input, its own or attention's; None if one has none."""
    streams = [graph.read_hook(reader) for reader in graph.readers if reader.site == "mlp_out"]
    entered = [f"blocks.{layer}.mlp.hook_in" for layer in range(graph.n_layers)]
    seen = recorded(model, probe_tokens(model), [*streams, *entered])
    norms = []
    for layer, names in enumerate(zip(streams, entered, strict=True)):
        block, (read, given) = model.blocks[layer], (seen.get(name) for name in names)
        fits = (name for name in ("ln2", "ln1") if getattr(block, name, None) is not None and read is not None
                and given is not None and alike(getattr(block, name)(read), given))  # fmt: skip
        norms.append(next(fits, None))
    return None if None in norms else [str(name) for name in norms]


@asked_once
def is_whole(model: TransformerBridge, graph: EdgeGraph) -> bool:
    """Whether the model with no edge cut is the model, and with every edge cut the other prompts' one."""
    if mlp_norms(model, graph) is None:
        return False
    base, other = torch.split(probe_tokens(model), 1)
    forwards = CutForwards(model, graph, PromptBatch(base, other), Work(fast=False))
    sets = torch.from_numpy(np.stack([graph.exists, np.zeros_like(graph.exists)]))
    logits = forwards.logits(sets)[:, 0]
    return alike(logits[0], forwards.base_logits[0]) and alike(logits[1], forwards.other_logits[0])
