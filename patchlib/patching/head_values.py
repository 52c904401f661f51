"""Forwards in which one head reads other values, while the heads that share its keys and values read their own.

A grouped-query model has one set of values for several heads, and a patch of it changes all of them. For one head
alone the values are patched where it reads them: what it gives moves by its pattern times the change of the values.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from patchlib.patching.engine import PatchedForwards
from patchlib.patching.grid import Cell, patch_mask
from patchlib.patching.probes import mixed
from patchlib.patching.sites import SITES
from patchlib.patching.unpatched import Activations, Hooks


class HeadValueForwards(PatchedForwards):
    """Patched forwards of the site ``head_v``: positions are those of the values, which is where a head looks."""

    def _record(
        self, tokens: Int[Tensor, "example pos"], cache: Cache | None, *, with_stream: bool, hooks: Hooks | None = None
    ) -> tuple[Tensor, Activations]:
        """As every site is recorded, with each group's values once for each of its heads."""
        logits, kept = super()._record(tokens, cache, with_stream=with_stream, hooks=hooks)
        for name in map(self.site.hook_name, self.layers):
            kept[name] = self._for_each_head(kept[name])
        return logits, kept

    def _for_each_head(
        self, values: Float[Tensor, "example pos kv_head d_head"]
    ) -> Float[Tensor, "example pos head d_head"]:
        return values.repeat_interleave(self.site.n_heads(self.model) // values.shape[2], dim=2)

    def _patches(self, cells: Sequence[Cell], start: int) -> Hooks:
        seen: dict[str, Tensor] = {}

        def see(activation: Tensor, hook: Any, name: str) -> None:
            seen[name] = activation.clone()

        def read(z: Float[Tensor, "cell*example pos head d_head"], hook: Any, layer: int) -> Tensor:
            source = self._window(self._source[self.site.hook_name(layer)], start).to(z.device)
            values = torch.unflatten(self._for_each_head(seen["v"]), 0, (-1, self.n_examples))
            here = cells[: len(values)]  # inside a layer the cells that wait are not there
            mask = patch_mask(here, layer, self.site, self.model, slice(start, None), z.device)
            change = torch.where(mask, source - values, 0).flatten(0, 1)  # [cell*example pos head d_head]
            # The pattern is that of this forward, over all positions; the values before `start` are as they were.
            return z.add_(mixed(seen["pattern"][..., -change.shape[1] :], change))

        hooks: Hooks = []
        for layer in sorted({layer for cell in cells for layer in cell.layers}):
            hooks += [(SITES[name].hook_name(layer), partial(see, name=name)) for name in ("v", "pattern")]
            hooks += [(SITES["z"].hook_name(layer), partial(read, layer=layer))]
        return hooks
