"""The model with some of its edges cut, many sets at once: what a circuit of edges is tested with.

Where an edge is cut, its receiver reads the stream without what the sender writes, and with what the sender writes on
other prompts instead; all else is computed (the ablation of edges in Hanna et al. 2024, section 2).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_choice
from patchlib.circuits.writing import check_weights, reads
from patchlib.errors import SweepError
from patchlib.patching.attribution.edge_graph import EdgeGraph, edge_graph, written
from patchlib.patching.batching import length_batches
from patchlib.patching.budget import check_batch_tokens
from patchlib.patching.donors import PromptBatch, resolve_donors
from patchlib.patching.grid import Grid
from patchlib.patching.metrics import METRICS, Readout
from patchlib.patching.probes import alike, asked_once, probe_tokens
from patchlib.patching.receivers import INPUTS
from patchlib.patching.sites import SITES
from patchlib.patching.unpatched import Hooks, UnpatchedForwards, Work
from patchlib.tasks.base import PatchingDataset, as_pairs
from patchlib.tasks.pairs import PromptPairs

HELD_BYTES = 256 * 2**20
"""Of what senders write differently, in one forward."""


class _Written(UnpatchedForwards):
    """What every sender gives on the prompts, and on those that stand in for them."""

    @property
    def written_names(self) -> list[str]:
        """The hooks at which every sender is seen."""
        layers = range(int(self.model.cfg.n_layers))
        return [SITES["resid_pre"].hook_name(0), *(SITES[s].hook_name(i) for i in layers for s in ("z", "mlp_out"))]

    def instead(self, name: str) -> Tensor:
        """What a sender's site holds instead."""
        return self._source[name]


class EdgeAblation:
    """A task's clean forward passes with edges cut.

    Args:
        model: In eval mode; one whose edges can be told (``attribute_edges``).
        task: Its clean prompts are run.
        source: What a cut edge's sender is taken to write: ``"other"``, what it writes on the corrupted prompt;
            ``"mean"`` over the reference prompts of the same length, position by position; ``"resample"``, on one of
            them, drawn for each prompt; ``"zero"``.
        reference: The task whose clean prompts ``"mean"`` and ``"resample"`` take; this task itself when None.
        seed: Of the draw for ``"resample"``.
        metric: A name in ``patchlib.METRICS``.
        batch_tokens: Tokens in one forward; what suits the device when None.

    Attributes:
        graph: The model's edges.
        pairs: The task's prompts.
        protocol: In words what a number depends on.

    Raises:
        SweepError: As ``attribute_edges``; an unknown source or metric.

    Example:
        With no edge cut it is the model, with every edge cut what it makes of the corrupted prompts:

        >>> ablation = patchlib.EdgeAblation(model, task)
        >>> every, none = ablation.graph.exists, ablation.graph.exists & False
        >>> ablation.measure([every, none]).mean(axis=1).round(1)  # mean logit difference over prompts
        array([ 4.4, -3.1], dtype=float32)
    """

    def __init__(
        self,
        model: TransformerBridge,
        task: PatchingDataset | PromptPairs,
        *,
        source: str = "other",
        reference: PatchingDataset | PromptPairs | None = None,
        seed: int = 0,
        metric: str = "logit_diff",
        batch_tokens: int | None = None,
    ) -> None:
        self.pairs = as_pairs(model, task)
        self.model, self.graph = model, edge_graph(model, patched=True)
        check_weights(model, range(self.graph.n_layers), "an ablation of edges")
        self.metric = check_choice("metric", metric, METRICS)
        self._donors = resolve_donors(model, self.pairs, "noise", source, reference, seed)
        self._batch_tokens = check_batch_tokens(model, batch_tokens)
        about = {"other": "the corrupted prompt", "zero": "zeros"}.get(source, f"{source} of {self._donors.name!r}")
        self.protocol = (
            f"{metric}, mean over n = {len(self.pairs)} prompts of {self.pairs.name!r}; edges cut, whose senders' "
            f"outputs are those of: {about}; model {model.cfg.model_name}"
        )
        if not _is_whole(model, self.graph):
            raise SweepError(f"{model.cfg.model_name} cannot be run with edges cut: its MLPs read what no hook shows.")

    def measure(self, kept: Sequence[Bool[np.ndarray, "sender receiver"]]) -> Float[np.ndarray, "set example"]:
        """The metric of each prompt with all edges cut but those that are True, for each set of edges.

        Raises:
            SweepError: Sets of another shape than the graph's, or logits that are not finite.
        """
        if not len(kept):
            raise SweepError("There is nothing to measure: give at least one set of edges.")
        sets = torch.from_numpy(np.stack([np.asarray(one, dtype=bool) for one in kept]))
        if sets.shape[1:] != self.graph.exists.shape:
            raise SweepError(
                f"A set of edges has shape {list(self.graph.exists.shape)} here, not {list(sets.shape[1:])}."
            )
        values = np.full((len(sets), len(self.pairs)), np.nan, dtype=np.float32)
        for examples in length_batches(self.pairs, self._batch_tokens):
            written = self._unpatched(examples)
            readout = Readout(
                {self.metric: METRICS[self.metric]},
                self.pairs.select(examples),
                written.base_logits,
                None,
                len(self.pairs),
            )
            n_bytes = 4 * len(self.graph.senders) * written.base_tokens.numel() * self.graph.d_model
            for some in torch.split(torch.arange(len(sets)), max(1, HELD_BYTES // n_bytes)):
                logits = cut_logits(self.model, self.graph, written, sets[some])  # [set example 1 d_vocab]
                values[np.ix_(some.numpy(), np.array(examples))] = readout(logits, "a forward with edges cut")[
                    0
                ].numpy()
        return values

    def unpatched(self) -> tuple[Float[np.ndarray, " example"], Float[np.ndarray, " example"]]:
        """The metric of the clean and of the corrupted prompts."""
        every = self.graph.exists
        values = self.measure([every, np.zeros_like(every)])
        return values[0], values[1]

    def _unpatched(self, examples: list[int]) -> _Written:
        nothing = Grid(SITES["mlp_out"], {}, list(range(self.graph.n_layers)))
        work = Work(fast=False, batch_tokens=self._batch_tokens)
        return _Written(self.model, nothing, self._donors.batch(self.pairs, examples), work)


@torch.no_grad()
def cut_logits(
    model: TransformerBridge, graph: EdgeGraph, prompts: _Written, kept: Bool[Tensor, "set sender receiver"]
) -> Float[Tensor, "set example 1 d_vocab"]:
    """The last position's logits with the edges cut that are not kept."""
    n_sets, (n_examples, n_pos) = len(kept), prompts.base_tokens.shape
    rows = {reader: i for i, reader in enumerate(graph.readers)}
    # What each sender writes, less what it is taken to write: filled in as the forward comes to it.
    differs = torch.zeros(n_sets, len(graph.senders), n_examples * n_pos * graph.d_model, device=model.cfg.device)
    numbers = {sender: i for i, sender in enumerate(graph.senders)}
    cut = (~kept & torch.from_numpy(graph.exists)).to(differs)  # [set sender receiver]

    def write(activation: Tensor, hook: Any, name: str, site: str, layer: int) -> None:
        change = torch.unflatten(activation, 0, (n_sets, n_examples)) - prompts.instead(name).to(activation.device)
        for sender, number in numbers.items():
            if (sender.site, sender.layer) == (site, layer):
                differs[:, number] = written(model, sender, change).flatten(1)

    def read_by(stream: Tensor, readers: list[int], n_read: int) -> Float[Tensor, "receiver set*example pos d_model"]:
        """The stream as each of some receivers reads it."""
        share = cut[:, :n_read, readers].transpose(1, 2) @ differs[:, :n_read]  # [set receiver example*pos*d_model]
        share = torch.unflatten(share, -1, (n_examples, n_pos, graph.d_model)).transpose(0, 1).flatten(1, 2)
        read: Tensor = stream - share.to(stream)
        return read

    made: dict[str, Tensor] = {}

    def attend(stream: Tensor, hook: Any, layer: int) -> None:
        attn = model.blocks[layer].attn
        for site in INPUTS:
            here = [reader for reader in graph.readers if (reader.site, reader.layer) == (site, layer)]
            streams = read_by(stream, [rows[reader] for reader in here], graph.n_read(here[0]))
            bias = getattr(attn, f"b_{site.upper()}", None)
            # Each head reads a stream of its own.
            product = torch.einsum("hepm,hmd->ephd", reads(model, layer, streams), getattr(attn, f"W_{site.upper()}"))
            made[SITES[site].hook_name(layer)] = product if bias is None else product + bias

    def set_to(activation: Tensor, hook: Any, name: str) -> Tensor:
        return activation.copy_(made.pop(name))

    def enter(stream: Tensor, hook: Any, layer: int) -> Tensor:
        """What the MLP's norm is given: a new tensor, so that the stream itself stays as it is."""
        reader = next(r for r in graph.readers if (r.site, r.layer) == ("mlp_out", layer))
        return read_by(stream, [rows[reader]], graph.n_read(reader))[0]

    def leave(stream: Tensor, hook: Any) -> Tensor:
        return read_by(stream, [len(rows) - 1], len(graph.senders))[0]

    hooks: Hooks = []
    for layer in range(graph.n_layers):
        stream, mlp_out, z = (SITES[site].hook_name(layer) for site in ("resid_pre", "mlp_out", "z"))
        if layer == 0:
            hooks.append((stream, partial(write, name=stream, site="resid_pre", layer=0)))
        hooks.append((stream, partial(attend, layer=layer)))
        hooks += [(name, partial(set_to, name=name)) for name in (SITES[site].hook_name(layer) for site in INPUTS)]
        hooks.append((z, partial(write, name=z, site="z", layer=layer)))
        hooks.append((mlp_norm_hook(model, graph, layer), partial(enter, layer=layer)))
        hooks.append((mlp_out, partial(write, name=mlp_out, site="mlp_out", layer=layer)))
    hooks += [(SITES["final"].hook, leave), ("unembed.hook_in", lambda x, hook: x[:, -1:].contiguous())]
    logits = model.run_with_hooks(prompts.base_tokens.repeat(n_sets, 1), fwd_hooks=hooks)
    return torch.unflatten(logits[:, -1:].float(), 0, (n_sets, n_examples))


def mlp_norm_hook(model: TransformerBridge, graph: EdgeGraph, layer: int) -> str:
    """The hook of what the norm before a layer's MLP is given."""
    return f"blocks.{layer}.ln2.hook_in"


@asked_once
def _is_whole(model: TransformerBridge, graph: EdgeGraph) -> bool:
    """Whether the model with no edge cut is the model, and with every edge cut the other prompts' one."""
    if any(mlp_norm_hook(model, graph, layer) not in model.hook_dict for layer in range(graph.n_layers)):
        return False
    base, other = torch.split(probe_tokens(model), 1)
    grid = Grid(SITES["mlp_out"], {}, list(range(graph.n_layers)))
    prompts = _Written(model, grid, PromptBatch(base, other), Work(fast=False))
    kept = torch.from_numpy(np.stack([graph.exists, np.zeros_like(graph.exists)]))
    logits = cut_logits(model, graph, prompts, kept)[:, 0]
    return alike(logits[0], model(base)[0, -1:].float()) and alike(logits[1], model(other)[0, -1:].float())
