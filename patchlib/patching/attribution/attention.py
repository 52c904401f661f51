"""The attention fix of AtP*: what queries and keys do to a softmax is computed, and only what follows is a gradient.

A softmax that is sure of itself hardly moves with its scores, so that the gradient of a query or key says nothing of a
patch that turns the head elsewhere (Kramar et al. 2024, "AtP*: an efficient and scalable method for localizing LLM
behaviour to components", section 3.2.1). Here the model itself computes the pattern that the patched queries or keys
give, in all layers in one forward in which every layer is given the base prompts' stream; times the gradient at the
pattern that is the score, exact where all that follows is linear.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patchlib.patching.attribution.gradients import GradientForwards
from patchlib.patching.grid import Grid
from patchlib.patching.sites import SITES
from patchlib.patching.unpatched import Hooks

Mask = Bool[Tensor, "example pos"]
FIXED = ("q", "k")
"""Sites whose patches go through the softmax alone."""


def hooks_for(grid: Grid) -> list[str]:
    """What the fix reads besides the site: patterns, and the stream that each layer is given."""
    sites = (SITES["pattern"], SITES["resid_pre"])
    return [site.hook_name(layer) for layer in grid.layers for site in sites] if grid.site.name in FIXED else []


def fixed_scores(
    forwards: GradientForwards, grid: Grid, gradients: Mapping[str, Tensor], masks: Sequence[Mask]
) -> dict[int, Float[Tensor, "metric position example unit"]]:
    """By layer, the scores of queries or keys that are patched where a mask says, for each of the masks.

    Args:
        forwards: Their activations are recorded, with those of ``hooks_for``.
        grid: Of the site ``q`` or ``k``.
        gradients: At the patterns, ``[metric example head dest src]``.
        masks: One for each position that is swept.
    """
    everywhere = torch.stack([*masks]).any(0)
    if grid.site.name == "q":  # each row of a pattern has a query of its own
        changes = _changes(forwards, grid, everywhere)
        rows = torch.stack([*masks])[:, :, forwards.start :].float()  # [position example dest]
        return {
            layer: torch.einsum("ped,mehd->mpeh", rows, (gradients[_name(layer)] * change).float().sum(-1).cpu())
            for layer, change in changes.items()
        }
    by_mask = [_changes(forwards, grid, mask) for mask in masks]
    n_keys = grid.site.n_heads(forwards.model)
    scores = {}
    for layer in grid.layers:
        moved = [(gradients[_name(layer)] * changes[layer]).float().sum((-1, -2)).cpu() for changes in by_mask]
        # A key is that of all the heads that share it.
        scores[layer] = torch.stack([torch.unflatten(by_head, -1, (n_keys, -1)).sum(-1) for by_head in moved], dim=1)
    return scores


def _name(layer: int) -> str:
    return SITES["pattern"].hook_name(layer)


@torch.no_grad()
def _changes(forwards: GradientForwards, grid: Grid, mask: Mask) -> dict[int, Float[Tensor, "example head dest src"]]:
    """By layer, how the pattern changes with queries or keys patched in this layer alone, where a mask says."""
    changes: dict[int, Tensor] = {}
    here = (mask & forwards.can_differ.to(mask.device))[:, forwards.start :, None, None]  # [example pos 1 1]

    def hold(stream: Tensor, hook: Any, name: str) -> Tensor:
        return stream.copy_(forwards.base_of(name))

    def patch(activation: Tensor, hook: Any, name: str) -> Tensor:
        source = forwards.source_of(name).to(activation.device)
        return activation.copy_(torch.where(here.to(activation.device), source, activation))

    def look(pattern: Tensor, hook: Any, layer: int) -> None:
        changes[layer] = pattern - forwards.base_of(_name(layer)).to(pattern.device)

    hooks: Hooks = []
    for layer in grid.layers:
        stream, patched = SITES["resid_pre"].hook_name(layer), grid.site.hook_name(layer)
        hooks += [(stream, partial(hold, name=stream)), (patched, partial(patch, name=patched))]
        hooks += [(_name(layer), partial(look, layer=layer))]
    forwards.run(hooks)
    return changes
