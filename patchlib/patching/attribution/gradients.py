"""How a metric moves with every activation of some sites at once: one forward with its graph, one backward.

A patch of an activation moves the metric, to first order, by the gradient there times the change that is written in
(Nanda 2023, "Attribution patching: activation patching at industrial scale"). Weights need no gradient: the leaf of the
graph is what the tokens are embedded in, or the activation itself.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib.errors import SweepError
from patchlib.patching import shortcuts
from patchlib.patching.budget import is_out_of_memory
from patchlib.patching.donors import PromptBatch
from patchlib.patching.engine import PatchedForwards
from patchlib.patching.grid import Grid
from patchlib.patching.metrics import Readout
from patchlib.patching.probes import probe_tokens
from patchlib.patching.sites import SITES, Site
from patchlib.patching.unpatched import Activations, Hooks, Work

EMBED = SITES["embed"].hook_name(0)
SUBLAYERS = (SITES["attn_out"], SITES["mlp_out"])


class GradientForwards(PatchedForwards):
    """The unpatched forwards of some prompts, and gradients of the base prompts' metrics.

    Args:
        model, prompts, work: As for ``PatchedForwards``.
        grids: What would be patched: the activations of all their sites are kept.
        further: Hooks whose activations are kept besides.
    """

    def __init__(
        self,
        model: TransformerBridge,
        grids: Sequence[Grid],
        prompts: PromptBatch,
        work: Work,
        further: Iterable[str] = (),
    ) -> None:
        self._grids, self._further = grids, further
        super().__init__(model, grids[0], prompts, work)

    @property
    def written_names(self) -> list[str]:
        """The hooks of all sites, of what the tokens are embedded in, and those asked for besides."""
        names = {name for grid in self._grids for layer in grid.layers for name in self.hooks_of(grid.site, layer)}
        return sorted(names | {EMBED, *self._further})

    @staticmethod
    def hooks_of(site: Site, layer: int) -> list[str]:
        """The hooks of which a site's scores in a layer are made: a head's own values are read through its pattern."""
        parts = [site] if not site.of else [SITES[name] for name in ("v", "pattern", "z")]
        return [part.hook_name(layer) for part in parts]

    # ---- Forwards with a graph

    def along_inputs(self, share: float, closed: set[int] | None = None) -> tuple[Tensor, Activations]:
        """Logits and activations, with their graph, of prompts between the base prompts and the other ones.

        Args:
            share: How far what the tokens are embedded in has come: 0 for the base prompts, 1 for the other ones.
            closed: Layers through whose sublayers no gradient comes, looked up when it would: only past them.
        """
        base, source = self._base[EMBED], self._source[EMBED]
        leaf = (base + share * (source - base) if share else base).clone().requires_grad_()
        kept: Activations = {EMBED: leaf}

        def keep(activation: Tensor, hook: Any, name: str) -> Tensor:
            # Handed back because TransformerLens may have changed its axes for the hook: what is kept is on the way.
            kept[name] = activation
            return activation

        hooks: Hooks = [(EMBED, lambda activation, hook: leaf)]
        hooks += [(name, partial(keep, name=name)) for name in self.written_names if name != EMBED]

        def gate(activation: Tensor, hook: Any, layer: int, layers: set[int]) -> Tensor:
            let_through: Any = activation.register_hook  # which has no types
            let_through(lambda gradient: torch.zeros_like(gradient) if layer in layers else gradient)
            return activation

        if closed is not None:
            sublayers = [(layer, site) for layer in range(int(self.model.cfg.n_layers)) for site in SUBLAYERS]
            hooks += [(site.hook_name(layer), partial(gate, layer=layer, layers=closed)) for layer, site in sublayers]
        with graph_of(self.model):
            return self.run(hooks), kept

    def along_site(self, layer: int, share: float) -> tuple[Tensor, Activations]:
        """Logits and one layer's activation, with their graph, where that has come a share of the way to the source."""
        name = self.site.hook_name(layer)
        base, source = self._base[name], self._source[name].to(self._base[name].device)
        leaf = (base + share * (source - base)).clone().requires_grad_()

        def put(activation: Tensor, hook: Any) -> Tensor:
            return activation.copy_(leaf)  # in place, as a patch is, for all that read the same tensor

        with graph_of(self.model):
            return self._resume([(name, put)], 1, layer, self.start), {name: leaf}

    def moved_whole(self, layer: int, readout: Readout) -> Float[np.ndarray, "metric example"]:
        """Each metric with all of one layer's activation written in."""
        with torch.no_grad():
            logits = self._read_from(self.start, self.along_site(layer, 1.0)[0].detach(), 1)
        return readout(logits, f"a forward pass with all of {self.site.name} in layer {layer}")[:, 0].numpy()

    def values_and_gradients(
        self, forward: tuple[Tensor, Activations], readout: Readout, *, again: bool = False
    ) -> tuple[Float[Tensor, "metric example"], dict[str, Float[Tensor, "metric *site"]]]:
        """Each metric of a forward, and its gradient at each activation that was kept: of every prompt's own number.

        Args:
            forward: Logits and activations with their graph.
            readout: The metrics.
            again: Keep the graph, for another backward.

        Raises:
            SweepError: A metric that has no gradient, a model that cannot give one, or memory that runs out.
        """
        logits, kept = forward
        with graph_of(self.model):
            read = self._read_from(self.start, logits, 1)
            values = torch.cat([readout.differentiable(name, read) for name in readout.metrics])  # [metric example]
            # Prompts do not mix, so that the gradient of the sum is each one's own. Summed here, since users turn
            # gradients off, and what is made of the values outside has none.
            sums = [of_metric.sum() for of_metric in values]
        gradients: dict[str, list[Tensor]] = {name: [] for name in kept}
        for row, of_metric in enumerate(sums):
            retain = again or row < len(values) - 1
            with graph_of(self.model):
                found = torch.autograd.grad(of_metric, list(kept.values()), retain_graph=retain, materialize_grads=True)
            for name, gradient in zip(kept, found, strict=True):
                gradients[name].append(gradient)
        return values.detach(), {name: torch.stack(found) for name, found in gradients.items()}

    # ---- From gradients to scores

    def scores(
        self, site: Site, layer: int, gradients: Mapping[str, Tensor]
    ) -> Float[Tensor, "metric example pos unit"]:
        """Gradient times change of a site in a layer, at each position of whole prompts, of each head or neuron."""
        names = self.hooks_of(site, layer)
        base, source = (kept[names[0]] for kept in (self._base, self._source))
        change = source.to(base.device) - base
        gradient = gradients[names[-1]]
        if site.of:  # z moves by the pattern times the change of the values
            pattern = self._base[names[1]][..., -change.shape[1] :]  # [example head dest src]
            change = change.repeat_interleave(pattern.shape[1] // change.shape[2], dim=2)
            gradient = torch.einsum("ehds,medhv->meshv", pattern.to(gradient), gradient)
        product = (gradient * change).float()  # [metric *site]
        if site.pos_axis == 2:  # of a pattern: [metric example head dest src]
            by_unit = product.sum(-1).transpose(-1, -2)
        elif site.has_heads:
            by_unit = product.sum(-1)
        else:
            by_unit = product if site.has_neurons else product.sum(-1, keepdim=True)
        return self.whole(by_unit * self._can_differ[:, self.start :, None].to(by_unit))

    def whole(self, scores: Float[Tensor, "metric example some_pos unit"]) -> Float[Tensor, "metric example pos unit"]:
        """Of all positions of the prompts: before the first that is computed nothing can change."""
        return torch.nn.functional.pad(scores, (0, 0, self.start, 0)).cpu()

    def run(self, hooks: Hooks) -> Tensor:
        """Logits of the base prompts under some hooks, of the positions that can differ alone."""
        cache = None if self._cache is None else shortcuts.branches(self._cache, self.start)
        return self._forward(self.base_tokens[:, self.start :], hooks, cache)

    def base_of(self, name: str) -> Tensor:
        """An activation of the base prompts, from ``start`` on."""
        return self._base[name]

    def source_of(self, name: str) -> Tensor:
        """What is written in there."""
        return self._source[name]

    @property
    def can_differ(self) -> Bool[Tensor, "example pos"]:
        """Where a row's two prompts are no longer alike."""
        return self._can_differ


@contextmanager
def graph_of(model: TransformerBridge) -> Iterator[None]:
    """Where a graph is built and gone through; SweepError, with the mend, for a model that has none."""
    try:
        with torch.enable_grad():
            yield
    except RuntimeError as error:
        raise SweepError(no_gradient(model, error)) from error


@contextmanager
def no_graph_left(model: TransformerBridge) -> Iterator[None]:
    """Let go of the graph: of some architectures TransformerLens keeps the last pattern, and with it all."""
    try:
        yield
    finally:
        with torch.no_grad():
            model(probe_tokens(model, n_pos=1))


def no_gradient(model: TransformerBridge, error: RuntimeError) -> str:
    """What to say of a backward pass that failed."""
    if is_out_of_memory(error):
        return "The gradients do not fit into memory: give a smaller batch_tokens, or fewer layers and sites."
    what = shortcuts.brief_of(error)
    return f"{model.cfg.model_name} gives no gradients ({what}): use patchlib.sweep, which needs none."
