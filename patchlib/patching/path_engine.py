"""Runs in which all heads but one sender are frozen, and only the receivers hear of the patch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers.cache_utils import Cache

from patchlib.patching.engine import Cell, Hooks, PatchedRuns
from patchlib.patching.grid import position_mask
from patchlib.patching.sites import Site, get_site
from patchlib.tasks.base import PromptPairs


@dataclass(frozen=True)
class Receiver:
    """One input of one head: its queries, keys or values, at all positions or at a named one.

    Attributes:
        site: ``"q"``, ``"k"`` or ``"v"``.
        layer: Of the head.
        head: For k and v of a grouped-query model the number of the k/v head.
        position: A role of the task or a token index; all positions when None.
    """

    site: str
    layer: int
    head: int
    position: int | str | None = None

    def __str__(self) -> str:
        at = "" if self.position is None else f" at {self.position}"
        return f"{self.site} of L{self.layer}{'H' if self.site == 'q' else 'KV'}{self.head}{at}"


class PathRuns(PatchedRuns):
    """Patched runs in which the other heads are frozen and only the receivers hear of the patch.

    Args:
        model, site, base_tokens, other_tokens, layers: As for ``PatchedRuns``; the site is ``z``.
        receivers: Inputs of heads; the logits when empty.
        pairs: These examples, for the receivers' positions.
        **kwargs: As for ``PatchedRuns``.
    """

    def __init__(
        self,
        model: TransformerBridge,
        site: Site,
        base_tokens: Int[Tensor, "example pos"],
        other_tokens: Int[Tensor, "example pos"],
        layers: Sequence[int],
        *,
        receivers: Sequence[Receiver],
        pairs: PromptPairs,
        **kwargs: Any,
    ) -> None:
        n_layers = int(model.cfg.n_layers)
        super().__init__(model, site, base_tokens, other_tokens, range(min(layers), n_layers), **kwargs)
        self._hears: dict[tuple[Site, int], Bool[Tensor, "example pos head"]] = {}
        for one in receivers:
            of = get_site(model, one.site)
            none = torch.zeros(self.n_examples, self.n_pos, of.n_heads(model), dtype=torch.bool)
            where = position_mask(one.position, pairs)
            self._hears.setdefault((of, one.layer), none)[:, :, one.head] |= where
        self._highest = max((layer for _, layer in self._hears), default=n_layers)
        # MLPs and norms do not mix positions: what arrives at one comes from the sender's output at that one.
        if self._hears:
            self._to = torch.stack([mask.any(-1) for mask in self._hears.values()]).any(0)  # [example pos]
        else:
            self._to = torch.ones(self.n_examples, self.n_pos, dtype=torch.bool)
            if self.reads.last_only:
                self._to[:, :-1] = False

    def _record_both(
        self, tokens: Int[Tensor, "run*example pos"], cache: Cache | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """And what each attention sublayer gives in the base run: with all of its heads frozen it gives that again."""
        self._attention: dict[torch.nn.Module, Any] = {}

        def keep(module: torch.nn.Module, args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            n_others = len(output) - 1 if isinstance(output, tuple) else None
            self._attention[module] = first[: self.n_examples].clone(), n_others

        watched = [block.attn.register_forward_hook(keep) for block in self.model.blocks] if self.fast else []
        try:
            return super()._record_both(tokens, cache)
        finally:
            for handle in watched:
                handle.remove()

    def _frozen(self, layers: Iterable[int], n_cells: int, start: int, end: int) -> dict[torch.nn.Module, Callable]:
        """Attention that is not computed, in layers where no head is patched or listens."""

        def giving(first: Tensor, n_others: int | None) -> Callable:
            again = first[:, start - self.start : end - self.start].repeat(n_cells, 1, 1)
            return lambda *args, **kwargs: again if n_others is None else (again, *[None] * n_others)

        modules = [self.model.blocks[layer].attn for layer in layers]
        return {module: giving(*self._attention[module]) for module in modules if module in self._attention}

    def first(self, cell: Cell) -> int:
        """The first position at which something of the sender's patch can arrive."""
        heard = (cell.where & self._to).any(0).nonzero()
        return max(self.start, int(heard[0]) if len(heard) else self.n_pos - 1) if self.fast else 0

    def matters(self, cell: Cell) -> bool:
        """False where nothing of the sender's patch can arrive."""
        below = tuple(layer for layer in cell.layers if layer < self._highest)
        return super().matters(replace(cell, layers=below, where=cell.where & self._to))

    @torch.no_grad()
    def batch(self, cells: Sequence[Cell]) -> Tensor:
        """The logits of several senders' paths, ``[cell example read read_vocab]``."""
        n_cells, lowest, start = len(cells), min(cell.layers[0] for cell in cells), min(map(self.first, cells))

        def freeze(activation: Tensor, hook, layer: int) -> Tensor:
            name = self.site.hook_name(layer)
            source, base = (self._window(kept[name], start, end) for kept in (self._source, self._base))
            return activation.copy_(torch.where(self._mask(cells, layer, start, end), source, base).flatten(0, 1))

        n_layers = int(self.model.cfg.n_layers)
        end = int(self._to.any(0).nonzero()[-1]) + 1 if self.fast else self.n_pos
        layers = range(lowest, min(self._highest + 1, n_layers))
        hooks: Hooks = [(self.site.hook_name(layer), partial(freeze, layer=layer)) for layer in layers]
        awake = {layer for cell in cells for layer in cell.layers} | {layer for _, layer in self._hears}
        frozen = self._frozen(set(layers) - awake, n_cells, start, end)
        if not self._hears:
            logits = self._resume(hooks, [self.site], n_cells, lowest, start, instead=frozen)
            return self._logits(logits, n_cells, start)

        arrived: dict[tuple[Site, int], Tensor] = {}

        def listen(activation: Tensor, hook, key: tuple[Site, int]) -> None:
            arrived[key] = activation.clone()

        def hear(activation: Tensor, hook, key: tuple[Site, int]) -> Tensor:
            mask = self._hears[key][:, start:end, :, None].repeat(n_cells, 1, 1, 1).to(activation.device)
            heard = activation[:, : end - start]
            heard.copy_(torch.where(mask, arrived[key], heard))
            return activation

        reached = [key for key in self._hears if key[1] > lowest]  # a head's inputs are there before its output
        hooks += [(of.hook_name(layer), partial(listen, key=(of, layer))) for of, layer in reached]
        stop = {} if self._highest == n_layers - 1 else {"stop_at_layer": self._highest + 1}
        self._resume(hooks, [self.site], n_cells, lowest, start, end, frozen, **stop)
        hooks = [(of.hook_name(layer), partial(hear, key=(of, layer))) for of, layer in reached]
        first = min(layer for _, layer in reached)
        return self._logits(self._resume(hooks, [of for of, _ in reached], n_cells, first, start), n_cells, start)
