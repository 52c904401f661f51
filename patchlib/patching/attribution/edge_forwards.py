"""Forwards in which one edge is patched: one receiver reads what one sender writes in the other prompt.

Everything else is frozen at the base prompts' up to the receiver, and free behind it. So (1) the receiver's layer is
given the base prompts' stream and the sender's difference, to see what the receiver makes of it, and (2) the base
prompts are run with the receiver alone set to that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib.patching.attribution.edge_graph import EdgeGraph, Reader, Sender, written
from patchlib.patching.donors import PromptBatch
from patchlib.patching.engine import PatchedForwards
from patchlib.patching.grid import Cell, Grid
from patchlib.patching.sites import SITES
from patchlib.patching.unpatched import Hooks, Work
from patchlib.tasks.pairs import PromptPairs


@dataclass(frozen=True)
class Edge(Cell):
    """One edge's patch, in the layer of its receiver, at the positions of the mask.

    Attributes:
        sender: What is written by.
        reader: What is read by.
    """

    sender: Sender
    reader: Reader


@dataclass(frozen=True, kw_only=True)
class EdgeGrid(Grid):
    """The edges that are patched, of those that a model has.

    Attributes:
        graph: All that there are.
        chosen: (sender, receiver) by number.
    """

    graph: EdgeGraph
    chosen: list[tuple[int, int]]

    @property
    def n_cells(self) -> int:
        """How many edges are patched, at each position that is swept."""
        return len(self.chosen) * len(self.values.get(self.position_axis or "", [None]))

    @property
    def about(self) -> str:
        """What is patched, in a word."""
        return "edges"

    def cells(self, pairs: PromptPairs) -> list[Cell]:
        """The edges that these prompts (of one length) have."""
        masks = self.masks(pairs).values()
        cells: list[Cell] = []
        for sender, reader in self.chosen:
            edge = self.graph.senders[sender], self.graph.readers[reader]
            for i, mask in enumerate(masks):
                index = (sender, reader) if self.position_axis is None else (sender, reader, i)
                if mask.any():
                    cells.append(Edge(index, (edge[1].layer,), edge[1].head, mask, *edge))
        return cells

    def attributes(self) -> dict[str, str]:
        """What a result records."""
        return {"positions": "all"}


class EdgeForwards(PatchedForwards):
    """Every forward of some base prompts in which an edge is patched, and what each sender writes differently.

    Args:
        model, prompts, work: As for ``PatchedForwards``.
        grid: Its site is ``mlp_out``, its layers are all.
    """

    def __init__(self, model: TransformerBridge, grid: EdgeGrid, prompts: PromptBatch, work: Work) -> None:
        self.graph = grid.graph
        self._differs: dict[Sender, Bool[Tensor, "example window"]] = {}
        super().__init__(model, grid, prompts, work)

    @property
    def written_names(self) -> list[str]:
        """The hooks at which senders are seen."""
        return list(dict.fromkeys(SITES[sender.site].hook_name(sender.layer) for sender in self.graph.senders))

    def between(self, name: str, share: float) -> Tensor:
        """A sender's activation, part of the way from the base prompts to what is written in."""
        base = self._base[name]
        return base + share * (self._source[name].to(base.device) - base)

    def difference(self, sender: Sender) -> Float[Tensor, "example window d_model"]:
        """What a sender writes in the other run minus what it writes in the base run, from ``start`` on."""
        name = SITES[sender.site].hook_name(sender.layer)
        base = self._base[name]
        change = written(self.model, sender, self._source[name].to(base.device) - base)
        # Where the prompts are still alike, a difference in the last bits would be one of rounding only.
        return change * self._can_differ[:, self.start :, None].to(change)

    # ---- (1) What arrives at the receivers

    def _arriving(self, edges: Sequence[Edge], layer: int, start: int) -> list[Tensor]:
        """What each receiver of a layer makes of the base prompts' stream and its sender's difference."""
        made: dict[str, Tensor] = {}

        def add(stream: Tensor, hook: Any, name: str) -> Tensor:
            return self._add(stream, [self.graph.read_hook(edge.reader) == name for edge in edges], edges, start)

        def listen(activation: Tensor, hook: Any, name: str) -> None:
            made[name] = torch.unflatten(activation, 0, (-1, self.n_examples)).clone()  # [edge example window ...]

        hooks: Hooks = [(name, partial(add, name=name)) for name in {self.graph.read_hook(e.reader) for e in edges}]
        hooks += [(name, partial(listen, name=name)) for name in {SITES[e.reader.site].hook_name(layer) for e in edges}]
        stop: dict[str, Any] = {} if layer == self.graph.n_layers - 1 else {"stop_at_layer": layer + 1}
        self._resume(hooks, len(edges), layer, start, **stop)
        read = [made[SITES[edge.reader.site].hook_name(layer)][i] for i, edge in enumerate(edges)]
        return [row if e.head is None else row[:, :, e.head] for e, row in zip(edges, read, strict=True)]

    def _add(self, stream: Tensor, adds: Sequence[bool], edges: Sequence[Edge], start: int) -> Tensor:
        """Add senders' differences to a stream in place, in the rows of the edges that it is read by."""
        by_edge = torch.unflatten(stream, 0, (-1, self.n_examples))  # [edge example window d_model]
        for row, edge, is_read in zip(by_edge, edges, adds, strict=False):
            if is_read:
                row += (self._window(self.difference(edge.sender), start) * edge.mask[:, start:, None].to(row)).to(row)
        return stream

    # ---- (2) What comes of it

    def _patches(self, cells: Sequence[Cell], start: int) -> Hooks:
        """Hooks that set each receiver to what it makes of its edge; the logits read the last stream itself."""
        edges = [cell for cell in cells if isinstance(cell, Edge)]
        read: dict[int, Tensor] = {}
        for layer in {edge.reader.layer for edge in edges}:
            rows = [i for i, e in enumerate(edges) if e.reader.layer == layer and e.reader.site != "final"]
            arriving = self._arriving([edges[i] for i in rows], layer, start) if rows else []
            read |= dict(zip(rows, arriving, strict=True))

        def patch(activation: Tensor, hook: Any, reader_site: str, layer: int) -> Tensor:
            # Inside a layer the edges that wait for a higher one are not there.
            by_edge = torch.unflatten(activation, 0, (-1, self.n_examples))  # [edge example window ...]
            for i, edge in enumerate(edges[: len(by_edge)]):
                if (edge.reader.site, edge.reader.layer) == (reader_site, layer):
                    row = by_edge[i] if edge.head is None else by_edge[i, :, :, edge.head]
                    row.copy_(read[i])
            return activation

        def patch_end(stream: Tensor, hook: Any) -> Tensor:
            return self._add(stream, [edge.reader.site == "final" for edge in edges], edges, start)

        sites = {(edge.reader.site, edge.reader.layer) for edge in edges if edge.reader.site != "final"}
        hooks: Hooks = [
            (SITES[name].hook_name(layer), partial(patch, reader_site=name, layer=layer)) for name, layer in sites
        ]
        return [*hooks, (SITES["final"].hook, patch_end)]

    def changes(self, cell: Cell) -> bool:
        """False where the sender writes in both prompts the same."""
        assert isinstance(cell, Edge)
        if cell.sender not in self._differs:  # a sender has hundreds of edges
            self._differs[cell.sender] = (self.difference(cell.sender) != 0).any(-1).cpu()
        return bool((self._differs[cell.sender] & cell.mask[:, self.start :]).any())
