"""Gradients by hand, one prompt at a time: what checks need to tell which mistake a wrong number comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import Head
from patchlib.patching.sites import SITES
from patchlib.tasks.pairs import PromptPairs


def _prompts(model: TransformerBridge, pairs: PromptPairs) -> Iterator[tuple[Tensor, Tensor, list[int]]]:
    """Clean and corrupted tokens ``[1 pos]``, and the two answers, of one prompt at a time."""
    for clean, corrupted, answers in zip(
        pairs.clean_tokens, pairs.corrupted_tokens, pairs.answers.tolist(), strict=True
    ):
        yield clean[None].to(model.cfg.device), corrupted[None].to(model.cfg.device), answers


def _activation(model: TransformerBridge, row: Tensor, name: str) -> Float[Tensor, "1 pos ..."]:
    with torch.no_grad():
        activation: Tensor = model.run_with_cache(row, names_filter=name)[1][name]
    return activation.detach().clone()


def _slope(
    model: TransformerBridge, row: Tensor, name: str, at: Tensor, answers: list[int]
) -> Float[Tensor, "1 pos ..."]:
    """The gradient of a prompt's logit difference by an activation that is put into it."""
    start = at.detach().requires_grad_()
    with torch.enable_grad():
        logits = model.run_with_hooks(row, fwd_hooks=[(name, lambda _, hook: start)])[0, -1]
        (slope,) = torch.autograd.grad(logits[answers[0]] - logits[answers[1]], start)
    return slope


def slopes_of(model: TransformerBridge, pairs: PromptPairs, name: str) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of each prompt: the gradient at the corrupted and at the clean one, and the change, ``[pos ...]``."""
    for clean, corrupted, answers in _prompts(model, pairs):
        base, other = (_activation(model, row, name) for row in (corrupted, clean))
        at_corrupted, at_clean = (
            _slope(model, row, name, at, answers)[0] for row, at in ((corrupted, base), (clean, other))
        )
        yield at_corrupted, at_clean, (other - base)[0]


def along(model: TransformerBridge, pairs: PromptPairs, name: str, shares: Sequence[float]) -> float:
    """Gradients on the way from corrupted to clean times the change, in logits, mean over prompts."""
    moved = []
    for clean, corrupted, answers in _prompts(model, pairs):
        base = _activation(model, corrupted, name)
        change = _activation(model, clean, name) - base
        slopes = [_slope(model, corrupted, name, base + share * change, answers) for share in shares]
        moved.append((torch.stack(slopes).mean(0) * change).sum().item())
    return float(np.mean(moved))


def edge_parts(model: TransformerBridge, pairs: PromptPairs, sender: Head, reader: int) -> dict[str, float]:
    """Scores that one gets by the gradient of something else, or of a change of something else, mean over prompts."""
    layer, head = sender
    sites = (("z", layer), ("resid_mid", reader), ("mlp_out", reader))
    z, read, made = (SITES[site].hook_name(at) for site, at in sites)
    weights = model.blocks[layer].attn.W_O.detach()  # [head d_head d_model]
    rows = []
    for clean, corrupted, answers in _prompts(model, pairs):
        own, output, stream = _gradients(model, corrupted, read, made, answers)
        own_at_clean, *_ = _gradients(model, clean, read, made, answers)
        change = (_activation(model, clean, z) - _activation(model, corrupted, z))[0]  # [pos head d_head]
        written = change[:, head] @ weights[head]  # [pos d_model]
        by_layer = torch.einsum("phd,hdm->pm", change, weights)
        sums = {"stream": stream * written, "output": output * written, "at clean": own_at_clean * written}
        sums |= {"layer": own * by_layer, "last": (own * written)[-1]}
        rows.append({name: product.sum().item() for name, product in sums.items()})
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _gradients(
    model: TransformerBridge, row: Tensor, read: str, made: str, answers: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """``[pos d_model]``: by what an MLP alone reads, by what it writes, and by the stream that all after it read."""
    kept: dict[str, Tensor] = {}

    def start(stream: Tensor, hook: Any) -> Tensor:
        return stream.detach().requires_grad_()  # the weights are frozen: this is what the graph begins at

    def keep(activation: Tensor, hook: Any, name: str) -> Tensor:
        kept[name] = activation
        return activation

    keeping = [(name, partial(keep, name=name)) for name in (read, made)]
    hooks = [(SITES["resid_pre"].hook_name(0), start), *keeping]
    with torch.enable_grad():
        logits = model.run_with_hooks(row, fwd_hooks=hooks)[0, -1]
        metric = logits[answers[0]] - logits[answers[1]]
        stream, output = torch.autograd.grad(metric, [kept[read], kept[made]], retain_graph=True)
        (own,) = torch.autograd.grad(kept[made], kept[read], output)
    return own[0], output[0], stream[0]
