"""The scores of some prompts: gradients times changes, summed over what each cell patches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patchlib.patching.attribution.attention import FIXED, fixed_scores, hooks_for
from patchlib.patching.attribution.gradients import EMBED, GradientForwards
from patchlib.patching.experiment import Experiment
from patchlib.patching.grid import Grid
from patchlib.patching.metrics import Reads
from patchlib.patching.parts import unpatched_metrics
from patchlib.patching.unpatched import Activations, Work

METHODS = ("gradient", "integrated")
WAYS = ("inputs", "activations")
RULES = ("midpoint", "left")

Scores = Float[np.ndarray, "metric *axes example"]
Gap = Float[np.ndarray, "metric *layer example"]
Gradients = dict[str, Tensor]
"""By hook name, ``[metric *site]``."""


@dataclass(frozen=True)
class Estimate:
    """How cells are estimated.

    Attributes:
        method: One of ``METHODS``.
        steps: How many gradients are averaged along the way.
        along: One of ``WAYS``: what goes from the base prompts' to what is written in.
        rule: One of ``RULES``: where in each step the gradient is taken.
        fix_attention: Compute the softmax of patched queries and keys.
        drop_layers: Average the sizes of scores whose gradients pass by one layer each.
    """

    method: str = "gradient"
    steps: int = 1
    along: str = "inputs"
    rule: str = "midpoint"
    fix_attention: bool = False
    drop_layers: bool = False

    @property
    def shares(self) -> list[float]:
        """How far along the way gradients are taken."""
        if self.method == "gradient":
            return [0.0]
        return [(step + (0.5 if self.rule == "midpoint" else 0)) / self.steps for step in range(self.steps)]

    def with_steps(self, steps: int) -> "Estimate":
        """The same with as many steps."""
        return replace(self, steps=steps)

    def __str__(self) -> str:
        if self.method == "integrated":
            return f"gradients integrated along the {self.along}, {self.steps} steps, {self.rule} rule"
        extras = {"attention fix": self.fix_attention, "dropped layers": self.drop_layers}
        return ", ".join(["gradient at the base prompts", *(name for name, used in extras.items() if used)])


class ScoredPrompts:
    """Prompts of one length, and their scores.

    Args:
        experiments: Alike but for their grids.
        examples: Which of the prompts.
        how: How they are estimated.

    Attributes:
        clean, corrupted: The metrics, unpatched.
        base: Those of the two that are patched.
    """

    def __init__(self, experiments: Sequence[Experiment], examples: list[int], how: Estimate) -> None:
        first = experiments[0]
        self.examples, self._how, self._grids = examples, how, [experiment.grid for experiment in experiments]
        further = [name for grid in self._grids for name in hooks_for(grid)] if how.fix_attention else []
        work = Work(first.how.why_plain is None, Reads.of(first.metrics, first.pairs), first.how.batch_tokens)
        prompts = first.donors.batch(first.pairs, examples)
        self._forwards = GradientForwards(first.model, self._grids, prompts, work, further)
        self._readout, self.clean, self.corrupted = unpatched_metrics(first, self._forwards, examples)
        base, other = first.donors.base_and_other
        self.base, self._other = getattr(self, base), getattr(self, other)

    def scores(self) -> list[tuple[Scores, Gap | None]]:
        """Of each grid, and what integrated scores lack."""
        if self._how.drop_layers:
            return self._without_each_layer()
        if self._how.method == "integrated" and self._how.along == "activations":
            return [self._along_site(self._grids[0])]
        _, gradients = self._mean(self._forwards.along_inputs)
        gap = None
        if self._how.method == "integrated":
            change = self._forwards.source_of(EMBED) - self._forwards.base_of(EMBED)
            explained = (gradients[EMBED] * change).float().flatten(2).sum(-1)  # [metric example]
            gap = explained.cpu().numpy() - (self._other - self.base)
        return [(self._by_cell(grid, gradients), gap) for grid in self._grids]

    def _mean(self, forward: Callable[[float], tuple[Tensor, Activations]]) -> tuple[Tensor, Gradients]:
        """The metrics at the last share, and the mean of the gradients at all."""
        total: Gradients = {}
        for share in self._how.shares:
            values, gradients = self._forwards.values_and_gradients(forward(share), self._readout)
            for name, gradient in gradients.items():
                total[name] = total[name] + gradient if name in total else gradient
        return values, {name: gradient / len(self._how.shares) for name, gradient in total.items()}

    def _along_site(self, grid: Grid) -> tuple[Scores, Gap]:
        """Each layer's activation goes the way alone; its gap is against what it moves when it has arrived."""
        layers = grid.values.get("layer", grid.layers)
        gradients: Gradients = {}
        moved = []
        for layer in layers:
            gradients |= self._mean(partial(self._forwards.along_site, layer))[1]
            moved.append(self._forwards.moved_whole(layer, self._readout) - self.base)  # [metric example]
        explained = [self._forwards.scores(grid.site, layer, gradients).sum((-1, -2)).numpy() for layer in layers]
        return self._by_cell(grid, gradients), np.stack(explained, axis=1) - np.stack(moved, axis=1)

    def _without_each_layer(self) -> list[tuple[Scores, Gap | None]]:
        """The mean size of scores whose gradients pass by one layer each, with the sign of the whole gradient.

        Where contributions of two paths cancel, a gradient says that nothing happens; without one of the paths it does
        not (Kramar et al. 2024, section 3.2.2, GradDrop).
        """
        closed: set[int] = set()
        forward = self._forwards.along_inputs(0.0, closed)
        n_layers = len(self._forwards.model.blocks)

        def scores() -> list[Scores]:
            gradients = self._forwards.values_and_gradients(forward, self._readout, again=True)[1]
            return [self._by_cell(grid, gradients) for grid in self._grids]

        whole = scores()
        sizes = [np.zeros_like(of_grid) for of_grid in whole]
        for layer in range(n_layers):
            closed.add(layer)
            sizes = [size + abs(without) for size, without in zip(sizes, scores(), strict=True)]
            closed.remove(layer)
        # A layer's own cells have none without that layer.
        n_left = max(1, n_layers - 1)
        return [(np.sign(of_grid) * size / n_left, None) for of_grid, size in zip(whole, sizes, strict=True)]

    def _by_cell(self, grid: Grid, gradients: Mapping[str, Tensor]) -> Scores:
        """Scores in the order of a grid's axes, NaN at positions that these prompts do not have."""
        masks = list(grid.masks(self._readout.pairs).values())
        if self._how.fix_attention and grid.site.name in FIXED:
            by_layer = fixed_scores(self._forwards, grid, gradients, masks)
        else:
            where = torch.stack(masks).float()  # [position example pos]
            by_layer = {
                layer: torch.einsum("kep,mepu->mkeu", where, self._forwards.scores(grid.site, layer, gradients))
                for layer in grid.layers
            }
        return by_cell(grid, masks, by_layer)


def by_cell(
    grid: Grid,
    masks: Sequence[Bool[Tensor, "example pos"]],
    by_layer: Mapping[int, Float[Tensor, "metric position example unit"]],
) -> Scores:
    """Scores by layer in the order of a grid's axes, NaN at positions (of the masks) that no prompt has."""
    layers = grid.values.get("layer", grid.layers)
    scores = torch.stack([by_layer[layer] for layer in layers], dim=1)  # [metric layer position example unit]
    scores[:, :, [not mask.any() for mask in masks]] = torch.nan
    if "layer" not in grid.values:
        scores = scores.sum(1, keepdim=True)
    unit = grid.unit_axis
    scores = scores.sum(-1, keepdim=True) if unit is None else scores[..., grid.values[unit]]
    place = {"layer": 1, grid.position_axis: 2, unit: 4}
    axes = [place[axis] for axis in grid.values]
    order = [0, *axes, 3, *({1, 2, 4} - set(axes))]  # what is no axis has one entry
    return scores.permute(order).flatten(len(axes) + 1).numpy()
