"""How a patched forward is run exactly and cheaply, by the shortcuts of ``patchlib.patching.shortcuts``.

One patch can change only what is downstream of it. So a fast forward (1) resumes at the patched layer with the
base prompts' residual stream there, (2) computes only positions from the patched one on, on top of the base prompts'
keys and values, and none before the first one in which the two prompts differ, (3) unembeds only the positions,
and where those suffice only the answers, that are read, (4) puts many cells into one batch and (5) runs nothing
at all for a cell whose patch equals what is there. A plain forward is the same code with none of these but the
batching. The code below is in this order, after (0) the two unpatched forwards that all of it goes on from.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers.cache_utils import Cache, DynamicCache

from patchlib.patching import shortcuts
from patchlib.patching.budget import BATCH_TOKENS
from patchlib.patching.donors import PromptBatch
from patchlib.patching.grid import Cell, Grid, patch_mask
from patchlib.patching.metrics import Reads
from patchlib.patching.probes import is_causal

Hooks = list[tuple[str, Callable[..., Tensor | None]]]
Activations = dict[str, Tensor]
"""By hook name."""


class Work(NamedTuple):
    """How much of a forward is done.

    Attributes:
        fast: Use the shortcuts; else run every patched forward whole.
        reads: Which of the logits are read.
        batch_tokens: Tokens in one forward of donors.
    """

    fast: bool = True
    reads: Reads = Reads()
    batch_tokens: int = BATCH_TOKENS["cpu"]


class PatchedForwards:
    """The forwards of some base prompts and of the other ones, and every patched forward of the base prompts.

    Args:
        model: In eval mode.
        grid: What is patched: only the activations of its site in its layers are kept.
        prompts: What is patched into, and where activations are taken from.
        work: How much of each forward is done.

    Attributes:
        base_logits, other_logits: ``[example read read_vocab]`` in float32, unpatched; ``read`` is 1 or all positions.
    """

    # ---- (0) The unpatched forwards

    def __init__(self, model: TransformerBridge, grid: Grid, prompts: PromptBatch, work: Work) -> None:
        self.model, self.site, self.fast, self.reads = model, grid.site, work.fast, work.reads
        self.n_examples, self.n_pos = prompts.base.shape
        self.layers = sorted(set(grid.layers))
        self.base_tokens, other_tokens = (tokens.to(model.cfg.device) for tokens in (prompts.base, prompts.other))
        apart = self.base_tokens != other_tokens  # [example pos]
        # Where a row's two prompts are alike so far, so are their activations, whatever rounding makes of them. An
        # ablation's values come from elsewhere, and differ from the first position on, as those of a model do in which
        # a later token changes earlier positions.
        alike_so_far = prompts.source == "other" and is_causal(model)
        self._can_differ = apart.cummax(1).values if alike_so_far else torch.ones_like(apart)
        # (2) Before it nothing can change; the last position is always run, to have something to read.
        n_alike = int((~self._can_differ.any(0)).sum())
        self.start = min(n_alike, self.n_pos - 1) if self.fast else 0
        vocab = self.reads.vocab
        self._unembedding = shortcuts.unembedding_of(model, vocab) if self.fast and vocab is not None else {}
        self._fused = shortcuts.fused_activations(model) if self.fast else {}
        with torch.no_grad():
            prefix, prefix_logits = self._shared_prefix()
            # In one forward, on the same keys and values, so that what is alike in the two is so to the bit.
            cache = None if prefix is None else shortcuts.branches(prefix, self.start, keep=True)
            both = torch.cat([self.base_tokens, other_tokens])  # [2*example pos]
            logits, kept = self._record_both(both, cache)
            self.base_logits, self.other_logits = (
                self._read(torch.cat([*prefix_logits, half], dim=1))[0] for half in logits.chunk(2)
            )
            # Patched forwards are of the base prompts, and go on from their keys and values alone.
            self._cache = None if cache is None else shortcuts.branches(cache, self.n_pos, self.n_examples)
            self._base = {name: activation[: self.n_examples] for name, activation in kept.items()}
            self._source = {name: kept[name][self.n_examples :] for name in map(self.site.hook_name, self.layers)}
            if prompts.source == "zero":
                self._source = {name: torch.zeros_like(activation) for name, activation in self._source.items()}
            elif prompts.donors is not None:
                donors = prompts.donors.to(model.cfg.device)
                self._source = self._of_donors(donors, work.batch_tokens, mean=prompts.source == "mean")

    def _shared_prefix(self) -> tuple[Cache | None, list[Tensor]]:
        """Keys and values of the positions before ``start``, and their logits where those are read."""
        if not self.start:
            return (DynamicCache() if self.fast else None), []
        cache = DynamicCache()
        logits = self._forward(self.base_tokens[:, : self.start], [], cache)
        return cache, [] if self.reads.last_only else [logits]

    def _record_both(self, tokens: Int[Tensor, "2*example pos"], cache: Cache | None) -> tuple[Tensor, Activations]:
        """What ``_record`` gives of the base and the other prompts together."""
        return self._record(tokens, cache, with_stream=self.fast)

    def _record(
        self, tokens: Int[Tensor, "example pos"], cache: Cache | None, *, with_stream: bool
    ) -> tuple[Tensor, Activations]:
        """One unpatched forward: its logits, and the site's activations (and the stream entering each layer)."""
        kept: Activations = {}

        def keep(activation: Tensor, hook: Any, name: str) -> None:
            # A copy, because later modules and hooks write into the same memory.
            kept[name] = activation.detach().clone()

        names = {self.site.hook_name(layer) for layer in self.layers}
        if with_stream:
            names |= {f"blocks.{layer}.hook_resid_pre" for layer in self.layers}
        hooks: Hooks = [(name, partial(keep, name=name)) for name in sorted(names)]
        return self._forward(tokens[:, self.start :], hooks, cache), kept

    def _of_donors(self, donors: Int[Tensor, "donor pos"], batch_tokens: int, *, mean: bool) -> Activations:
        """The donors' activations, or their mean, which stands for every example."""
        kept: dict[str, list[Tensor]] = {self.site.hook_name(layer): [] for layer in self.layers}
        for rows in torch.split(donors, max(1, batch_tokens // self.n_pos)):
            for name, activation in self._record(rows, None, with_stream=False)[1].items():
                # Of a mean only the sum is kept, since a reference may have many prompts; in float64, so that
                # neither their number nor their order shows in the last digits.
                if mean:
                    kept[name] = [sum(kept[name], activation.sum(0, dtype=torch.float64))]
                else:
                    kept[name].append(activation)
        if not mean:
            return {name: torch.cat(parts) for name, parts in kept.items()}
        return {
            name: (total / len(donors)).to(self._base[name].dtype).expand_as(self._base[name])
            for name, (total,) in kept.items()
        }

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
            return self._forward(self.base_tokens.repeat(n_cells, 1), hooks, None, **kwargs)
        if self.site.name == "embed":  # what is embedded is in no stream that was recorded
            given = self.base_tokens[:, start:end].repeat(n_cells, 1)  # [cell*example pos]
        else:
            given = self._window(self._base[f"blocks.{layer}.hook_resid_pre"], start, end)
            given = given.repeat(n_cells, 1, 1)  # [cell*example pos d_model]
            if self.model.blocks[layer] not in (instead or {}):  # which has its own stream
                kwargs["start_at_layer"] = layer
        # TransformerLens puts the stream in at the layer and runs the blocks below all the same: here they pass it on.
        replaced = {
            **self._fused,
            **dict.fromkeys(self.model.blocks[:layer], shortcuts.hand_on(shortcuts.n_block_outputs(self.model))),
            **(instead or {}),
        }
        # (3) Nothing reads the last MLP but at the last position; a patch in the MLP itself would see that one only.
        mlp = getattr(self.model.blocks[-1], "mlp", None)
        at_last = self.model.hook_dict[self.site.hook_name(len(self.model.blocks) - 1)]
        if self.reads.last_only and mlp is not None and at_last not in set(mlp.modules()):
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

    def _forward(self, given: Tensor, hooks: Hooks, cache: Cache | None, **kwargs: Any) -> Tensor:
        """Logits of tokens, or of a stream, on top of the keys and values of a cache; only those that are read."""
        if self.fast and self.reads.last_only:
            kwargs["logits_to_keep"] = 1
            # Cut out by position, the rows lie apart in memory, and a product with them is ten times slower.
            hooks = [*hooks, ("unembed.hook_in", lambda stream, hook: stream.contiguous())]
        going_on: AbstractContextManager[dict[str, Any]] = nullcontext({})
        if cache is not None:
            going_on = shortcuts.going_on_from(self.model, cache)
        with shortcuts.forwards(self._unembedding), going_on as arguments:
            logits: Tensor = self.model.run_with_hooks(given, fwd_hooks=hooks, **arguments, **kwargs)
        return logits

    def _read(
        self, logits: Float[Tensor, "cell*example pos vocab"], n_cells: int = 1
    ) -> Float[Tensor, "cell example read read_vocab"]:
        """The logits that are read, of whole prompts, on the prompts' device, wherever the last layer lies."""
        logits = logits.to(self.base_tokens.device)
        if self.reads.vocab is not None and not self._unembedding:
            logits = logits[..., self.reads.vocab.to(logits.device)]  # the plain way has unembedded all
        read = logits[:, -1 if self.reads.last_only else 0 :].float()
        return torch.unflatten(read, 0, (n_cells, self.n_examples))  # [cell example read read_vocab]

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
            forwards[block] = shortcuts.joined(block.forward, n_before, stream.repeat(arriving, 1, 1))
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
