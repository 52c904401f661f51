"""The same prompts under many ablations at once, with no block run twice for what is alike.

A circuit is tested with hundreds of sets of heads that differ in a few. So (1) sets that ablate the same heads in all
layers up to one share the residual stream there, (2) the blocks between two layers at which sets part run in one
forward, resumed from the streams that entered the first of them, (3) as many streams as suit the device go into one
batch, and (4) the last block's output is unembedded only at the positions that are read.
"""

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from patchlib.patching.shortcuts import forwards, hand_on, n_block_outputs
from patchlib.patching.sites import SITES
from patchlib.patching.unpatched import UNEMBED_LAST, Hooks

Read = Callable[[Float[Tensor, "set example read d_vocab"]], Float[Tensor, "set example *value"]]


def ablation_hooks(
    kept: Bool[Tensor, "set example pos layer head"],
    replacement: Float[Tensor, "example pos layer head d_head"],
    layers: Iterable[int],
) -> Hooks:
    """Forward hooks that write the replacement into each head's output ``z`` wherever a set does not keep it."""

    def replace(z: Float[Tensor, "set*example pos head d_head"], hook: HookPoint, layer: int) -> Tensor:
        z_of_sets = z.view(*kept.shape[:2], *z.shape[1:])  # [set example pos head d_head]
        keeps = kept[:, :, :, layer, :, None].to(z.device)  # [set example pos head 1]
        return torch.where(keeps, z_of_sets, replacement[:, :, layer].to(z.device)).flatten(0, 1)  # as it came

    changed = [layer for layer in layers if not kept[:, :, :, layer].all()]
    return [(SITES["z"].hook_name(layer), partial(replace, layer=layer)) for layer in changed]


@torch.no_grad()
def read_under_ablations(
    model: TransformerBridge,
    tokens: Int[Tensor, "example pos"],
    kept: Bool[Tensor, "set example pos layer head"],
    replacement: Float[Tensor, "example pos layer head d_head"],
    read: Read,
    last_only: bool,
    batch_tokens: int,
    share: bool,
) -> Float[Tensor, "set example *value"]:
    """What is read of the logits under each ablation.

    Args:
        model: In eval mode.
        tokens: Prompts of one length.
        kept: Where each set keeps what a head gives.
        replacement: What a head is given elsewhere.
        read: Logits -> what is wanted of them.
        last_only: Whether the last position's logits are all that is read.
        batch_tokens: Tokens in one forward.
        share: Whether sets may share streams, which takes a model that can be resumed at a layer.
    """
    n_layers = int(model.cfg.n_layers)
    entering = streams_entering(kept, share)
    # (2) At these layers sets part that were alike in all layers below: each is where some forwards begin and end.
    parting = [layer for layer in range(n_layers) if layer == 0 or entering[layer + 1].max() > entering[layer].max()]
    at_once = max(1, batch_tokens // tokens.numel())
    streams = tokens[None]  # [stream example pos], and after the first blocks [stream example pos d_model]
    for start, stop in pairwise([*parting, n_layers]):
        # (1) From here to `stop`, sets of one stream ablate alike: one representative's forward stands for all.
        representatives = np.unique(entering[start + 1], return_index=True)[1]
        results = []
        for i in range(0, len(representatives), at_once):  # (3) some streams at a time
            sets = representatives[i : i + at_once]
            resumed = streams[entering[start][sets] if start else np.zeros_like(sets)]  # all begin with the tokens
            hooks = ablation_hooks(kept[sets], replacement, range(start, stop))
            result = _forward(model, resumed.flatten(0, 1), hooks, start, stop, last_only)
            result = result.view(len(sets), len(tokens), *result.shape[1:])  # [set example pos d_model or d_vocab]
            # Logits come out where the stream went in, which in a divided model is a layer's device.
            results.append(result if stop < n_layers else read(result.to(tokens.device).float()))
        streams = torch.cat(results)
    return streams[entering[-1]]


def streams_entering(kept: Bool[Tensor, "set example pos layer head"], share: bool) -> list[Int[np.ndarray, " set"]]:
    """For each layer, and once more after the last: the number of the stream in which each set enters it.

    Sets have one number as long as they keep the same heads at the same positions in every layer below.
    """
    entering = [np.zeros(len(kept), dtype=np.int64) if share else np.arange(len(kept))]
    for layer in range(kept.shape[3]):
        masks = kept[:, :, :, layer].flatten(1).cpu().numpy()  # [set example*pos*head]
        # A stream goes on as one, or parts into as many as there are different masks among its sets.
        numbers: dict[tuple[int, bytes], int] = {}
        branches = zip(entering[-1].tolist(), (mask.tobytes() for mask in masks), strict=True)
        entering.append(np.array([numbers.setdefault(branch, len(numbers)) for branch in branches]))
    return entering


def _forward(
    model: TransformerBridge, given: Tensor, hooks: Hooks, start: int, stop: int, last_only: bool
) -> Float[Tensor, "set*example pos d_out"]:
    """From tokens, or the stream that enters layer ``start``, to the stream that enters ``stop``, or the logits."""
    how = {"start_at_layer": start} if start else {}
    if stop < int(model.cfg.n_layers):
        how["stop_at_layer"] = stop
    elif last_only:  # (4) Logits of all positions would take more memory than all else.
        hooks = [*hooks, UNEMBED_LAST]
    # With start_at_layer TransformerLens puts the stream in, but runs the blocks before it all the same.
    passed = dict.fromkeys(model.blocks[:start], hand_on(n_block_outputs(model))) if start else {}
    with forwards(passed):
        output: Tensor = model.run_with_hooks(given, fwd_hooks=hooks, **how)
    return output
