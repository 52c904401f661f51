"""How a patched forward is run exactly and cheaply, by the shortcuts of ``patchlib.patching.shortcuts``.

One patch can change only what is downstream of it. So a fast forward (1) resumes at the patched layer with the
base prompts' residual stream there, (2) computes only positions from the patched one on, on top of the base prompts'
keys and values, and none before the first one in which the two prompts differ, (3) unembeds only the positions,
and where those suffice only the answers, that are read, (4) puts many cells into one batch and (5) runs nothing
at all for a cell whose patch equals what is there. A plain forward is the same code with none of these but the
batching. The code below is in this order; what all of it goes on from, the two unpatched forwards, is in
``patchlib.patching.unpatched``.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from patchlib.patching import shortcuts
from patchlib.patching.grid import Cell, patch_mask
from patchlib.patching.unpatched import Hooks, UnpatchedForwards


class PatchedForwards(UnpatchedForwards):
    """Every patched forward of some base prompts, beside the unpatched ones.

    Args:
        model, grid, prompts, work: As for ``UnpatchedForwards``.
    """

    # ---- (1) Resume at the patched layer

    def _resume(
        self,
        hooks: Hooks,
        n_cells: int,
        layer: int,
        start: int,
        end: int | None = None,
        instead: Mapping[torch.nn.Module, shortcuts.Forward] | None = None,
        **kwargs: Any,
    ) -> Float[Tensor, "cell*example pos vocab"]:
        """Copies of the base forward, from a layer and a position on, with hooks: only what those can change is run.

        Args:
            hooks: They see the positions from ``start`` on.
            n_cells: How many copies.
            layer: None of the hooks is below it, and its stream was recorded.
            start: None of the hooks changes anything before it.
            end: Nothing is wanted of the positions from here on.
            instead: Forwards of modules whose output is known already.
            **kwargs: For the forward.
        """
        if self._cache is None:  # a plain forward: whole prompts through all layers
            hooks = [*self._noised(0, n_copies=n_cells), *hooks]
            return self._forward(self.base_tokens.repeat(n_cells, 1), hooks, None, **kwargs)
        if self.site.name == "embed":  # what is embedded is in no stream that was recorded
            given = self.base_tokens[:, start:end].repeat(n_cells, 1)  # [cell*example pos]
            hooks = [*self._noised(start, end, n_copies=n_cells), *hooks]
        else:
            given = self._window(self._base[f"blocks.{layer}.hook_resid_pre"], start, end)
            given = given.repeat(n_cells, 1, 1)  # [cell*example pos d_model]
            if self.model.blocks[layer] not in (instead or {}):  # which has its own stream
                kwargs["start_at_layer"] = layer
        # TransformerLens puts the stream in at the layer and runs the blocks below all the same: here they pass it on.
        replaced = {
            **dict.fromkeys(self.model.blocks[:layer], shortcuts.hand_on(shortcuts.n_block_outputs(self.model))),
            **(instead or {}),
        }
        # (3) Nothing reads the last MLP but at the last position; a patch in the MLP itself would see that one only.
        mlp = getattr(self.model.blocks[-1], "mlp", None)
        names = [self.site.hook_name(len(self.model.blocks) - 1), *(name for name, _ in hooks)]
        hooked = {self.model.hook_dict[name] for name in names}
        if self.reads.last_only and mlp is not None and hooked.isdisjoint(mlp.modules()):
            replaced[mlp] = shortcuts.at_the_end(mlp.forward)
        with shortcuts.forwards(replaced):
            # (2) Attention sees the positions before start as the base prompts' keys and values.
            return self._forward(given, hooks, shortcuts.branches(self._cache, start), **kwargs)

    # ---- (2) Positions from the patched one on

    def first_position(self, cell: Cell) -> int:
        """The first position that a patched forward of this cell has to compute."""
        return max(self.start, int(cell.mask.any(0).nonzero()[0])) if self.fast else 0

    def _window(self, activation: Tensor, start: int, end: int | None = None, *, pos_axis: int = 1) -> Tensor:
        """A recorded activation at the positions from ``start`` to before ``end``."""
        return activation.narrow(pos_axis, start - self.start, (end or self.n_pos) - start)

    # ---- (3) Only the logits that are read

    @property
    def n_logits(self) -> int:
        """How many logits a forward gives for one cell: a plain one unembeds everything, whatever is read of it."""
        width = len(self.reads.vocab) if self.reads.vocab is not None and self._unembedding else self.model.cfg.d_vocab
        return int(width) * self.n_examples * (1 if self.fast and self.reads.last_only else self.n_pos)

    def _read_from(
        self, start: int, logits: Float[Tensor, "cell*example pos vocab"], n_cells: int
    ) -> Float[Tensor, "cell example read read_vocab"]:
        """What is read of a forward from position ``start`` on: before it the logits are the base prompts'."""
        if not self.reads.last_only and self._cache is not None and start:
            before = self.base_logits[:, :start].to(logits).repeat(n_cells, 1, 1)  # [cell*example start vocab]
            logits = torch.cat([before, logits], dim=1)
        return self._read(logits, n_cells)

    # ---- (4) Many cells in one batch

    @property
    def waits(self) -> bool:
        """Whether a cell of a higher layer costs nothing in the layers below its own."""
        return self._cache is not None

    def _waiting(self, cells: Sequence[Cell], start: int) -> dict[torch.nn.Module, shortcuts.Forward]:
        """Blocks' forwards of the cells that have come to their own layer, which are in the order of their layers.

        The others enter at their own with what the base prompts have there. So a batch of cells of all layers takes as
        few products of matrices as one of a single layer, and none of them has a row that nothing can have changed.
        """
        first = [cell.layers[0] for cell in cells]
        forwards = {}
        for layer in range(first[0], first[-1] + 1) if first[0] < first[-1] else ():
            arriving = first.count(layer)  # perhaps none
            stream = self._window(self._base[f"blocks.{layer if arriving else first[0]}.hook_resid_pre"], start)
            block, n_before = self.model.blocks[layer], bisect_left(first, layer) * self.n_examples
            n_rows = len(cells) * self.n_examples
            forwards[block] = shortcuts.joined(block.forward, n_before, n_rows, stream.repeat(arriving, 1, 1))
        return forwards

    @torch.no_grad()
    def patched_logits(self, cells: Sequence[Cell]) -> Float[Tensor, "cell example read read_vocab"]:
        """The logits of several cells' patches in one forward, even of those in which nothing changes."""
        order = sorted(range(len(cells)), key=lambda i: cells[i].layers[0])
        cells = [cells[i] for i in order]
        # As far back and as low as any of the cells needs.
        n_cells, start = len(cells), min(map(self.first_position, cells))
        waiting = self._waiting(cells, start) if self.waits else {}
        logits = self._resume(self._patches(cells, start), n_cells, cells[0].layers[0], start, instead=waiting)
        return self._read_from(start, logits, n_cells)[torch.tensor(order).argsort()]  # as asked

    def _patches(self, cells: Sequence[Cell], start: int) -> Hooks:
        """Hooks that patch each cell, from a position on; inside a layer the cells that wait are not there."""

        def patch(activation: Tensor, hook: Any, layer: int) -> Tensor:
            source = self._window(self._source[self.site.hook_name(layer)], start, pos_axis=self.site.pos_axis)
            by_cell = torch.unflatten(activation, 0, (-1, self.n_examples))  # [cell example *site]
            # A layer's stream may come from the device of the layer below it.
            source, device = source.to(activation.device), activation.device
            here = cells[: len(by_cell)]
            mask = patch_mask(here, layer, self.site, self.model, slice(start, None), device)  # [cell example *site 1]
            # In place: resid_mid is hooked as the input of the second norm, and the skip connection past
            # that norm reads the same tensor. A new tensor would change the one and not the other.
            return activation.copy_(torch.where(mask, source, by_cell).flatten(0, 1))

        layers = sorted({layer for cell in cells for layer in cell.layers})
        return [(self.site.hook_name(layer), partial(patch, layer=layer)) for layer in layers]

    # ---- (5) Nothing for a patch that changes nothing

    def changes(self, cell: Cell) -> bool:
        """False where the patch is what the base prompts have there already."""
        # Where the prompts are still alike, a difference in the last bits would be one of rounding only.
        cell = replace(cell, mask=cell.mask & self._can_differ.to(cell.mask.device))
        for layer in cell.layers:
            name = self.site.hook_name(layer)
            source, base = self._source[name], self._base[name]
            mask = patch_mask([cell], layer, self.site, self.model, slice(self.start, None), base.device)[0]
            if (mask & (source.to(base.device) != base)).any():
                return True
        return False
