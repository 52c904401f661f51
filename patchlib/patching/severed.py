"""Windows of layers that are restored together, and what is held at the noised run's values meanwhile.

Meng et al. 2022, "Locating and editing factual associations in GPT": windows in section 2.1, severed MLPs and attention
in section 2.2 and figure 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from patchlib.patching.engine import PatchedForwards
from patchlib.patching.grid import Cell, Grid
from patchlib.patching.sites import SITES
from patchlib.patching.unpatched import Hooks
from patchlib.tasks.pairs import PromptPairs

SEVERED = {"mlp": SITES["mlp_out"], "attn": SITES["attn_out"]}
"""What can be severed -> the site that is held."""


@dataclass(frozen=True)
class WindowGrid(Grid):
    """A grid whose layers stand for windows of layers around them.

    Attributes:
        window: How many layers; at the ends of the model fewer.
        windows: Layer -> the layers that are patched together.
        severed: Which sublayers keep what they give in the base run, of ``SEVERED``; None for none.
    """

    window: int = 1
    windows: dict[int, tuple[int, ...]] = field(default_factory=dict)
    severed: str | None = None

    @property
    def about(self) -> str:
        """What is patched, in a word."""
        return f"{super().about} in windows of {self.window}" if self.window > 1 else super().about

    def cells(self, pairs: PromptPairs) -> list[Cell]:
        """The cells that these prompts (of one length) have, each with the layers of its window."""
        cells = super().cells(pairs)
        if "layer" not in self.values:
            return cells
        return [replace(cell, layers=self.windows[cell.layers[0]]) for cell in cells]

    def attributes(self) -> dict[str, Any]:
        """What a result records."""
        return {**super().attributes(), "window": self.window, "severed": self.severed or "none"}


class SeveredForwards(PatchedForwards):
    """Patched forwards in which MLPs, or attention, give at a cell's positions what they give unpatched.

    So the patch goes on through the other sublayers alone, at those positions; at others all is computed.
    """

    grid: WindowGrid

    def __init__(self, model: Any, grid: WindowGrid, *rest: Any) -> None:
        self._held = SEVERED[str(grid.severed)]
        self._held_layers = [layer for layer in self._held.layers(model) if layer >= min(grid.layers)]
        super().__init__(model, grid, *rest)

    @property
    def written_names(self) -> list[str]:
        """The hooks whose activations are written in: of the patch, and of what is held."""
        return [*super().written_names, *map(self._held.hook_name, self._held_layers)]

    def _patches(self, cells: Sequence[Cell], start: int) -> Hooks:
        def hold(activation: Float[Tensor, "cell*example pos d_model"], hook: Any, name: str) -> Tensor:
            base = self._window(self._base[name], start).to(activation.device)
            by_cell = torch.unflatten(activation, 0, (-1, self.n_examples))  # [cell example pos d_model]
            # Inside a layer the cells that wait are not there; of those that are, none is patched above it only.
            mask = torch.stack([cell.mask[:, start:, None] for cell in cells[: len(by_cell)]])  # [cell example pos 1]
            return activation.copy_(torch.where(mask.to(activation.device), base, by_cell).flatten(0, 1))

        lowest = min(cell.layers[0] for cell in cells)
        names = [self._held.hook_name(layer) for layer in self._held_layers if layer >= lowest]
        return [*super()._patches(cells, start), *((name, partial(hold, name=name)) for name in names)]
