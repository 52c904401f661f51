"""Patched forwards of sets of cells: several heads, layers, positions and sites at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import torch
from jaxtyping import Bool
from torch import Tensor

from patchlib.patching.engine import PatchedForwards
from patchlib.patching.grid import Cell, Grid, patch_mask, position_mask
from patchlib.patching.members import Member
from patchlib.patching.sites import Site
from patchlib.patching.unpatched import Hooks
from patchlib.tasks.pairs import PromptPairs


@dataclass(frozen=True)
class SetCell(Cell):
    """Several cells that are patched together; ``layers`` and ``mask`` are all of theirs.

    Attributes:
        parts: Each with its site.
    """

    parts: tuple[tuple[Site, Cell], ...] = ()

    def of_rows(self, rows: Sequence[int]) -> Self:
        """The same patch in some of the prompts."""
        parts = tuple((site, part.of_rows(rows)) for site, part in self.parts)
        return replace(super().of_rows(rows), parts=parts)


@dataclass(frozen=True)
class SetGrid(Grid):
    """Sets of cells, along the axis ``set``.

    Attributes:
        sets: The members of each.
    """

    sets: tuple[tuple[Member, ...], ...] = field(default=())

    @property
    def sites(self) -> dict[Site, set[int]]:
        """What is patched, and in which layers."""
        sites: dict[Site, set[int]] = {}
        for member in (member for members in self.sets for member in members):
            sites.setdefault(member.site, set()).add(member.layer)
        return sites

    @property
    def about(self) -> str:
        """What is patched, in a word."""
        return f"sets of {' and '.join(site.name for site in self.sites)}"

    def cells(self, pairs: PromptPairs) -> list[Cell]:
        """The sets, in these prompts (of one length)."""
        masks = {position: position_mask(position, pairs) for position in {m.position for s in self.sets for m in s}}
        cells: list[Cell] = []
        for i, members in enumerate(self.sets):
            parts = tuple((m.site, Cell((i,), (m.layer,), m.head, masks[m.position])) for m in members)
            layers = tuple(sorted({member.layer for member in members}))
            mask = torch.stack([part.mask for _, part in parts]).any(0)  # [example pos]
            cells.append(SetCell((i,), layers, None, mask, parts))
        return cells

    def attributes(self) -> dict[str, str]:
        """What a result records."""
        is_everywhere = all(member.position is None for members in self.sets for member in members)
        names = " and ".join(site.name for site in self.sites)
        return {"site": names, "positions": "all" if is_everywhere else "those of each cell"}


class SetForwards(PatchedForwards):
    """Patched forwards of sets of cells."""

    def __init__(self, model: Any, grid: SetGrid, *rest: Any) -> None:
        self._sites = grid.sites
        super().__init__(model, grid, *rest)

    @property
    def written_names(self) -> list[str]:
        """The hooks whose activations are written in."""
        return [site.hook_name(layer) for site, layers in self._sites.items() for layer in sorted(layers)]

    def _mask_of(
        self, cell: Cell, site: Site, layer: int, positions: slice, device: torch.device
    ) -> Bool[Tensor, "example *site 1"] | None:
        """Where a set's patch goes at one hook; None where it has no member there."""
        parts = [part for of, part in _parts(cell) if of == site and layer in part.layers]
        whole = [patch_mask([part], layer, site, self.model, positions, device)[0] for part in parts]
        return torch.stack(whole).any(0) if whole else None

    def _patches(self, cells: Sequence[Cell], start: int) -> Hooks:
        def patch(activation: Tensor, hook: Any, site: Site, layer: int) -> Tensor:
            source = self._window(self._source[site.hook_name(layer)], start, pos_axis=site.pos_axis)
            by_cell = torch.unflatten(activation, 0, (-1, self.n_examples))  # [cell example *site], written in place
            source = source.to(activation.device)
            for rows, cell in zip(by_cell, cells, strict=False):  # inside a layer the cells that wait are not there
                mask = self._mask_of(cell, site, layer, slice(start, None), activation.device)
                if mask is not None:
                    rows.copy_(torch.where(mask, source, rows))
            return activation

        hooked = dict.fromkeys((site, part.layers[0]) for cell in cells for site, part in _parts(cell))
        return [(site.hook_name(layer), partial(patch, site=site, layer=layer)) for site, layer in hooked]

    def changes(self, cell: Cell) -> bool:
        """False where the patch is what the base prompts have there already."""
        can_differ = self._can_differ.to(cell.mask.device)
        for site, part in _parts(cell):
            name, positions = site.hook_name(part.layers[0]), slice(self.start, None)
            source, base = self._source[name], self._base[name]
            live = replace(part, mask=part.mask & can_differ)
            mask = patch_mask([live], part.layers[0], site, self.model, positions, base.device)[0]
            if (mask & (source.to(base.device) != base)).any():
                return True
        return False


def _parts(cell: Cell) -> tuple[tuple[Site, Cell], ...]:
    return cell.parts if isinstance(cell, SetCell) else ()
