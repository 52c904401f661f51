"""Estimates and edges of an architecture, against finite differences and changes on Hugging Face's own modules."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

import patchlib
from tests.architectures.models import Hand
from tests.architectures.sites import gap, logit_diff

STEP = 0.05
"""Of the way from the corrupted to the clean prompts' activations."""


def slope(value: Callable[[float], Tensor]) -> Tensor:
    """The derivative at 0, from four points around it: what it misses is of the fifth order."""
    near, far = (value(step) - value(-step) for step in (STEP, 2 * STEP))
    return (8 * near - far) / (12 * STEP)


def heads_of(hand: Hand, n_heads: int) -> list[tuple[int, int]]:
    """A head in the first layer that has some, and one in the last."""
    layers = [i for i, attention in enumerate(hand.attentions) if attention is not None] or [len(hand.layers) - 1]
    return [(layers[0], 1), (layers[-1], n_heads - 1)]


def change_of(hand: Hand, pairs: patchlib.PromptPairs, layer: int, head: int, n_heads: int) -> Tensor:
    """What enters the output projection for clean prompts minus what enters for corrupted ones, of one head."""
    modules = {0: (hand.projections[layer], "in")}
    clean, corrupted = (hand.seen(tokens, modules)[0] for tokens in (pairs.clean_batch(), pairs.corrupted_batch()))
    change, width = torch.zeros_like(clean), clean.shape[-1] // n_heads
    part = slice(head * width, (head + 1) * width)
    change[..., part] = (clean - corrupted)[..., part]
    return change


def slope_by_hand(hand: Hand, pairs: patchlib.PromptPairs, layer: int, head: int, n_heads: int) -> Tensor:
    """[example]: the logit difference's, as a head's output goes from the corrupted to the clean one."""
    change = change_of(hand, pairs, layer, head, n_heads)

    def value(share: float) -> Tensor:
        moved = (hand.projections[layer], lambda entering: entering + share * change, "in")
        return logit_diff(hand.patched(pairs.corrupted_batch(), moved), pairs)

    return slope(value)


def estimates(model: TransformerBridge, hand: Hand, pairs: patchlib.PromptPairs) -> float:
    """``attribute`` of heads."""
    n_heads, worst = int(model.cfg.n_heads), 0.0
    result = patchlib.attribute(model, pairs, "z", ("layer", "head"), metric="logit_diff", progress=False)
    scores = (result.patched - result.corrupted).isel(metric=0)
    for layer, head in heads_of(hand, n_heads):
        theirs = slope_by_hand(hand, pairs, layer, head, n_heads)
        worst = max(worst, gap(torch.tensor(scores.sel(layer=layer, head=head).values), theirs))
    return worst


def edges(model: TransformerBridge, hand: Hand, pairs: patchlib.PromptPairs) -> float:
    """A head's estimated edges sum to its slope; one to the logits, patched, is a change of the last norm's input."""
    n_heads, worst = int(model.cfg.n_heads), 0.0
    how = {"metric": "logit_diff", "progress": False}
    scores = patchlib.attribute_edges(model, pairs, **how).score.isel(metric=0)
    some = heads_of(hand, n_heads)
    names = [(f"L{layer}H{head}", "logits") for layer, head in some]
    exact = patchlib.attribute_edges(model, pairs, "exact", edges=names, **how).score.isel(metric=0)
    base = pairs.corrupted_batch()
    for (layer, head), (sender, logits) in zip(some, names, strict=True):
        ours = torch.tensor(scores.sel(sender=sender).sum("receiver").values)
        worst = max(worst, gap(ours, slope_by_hand(hand, pairs, layer, head, n_heads)))
        projection, change = hand.projections[layer], change_of(hand, pairs, layer, head, n_heads)
        written = projection(change) - projection(torch.zeros_like(change))
        moved = hand.patched(base, (hand.norm, lambda stream, written=written: stream + written, "in"))
        theirs = logit_diff(moved, pairs) - logit_diff(hand.logits(base), pairs)
        worst = max(worst, gap(torch.tensor(exact.sel(sender=sender, receiver=logits).values), theirs))
    return worst


def cut_edges(model: TransformerBridge, hand: Hand, pairs: patchlib.PromptPairs) -> float:
    """With every edge kept and cut the two prompts' models, and with one edge cut what patching it gives."""
    ablation = patchlib.EdgeAblation(model, pairs)
    senders, receivers = list(map(str, ablation.graph.senders)), list(map(str, ablation.graph.readers))
    first = ablation.graph.readers[ablation.graph.inputs[senders.index(f"L{ablation.graph.n_layers - 1}H0")][1]]
    chosen = [("MLP0", str(first)), ("L0H1", f"MLP{ablation.graph.n_layers - 1}"), ("embed", "MLP0")]
    how = {"direction": "noise", "metric": "logit_diff", "progress": False}
    exact = patchlib.attribute_edges(model, pairs, "exact", edges=chosen, **how).score.isel(metric=0)
    sets = [ablation.graph.exists, ablation.graph.exists & False]
    for sender, receiver in chosen:
        sets.append(ablation.graph.exists.copy())
        sets[-1][senders.index(sender), receivers.index(receiver)] = False
    whole, floor, *rest = map(torch.from_numpy, ablation.measure(sets))
    prompts = (pairs.clean_batch(), whole), (pairs.corrupted_batch(), floor)
    worst = max(gap(ours, logit_diff(hand.logits(tokens), pairs)) for tokens, ours in prompts)
    for (sender, receiver), cut in zip(chosen, rest, strict=True):
        worst = max(worst, gap(cut - whole, torch.tensor(exact.sel(sender=sender, receiver=receiver).values)))
    return worst
