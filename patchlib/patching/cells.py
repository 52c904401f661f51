"""A cell of a sweep, and which numbers of an activation it replaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from patchlib.patching.sites import Site


@dataclass(frozen=True)
class Cell:
    """One patch: the activation in ``layers``, of ``head`` or of all heads, wherever ``mask`` is True.

    Attributes:
        index: Of the cell on each axis of its grid.
        layers: They are patched together.
        head: A k/v head for the keys and values of a grouped-query model; all heads when None.
        mask: The positions of each prompt.
    """

    index: tuple[int, ...]
    layers: tuple[int, ...]
    head: int | None
    mask: Bool[Tensor, "example pos"]


def patch_mask(
    cells: Sequence[Cell], layer: int, site: Site, n_heads: int, positions: slice, device: torch.device | str
) -> Bool[Tensor, "cell example *site 1"]:
    """True where each cell's patch goes in a layer, in the layout of the site's activations at these positions."""
    mask = torch.stack([cell.mask[:, positions] & (layer in cell.layers) for cell in cells])
    mask = mask.to(device)  # [cell example pos], before it is spread over heads: there is less of it to move
    if not site.has_heads:
        return mask[..., None]  # [cell example pos 1]
    heads = range(n_heads)
    chosen = torch.tensor([[cell.head in (None, head) for head in heads] for cell in cells], device=device)
    if site.layout.startswith("example head"):
        return (chosen[:, None, :, None] & mask[:, :, None, :])[..., None]  # [cell example head dest 1]
    return (chosen[:, None, None, :] & mask[..., None])[..., None]  # [cell example pos head 1]
