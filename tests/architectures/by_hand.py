"""What one head writes, from Hugging Face's modules: a layer rerun with one head kept, norms frozen at their scale."""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from tests.architectures.models import Hand, changed

CLOSE = {"rtol": 1e-3, "atol": 1e-4}


class Unreadable(Exception):
    """The layer is not a sum that a head's part could be taken from, or not one that this file can read."""


class Frozen(NamedTuple):
    """A norm as a linear map, with the scale that it had on one input.

    Attributes:
        factor: What each coordinate is multiplied with.
        centred: Whether the mean is taken off first.
        shift: The norm's bias.
    """

    factor: Tensor
    centred: bool
    shift: Tensor

    def __call__(self, written: Tensor) -> Tensor:
        return self.factor * (written - written.mean(-1, keepdim=True) if self.centred else written)


def frozen(norm: torch.nn.Module | None, entering: Tensor) -> Frozen:
    """The norm at an input ``[... d_model]``: nothing when there is no norm."""
    if norm is None:
        return Frozen(torch.ones_like(entering), False, torch.zeros_like(entering))
    shift = norm(torch.zeros_like(entering))
    centred = torch.allclose(norm(entering + 3), norm(entering), **CLOSE)
    through = entering - entering.mean(-1, keepdim=True) if centred else entering
    return Frozen((norm(entering) - shift) / through, centred, shift)


def kept_alone(hand: Hand, layer: int, entering: Tensor, head: int, n_heads: int) -> Tensor:
    """The output projection of its input with all other heads' columns zeroed, less its bias."""
    projection = hand.projections[layer]
    width = entering.shape[-1] // n_heads
    alone = torch.zeros_like(entering)
    alone[..., head * width : (head + 1) * width] = entering[..., head * width : (head + 1) * width]
    return projection(alone) - projection(torch.zeros_like(entering))


class Layers(NamedTuple):
    """One forward, taken apart.

    Attributes:
        before, after: The stream around each layer, ``[layer example pos d_model]``.
        z: What enters each output projection; None in layers without attention.
        attention: What each attention gives.
        behind: The norm behind it, and what it is multiplied with before it is added to the stream.
        logits: Of the model, ``[example pos vocab]``.
        last: What the last norm is given.
        unembedded: What the unembedding gives.
    """

    before: list[Tensor]
    after: list[Tensor]
    z: list[Tensor | None]
    attention: list[Tensor | None]
    behind: list[tuple[torch.nn.Module | None, float]]
    logits: Tensor
    last: Tensor
    unembedded: Tensor


def take_apart(hand: Hand, tokens: Tensor) -> Layers:
    """Run some prompts and find how each layer adds up; Unreadable where it does not."""
    modules = {}
    for i, (layer, attention, projection) in enumerate(
        zip(hand.layers, hand.attentions, hand.projections, strict=True)
    ):
        modules |= {("before", i): (layer, "in"), ("after", i): (layer, "out")}
        if attention is not None:
            modules |= {("attention", i): (attention, "out"), ("z", i): (projection, "in")}
        for name, part in layer.named_modules():
            if part is not layer and (attention is None or part not in set(attention.modules())):
                modules |= {("in", i, name): (part, "in"), ("out", i, name): (part, "out")}
    modules |= {"unembedded": (hand.unembed, "out")}
    if hand.norm is not None:
        modules |= {"last": (hand.norm, "in")}
    modules = {key: (module, side) for key, (module, side) in modules.items() if module is not None}
    seen = hand.seen_somehow(tokens, modules)
    n = len(hand.layers)
    behind = []
    for i in range(n):
        attention = seen.get(("attention", i))
        behind.append((None, 1.0) if attention is None else reads_attention(hand, seen, i, attention))
    last = seen.get("last", seen["after", n - 1])
    streams = [[seen[side, i] for i in range(n)] for side in ("before", "after")]
    others = [[seen.get((side, i)) for i in range(n)] for side in ("z", "attention")]
    return Layers(*streams, *others, behind, hand.logits(tokens), last, seen["unembedded"])


def reads_attention(hand: Hand, seen: dict, i: int, attention: Tensor) -> tuple[torch.nn.Module | None, float]:
    """The norm behind attention and its multiplier, such that the rest of the layer is what one module gives."""
    factor = float(getattr(hand.model.config, "residual_multiplier", 1.0))
    named = dict(hand.layers[i].named_modules())
    norms = [
        named[key[2]]
        for key, value in seen.items()
        if key[0] == "in" and key[1] == i and value.shape == attention.shape and torch.equal(value, attention)
        and "norm" in type(named[key[2]]).__name__.lower()
    ]  # fmt: skip
    change = seen["after", i] - seen["before", i]
    outputs = [v for key, v in seen.items() if key[0] == "out" and key[1] == i and v.numel() == change.numel()]
    outputs = [output.view(change.shape) for output in outputs]
    for norm in [*norms, None]:
        added = factor * (attention if norm is None else norm(attention))
        rest = change - added
        outputs = [torch.zeros_like(rest), *outputs]
        # what an MLP gives, or that and one thing more
        if any(torch.allclose(rest, factor * (a + b), **CLOSE) for a, b in combinations(outputs, 2)):
            return norm, factor
    raise Unreadable("a layer is more than a sum of what attention and MLP give")


def answer_direction(hand: Hand, run: Layers, answers: Tensor) -> Tensor:
    """[example d_model]: right less wrong unembedding, each times what the model does to that logit at the end."""
    rows = torch.arange(len(answers))
    sides = []
    for answer in answers.unbind(1):
        factor = run.logits[rows, -1, answer] / run.unembedded[rows, -1, answer]
        sides.append(hand.unembed.weight[answer] * factor[:, None])
    return sides[0] - sides[1]


def attributions(hand: Hand, tokens: Tensor, answers: Tensor, n_heads: int) -> tuple[Tensor, Tensor]:
    """Each head's part of the logit difference, ``[layer head example]``, NaN without attention; and all the rest."""
    run = take_apart(hand, tokens)
    joints = [*zip(run.before[1:], run.after[:-1], strict=True), (run.last, run.after[-1])]
    if not all(torch.allclose(entering, leaving, **CLOSE) for entering, leaving in joints):
        raise Unreadable("something stands between the layers, or behind the last")
    last = run.last[:, -1]
    final = frozen(hand.norm, last)
    direction = answer_direction(hand, run, answers)
    parts = torch.full((len(hand.layers), n_heads, len(tokens)), float("nan"))
    rest = run.before[0][:, -1].clone()
    for i, attention in enumerate(run.attention):
        rest += run.after[i][:, -1] - run.before[i][:, -1]
        if attention is None:
            continue
        norm, factor = run.behind[i]
        through = frozen(norm, attention[:, -1])
        for head in range(n_heads):
            written = factor * through(kept_alone(hand, i, run.z[i][:, -1], head, n_heads))
            rest -= written
            parts[i, head] = (final(written) * direction).sum(-1)
    constant = (final.shift * direction).sum(-1)
    if hand.unembed.bias is not None:
        rows = torch.arange(len(answers))
        for sign, answer in zip((1, -1), answers.unbind(1), strict=True):
            factor = run.logits[rows, -1, answer] / run.unembedded[rows, -1, answer]
            constant = constant + sign * hand.unembed.bias[answer] * factor
    return parts, (final(rest) * direction).sum(-1) + constant


def copied(hand: Hand, tokens: Tensor, layer: int, head: int, n_heads: int, sign: int) -> Tensor:
    """Logits ``[token vocab]`` of what a head writes of one token's stream behind the first layer, seen alone."""
    streams = hand.seen(tokens, {"out": (hand.layers[0], "out")})["out"][:, -1:]
    with changed(hand.layers[layer], lambda value: streams, "in"):
        seen = hand.seen(
            tokens[:, :1], {"z": (hand.projections[layer], "in"), "attention": (hand.attentions[layer], "out")}
        )
    norm, _ = take_apart(hand, tokens[:, -1:]).behind[layer]
    written = kept_alone(hand, layer, seen["z"], head, n_heads)
    written = written if norm is None else norm(written)
    written = sign * written
    return hand.unembed(written if hand.norm is None else hand.norm(written))[:, -1]
