"""What every direct path would do, from gradients with the heads frozen: one backward gives all senders at once.

A path leaves a sender's output and passes norms and MLPs, but no other head. So (1) with each head's output a leaf of
the graph, the gradient of what a receiver is given follows these paths and no others. (2) The receivers make of it what
the gradient of the metric at their inputs says; an input that is set does not follow the receivers below it. The score
of a sender is the product of both times the change of its output: attribution patching (Nanda 2023) of the algorithm of
Wang et al. 2022, appendix B.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchlib.patching.attribution.gradients import graph_of
from patchlib.patching.attribution.scored import Gap, Scores, by_cell
from patchlib.patching.experiment import Experiment
from patchlib.patching.metrics import Readout
from patchlib.patching.parts import unpatched_metrics
from patchlib.patching.path_engine import PathForwards
from patchlib.patching.sites import Site
from patchlib.patching.unpatched import Hooks

Inputs = dict[tuple[Site, int], Tensor]
"""By site and layer, the queries, keys or values of a layer, or gradients at them: ``[example pos head d_head]``."""


class PathGradients(PathForwards):
    """The unpatched forwards of some base prompts, and gradients of their metrics along direct paths."""

    def scores(self, readout: Readout) -> dict[int, Float[Tensor, "metric example pos head"]]:
        """By layer, how far the paths of each sender at each position move each metric, to first order."""
        # MLPs and norms do not mix positions: only those at which something arrives are run.
        arriving = (self._arrival & self._can_differ.cpu()).any(0).nonzero()
        sizes = len(readout.metrics), self.n_examples, self.n_pos, int(self.model.cfg.n_heads)
        scores = {layer: torch.zeros(sizes) for layer in self.layers}
        reached = [key for key in self._receivers if key[1] > self.layers[0]]
        if not len(arriving) or (self._receivers and not reached):
            return scores
        start, end = (int(arriving[0]), int(arriving[-1]) + 1) if self.fast else (0, self.n_pos)
        with graph_of(self.model):
            if self._receivers:
                moved, leaves = self._given_receivers(reached, self._at_inputs(reached, readout, start), start, end)
            else:
                moved, leaves = self._to_logits(readout, start)
                end = self.n_pos
            by_metric = [
                torch.autograd.grad(of_metric, list(leaves.values()), retain_graph=True, materialize_grads=True)
                for of_metric in moved
            ]
        for layer, gradients in zip(leaves, zip(*by_metric, strict=True), strict=True):
            name = self.site.hook_name(layer)
            source, base = (self._window(kept[name], start, end) for kept in (self._source, self._base))
            by_head = (torch.stack(gradients) * (source.to(base.device) - base)).float().sum(-1).cpu()
            can_differ = (self._arrival & self._can_differ.cpu())[:, start:end, None]
            scores[layer][:, :, start:end] = by_head * can_differ  # [metric example pos head]
        return scores

    def _freezing(self, start: int, end: int) -> tuple[Hooks, dict[int, Tensor]]:
        """Hooks that hold every head at its base output, from which on there is a graph; and these outputs."""
        leaves: dict[int, Tensor] = {}

        def freeze(z: Tensor, hook: Any, layer: int) -> Tensor:
            base = self._window(self._base[self.site.hook_name(layer)], start, end).to(z.device)
            leaves[layer] = base.detach().clone().requires_grad_()
            return leaves[layer].clone()

        layers = range(self.layers[0], min(self._highest, len(self.model.blocks)))
        return [(self.site.hook_name(layer), partial(freeze, layer=layer)) for layer in layers], leaves

    def _to_logits(self, readout: Readout, start: int) -> tuple[list[Tensor], dict[int, Tensor]]:
        """Each metric, summed over prompts (which do not mix), and the heads' outputs that it follows from."""
        hooks, leaves = self._freezing(start, self.n_pos)
        read = self._read_from(start, self._resume(hooks, 1, self.layers[0], start), 1)
        return [readout.differentiable(name, read).sum() for name in readout.metrics], leaves

    # ---- (1) What the receivers are given

    def _given_receivers(
        self, reached: list[tuple[Site, int]], gradients: list[Inputs], start: int, end: int
    ) -> tuple[list[Tensor], dict[int, Tensor]]:
        """For each metric its gradient at the receivers' inputs times these, and the outputs that they follow from."""
        hooks, leaves = self._freezing(start, end)
        given: Inputs = {}

        def listen(activation: Tensor, hook: Any, key: tuple[Site, int]) -> Tensor:
            given[key] = activation  # handed back, as TransformerLens may have changed its axes for the hook
            return activation

        hooks += [(site.hook_name(layer), partial(listen, key=(site, layer))) for site, layer in reached]
        stop: dict[str, Any] = (
            {} if self._highest == len(self.model.blocks) - 1 else {"stop_at_layer": self._highest + 1}
        )
        self._resume(hooks, 1, self.layers[0], start, end, **stop)
        moved = [
            torch.stack([(given[key] * at_input[key][:, : end - start]).sum().cpu() for key in reached]).sum()
            for at_input in gradients
        ]
        return moved, leaves

    # ---- (2) What they make of it

    def _at_inputs(self, reached: list[tuple[Site, int]], readout: Readout, start: int) -> list[Inputs]:
        """The gradient of each metric at the receivers' inputs, 0 where nothing is received."""
        leaves: Inputs = {}
        masks = {key: self._receivers[key][:, start:, :, None] for key in reached}  # [example pos head 1]

        def hear(activation: Tensor, hook: Any, key: tuple[Site, int]) -> Tensor:
            leaves[key] = activation.detach().clone().requires_grad_()
            return torch.where(masks[key].to(activation.device), leaves[key], activation)

        hooks: Hooks = [(site.hook_name(layer), partial(hear, key=(site, layer))) for site, layer in reached]
        logits = self._resume(hooks, 1, min(layer for _, layer in reached), start)
        read = self._read_from(start, logits, 1)
        by_metric = []
        for name in readout.metrics:
            of_metric = readout.differentiable(name, read).sum()
            found = torch.autograd.grad(of_metric, list(leaves.values()), retain_graph=True, materialize_grads=True)
            by_metric.append(dict(zip(leaves, found, strict=True)))
        return by_metric


class ScoredPaths:
    """Prompts of one length, and the scores of their senders, as ``ScoredPrompts`` has those of cells.

    Args:
        experiment: Its cells are senders.
        examples: Which of the prompts.

    Attributes:
        clean, corrupted: The metrics, unpatched.
        base: Those of the two that are patched.
    """

    def __init__(self, experiment: Experiment, examples: list[int]) -> None:
        self.examples, self._grid = examples, experiment.grid
        self._forwards = forwards = experiment.start_paths(examples, PathGradients)
        self._readout, self.clean, self.corrupted = unpatched_metrics(experiment, forwards, examples)
        self.base: Float[np.ndarray, "metric example"] = getattr(self, experiment.donors.base_and_other[0])

    def scores(self) -> list[tuple[Scores, Gap | None]]:
        """Of the one grid; there is no gap."""
        masks = list(self._grid.masks(self._readout.pairs).values())
        where = torch.stack(masks).float()  # [position example pos]
        by_layer = {
            layer: torch.einsum("kep,mepu->mkeu", where, scores)
            for layer, scores in self._forwards.scores(self._readout).items()
        }
        return [(by_cell(self._grid, masks, by_layer), None)]
