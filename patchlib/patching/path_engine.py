"""Forwards in which all heads but one sender are frozen, and only the receivers hear of the patch.

The algorithm of Wang et al. 2022, appendix B: (1) the two unpatched forwards; (2) the base prompts with the sender's
output patched and every other head frozen at what it gave there, while MLPs and norms are computed anew, to see what
arrives at the receivers; (3) the base prompts with the receivers' inputs set to that, and all else free.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers.cache_utils import Cache

from patchlib.patching.donors import PromptBatch
from patchlib.patching.engine import PatchedForwards
from patchlib.patching.grid import Cell, Grid, patch_mask
from patchlib.patching.receivers import ReceiverMasks
from patchlib.patching.shortcuts import Forward
from patchlib.patching.sites import Site
from patchlib.patching.unpatched import Activations, Attention, Hooks, Recorded, Work


class PathForwards(PatchedForwards):
    """Patched forwards in which the other heads are frozen and only the receivers hear of the patch.

    Args:
        model, grid, prompts, work: As for ``PatchedForwards``; the grid's site is ``z``.
        receivers: Inputs of heads; the logits when empty.
        recorded: As for ``PatchedForwards``, of path forwards.
    """

    def __init__(
        self,
        model: TransformerBridge,
        grid: Grid,
        prompts: PromptBatch,
        work: Work,
        receivers: ReceiverMasks,
        recorded: Recorded | None = None,
    ) -> None:
        n_layers = int(model.cfg.n_layers)
        # Heads above the sender are frozen too, so that their base outputs are kept.
        super().__init__(model, replace(grid, layers=list(range(min(grid.layers), n_layers))), prompts, work, recorded)
        self._receivers = receivers
        self._highest = max((layer for _, layer in receivers), default=n_layers)
        # MLPs and norms do not mix positions: what arrives at one comes from the sender's output at that one.
        self._arrival = torch.ones(self.n_examples, self.n_pos, dtype=torch.bool)
        if receivers:
            self._arrival = torch.stack([mask.any(-1) for mask in receivers.values()]).any(0)  # [example pos]
        elif self.reads.last_only:
            self._arrival[:, :-1] = False

    # ---- (1) The unpatched forwards

    def _record_both(
        self, tokens: Int[Tensor, "2*example pos"], cache: Cache | None, attention: Attention
    ) -> tuple[Tensor, Activations]:
        """And what each attention sublayer gives for the base prompts: with all heads frozen it gives that again."""

        def keep(module: torch.nn.Module, args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output  # [2*example pos d_model]
            n_others = len(output) - 1 if isinstance(output, tuple) else None
            attention[module] = first[: self.n_examples].clone(), n_others

        with ExitStack() as watched:
            for block in self.model.blocks if self.fast else []:
                watched.enter_context(block.attn.register_forward_hook(keep))
            return super()._record_both(tokens, cache, attention)

    @property
    def waits(self) -> bool:
        """No: every cell has heads frozen in all layers from the lowest cell's on."""
        return False

    # ---- (2) What arrives at the receivers, and (3) what they make of it

    @torch.no_grad()
    def patched_logits(self, cells: Sequence[Cell]) -> Float[Tensor, "cell example read read_vocab"]:
        """The logits of several senders' paths."""
        n_cells, n_layers = len(cells), int(self.model.cfg.n_layers)
        lowest, start = min(cell.layers[0] for cell in cells), min(map(self.first_position, cells))
        # Behind the last position that receives nothing has to be computed until the receivers hear.
        end = int(self._arrival.any(0).nonzero()[-1]) + 1 if self.fast else self.n_pos

        def freeze(activation: Tensor, hook: Any, layer: int) -> Tensor:
            name, pos_axis = self.site.hook_name(layer), self.site.pos_axis
            device = activation.device
            source = self._window(self._source[name], start, end, pos_axis=pos_axis).to(device)
            base = self._window(self._base[name], start, end, pos_axis=pos_axis).to(device)
            # [cell example pos head 1], over [example pos head d_head]
            mask = patch_mask(cells, layer, self.site, self.model, slice(start, end), device)
            return activation.copy_(torch.where(mask, source, base).flatten(0, 1))

        layers = range(lowest, min(self._highest + 1, n_layers))
        hooks: Hooks = [(self.site.hook_name(layer), partial(freeze, layer=layer)) for layer in layers]
        active = {layer for cell in cells for layer in cell.layers} | {layer for _, layer in self._receivers}
        frozen = self._frozen_attention(set(layers) - active, n_cells, start, end)
        if not self._receivers:  # the logits receive: step 2 ends in them
            logits = self._resume(hooks, n_cells, lowest, start, instead=frozen)
            return self._read_from(start, logits, n_cells)

        arrived: dict[tuple[Site, int], Tensor] = {}

        def listen(activation: Tensor, hook: Any, key: tuple[Site, int]) -> None:
            arrived[key] = activation.clone()  # [cell*example pos head d_head]

        def hear(activation: Tensor, hook: Any, key: tuple[Site, int]) -> Tensor:
            mask = self._receivers[key][:, start:end, :, None].repeat(n_cells, 1, 1, 1)  # [cell*example pos head 1]
            heard = activation[:, : end - start]
            heard.copy_(torch.where(mask.to(activation.device), arrived[key], heard))
            return activation

        reached = [key for key in self._receivers if key[1] > lowest]  # a head's inputs are there before its output
        if not reached:  # as the self-check asks of cells that were left out
            return self.base_logits.repeat(n_cells, 1, 1, 1)
        hooks += [(site.hook_name(layer), partial(listen, key=(site, layer))) for site, layer in reached]
        # Above the highest receiver nobody listens.
        stop = {} if self._highest == n_layers - 1 else {"stop_at_layer": self._highest + 1}
        self._resume(hooks, n_cells, lowest, start, end, frozen, **stop)
        hooks = [(site.hook_name(layer), partial(hear, key=(site, layer))) for site, layer in reached]
        first_layer = min(layer for _, layer in reached)
        logits = self._resume(hooks, n_cells, first_layer, start)
        return self._read_from(start, logits, n_cells)

    def _frozen_attention(
        self, layers: Iterable[int], n_cells: int, start: int, end: int
    ) -> dict[torch.nn.Module, Forward]:
        """Attention that is not computed, in layers where no head is patched or listens."""

        def giving(output: Tensor, n_others: int | None) -> Forward:
            again = self._window(output, start, end).repeat(n_cells, 1, 1)  # [cell*example pos d_model]
            return lambda *args, **kwargs: again if n_others is None else (again, *[None] * n_others)

        modules = [self.model.blocks[layer].attn for layer in layers]
        attention = self.recorded.attention
        return {module: giving(*attention[module]) for module in modules if module in attention}

    # ---- What need not be computed

    def first_position(self, cell: Cell) -> int:
        """The first position at which something of the sender's patch can arrive."""
        arriving = (cell.mask & self._arrival).any(0).nonzero()
        return max(self.start, int(arriving[0]) if len(arriving) else self.n_pos - 1) if self.fast else 0

    def changes(self, cell: Cell) -> bool:
        """False where nothing of the sender's patch can arrive."""
        below = tuple(layer for layer in cell.layers if layer < self._highest)
        return super().changes(replace(cell, layers=below, mask=cell.mask & self._arrival))
