"""Toys are what they say: each edge of the truth matters and no other does, seen by a forward pass written out here."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

import patchlib
from patchlib import toys
from patchlib.errors import TaskError
from tests.helpers import sweep

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.EngineWarning")
TOYS = {toy.__name__: toy for toy in (toys.induction, toys.or_gate, toys.and_gate, toys.backup)}
N_LAYERS, N_HEADS, D_HEAD = 2, 4, 16
MATTERS, HARDLY = 0.3, 0.06
"""Shares of the difference between clean and corrupted, which one edge moves at least if it is true, at most if not."""
READS = {("embed", "v of L0KV1"), ("embed", "v of L1KV2")}
NOTES = {("L0H1", "MLP1"), ("L1H2", "MLP1")}
UNSEEN = {
    ("induction", "denoise"): set(),
    ("induction", "noise"): set(),
    ("or_gate", "denoise"): set(),
    ("or_gate", "noise"): READS | NOTES,  # the other head is enough
    ("and_gate", "denoise"): READS | NOTES,  # one head is not enough
    ("and_gate", "noise"): set(),
    ("backup", "denoise"): set(),
    ("backup", "noise"): READS,  # the other head answers
}
"""The edges of the truth that an exact patch of one edge cannot see."""


@functools.cache
def made(name: str, seed: int = 0) -> toys.Toy:
    return TOYS[name](seed=seed)


def inputs_of_layer(layer: int) -> list[str]:
    return [f"{x} of L{layer}{mark}{head}" for x, mark in (("q", "H"), ("k", "KV"), ("v", "KV")) for head in range(4)]


def possible_edges() -> Iterator[tuple[str, str]]:
    senders = ["embed"]
    for layer in range(N_LAYERS):
        yield from itertools.product(senders, inputs_of_layer(layer))
        senders += [f"L{layer}H{head}" for head in range(N_HEADS)]
        yield from itertools.product(senders, [f"MLP{layer}"])
        senders += [f"MLP{layer}"]
    yield from itertools.product(senders, ["logits"])


class ByHand:
    """A toy's forward pass, every reader of the stream apart, in double precision."""

    def __init__(self, toy: toys.Toy) -> None:
        named = toy.model.original_model.named_parameters()
        self.weights = {name.replace("._original_component", ""): value.double() for name, value in named}
        self.right, self.wrong = toy.task.answers.unbind(1)
        self.clean, self.clean_logits = self.run(toy.task.clean_batch())
        self.corrupted, self.corrupted_logits = self.run(toy.task.corrupted_batch())
        self.total = self.metric(self.clean_logits) - self.metric(self.corrupted_logits)
        self.tokens = {"noise": toy.task.clean_batch(), "denoise": toy.task.corrupted_batch()}
        self.other = {"noise": self.corrupted, "denoise": self.clean}

    def metric(self, logits: Tensor) -> float:
        right, wrong = (logits[:, -1].gather(1, ids[:, None]) for ids in (self.right, self.wrong))
        return float((right - wrong).mean())

    def run(
        self, tokens: Tensor, edge: tuple[str, str] = ("", ""), other: Tensor | None = None, share: float = 1.0
    ) -> tuple[dict[str, Tensor], Tensor]:
        """What each sender writes, and the logits; the edge's receiver reads `other`, not what its sender wrote."""
        w, n_pos = self.weights, tokens.shape[1]
        written = {"embed": w["tok_embed.weight"][tokens] + w["pos.weight"][:n_pos]}
        biases = torch.zeros(60, dtype=torch.double)

        def stream(receiver: str) -> Tensor:
            whole = sum(written.values()) + biases
            return whole + share * (other - written[edge[0]]) if receiver == edge[1] else whole

        for layer in range(N_LAYERS):
            before, heads = f"layers.{layer}.attn.", {}
            for head in range(N_HEADS):
                rows = slice(head * D_HEAD, (head + 1) * D_HEAD)
                q, k, v = (
                    stream(f"{x} of L{layer}{mark}{head}") @ w[f"{before}{x}.weight"][rows].T
                    + w[f"{before}{x}.bias"][rows]
                    for x, mark in (("q", "H"), ("k", "KV"), ("v", "KV"))
                )
                scores = (q @ k.mT / D_HEAD**0.5).masked_fill(torch.ones(n_pos, n_pos).triu(1) > 0, -torch.inf)
                heads[f"L{layer}H{head}"] = scores.softmax(-1) @ v @ w[f"{before}o.weight"][:, rows].T
            written |= heads
            biases = biases + w[f"{before}o.bias"]
            first, last = (f"layers.{layer}.mlp.{part}" for part in ("fc_in", "fc_out"))
            neurons = (stream(f"MLP{layer}") @ w[f"{first}.weight"].T + w[f"{first}.bias"]).relu()
            written[f"MLP{layer}"] = neurons @ w[f"{last}.weight"].T + w[f"{last}.bias"]
        return written, stream("logits") @ w["head.weight"].T

    def effect(self, edge: tuple[str, str], direction: str, share: float = 1.0) -> float:
        """Of one edge, as a share of the difference between clean and corrupted."""
        logits = self.run(self.tokens[direction], edge, self.other[direction][edge[0]], share)[1]
        if direction == "noise":
            return (self.metric(self.clean_logits) - self.metric(logits)) / self.total
        return (self.metric(logits) - self.metric(self.corrupted_logits)) / self.total


@functools.cache
def by_hand(name: str, seed: int = 0) -> ByHand:
    return ByHand(made(name, seed))


@pytest.mark.parametrize("name", TOYS)
def test_its_forward_is_the_one_here(name):
    toy, hand = made(name), by_hand(name)
    for tokens, logits in (
        (toy.task.clean_batch(), hand.clean_logits),
        (toy.task.corrupted_batch(), hand.corrupted_logits),
    ):
        torch.testing.assert_close(toy.model(tokens).double(), logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", TOYS)
def test_it_answers_every_prompt(name, seed):
    toy = made(name, seed)
    measured = patchlib.baseline(toy.model, toy.task, ["accuracy", "logit_diff"])
    assert (measured.clean.sel(metric="accuracy") == 1).all() and (measured.corrupted.sel(metric="accuracy") == 0).all()
    assert (toy.model(toy.task.clean_batch())[:, -1].argmax(-1) == toy.task.answers[:, 0]).all()
    assert float((measured.clean - measured.corrupted).sel(metric="logit_diff").min()) > 5


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("name", "direction"), UNSEEN)
def test_each_edge_of_the_truth_matters_and_no_other(name, direction, seed):
    toy, hand = made(name, seed), by_hand(name, seed)
    effects = {edge: hand.effect(edge, direction) for edge in possible_edges()}
    assert len(effects) == 110 and toy.edges < set(effects)
    seen = toy.edges - UNSEEN[name, direction]
    assert min(abs(effects[edge]) for edge in seen) > MATTERS
    assert max(abs(effect) for edge, effect in effects.items() if edge not in seen) < HARDLY
    assert sum(effect != 0 for effect in effects.values()) > 60  # what is in no circuit does something


def test_each_edge_is_seen_in_one_direction_at_least():
    for name in TOYS:
        assert not UNSEEN[name, "noise"] & UNSEEN[name, "denoise"]


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_gradients_miss_what_decides_where_the_induction_head_looks(direction):
    hand, step = by_hand("induction"), 1e-6
    for edge in (("embed", "q of L1H2"), ("L0H1", "k of L1KV2"), ("embed", "v of L0KV1")):
        assert abs(hand.effect(edge, direction, share=step) / step) < 0.01 < MATTERS < hand.effect(edge, direction)
    for edge in (("embed", "v of L1KV2"), ("L1H2", "logits")):  # these are linear
        slope = hand.effect(edge, direction, share=step) / step
        np.testing.assert_allclose(slope, hand.effect(edge, direction), rtol=1e-3)


def with_hooks(toy: toys.Toy, direction: str, heads: list[tuple[int, int]], source: str = "other") -> float:
    """Effect of heads' outputs, patched together with PyTorch's own hooks on the module that they enter."""
    base, other = toy.task.clean_batch(), toy.task.corrupted_batch()
    if direction == "denoise":
        base, other = other, base
    kept: dict[int, Tensor] = {}
    modules = [toy.model.blocks[layer].attn.o.original_component for layer in range(N_LAYERS)]

    def keep(layer):
        return lambda module, args: kept.__setitem__(layer, args[0].clone())

    def change(layer):
        def hook(module, args):
            z = args[0].clone()
            for head in (head for head_layer, head in heads if head_layer == layer):
                part = (..., slice(head * D_HEAD, (head + 1) * D_HEAD))
                z[part] = kept[layer][part] if source == "other" else 0
            return (z,)

        return hook

    def metric(tokens: Tensor, hooks=()) -> float:
        handles = [module.register_forward_pre_hook(hook) for module, hook in zip(modules, hooks, strict=False)]
        logits = toy.model.original_model(tokens)[:, -1]
        for handle in handles:
            handle.remove()
        right, wrong = (logits.gather(1, ids[:, None]) for ids in toy.task.answers.unbind(1))
        return float((right - wrong).mean())

    clean, corrupted = metric(toy.task.clean_batch()), metric(toy.task.corrupted_batch())
    metric(other, map(keep, range(N_LAYERS)))
    patched = metric(base, map(change, range(N_LAYERS)))
    return (patched - corrupted if direction == "denoise" else clean - patched) / (clean - corrupted)


EXPECTED = {  # of the first head, the second, both
    ("or_gate", "denoise"): (1, 1, 1),
    ("or_gate", "noise"): (0, 0, 1),
    ("and_gate", "denoise"): (0, 0, 1),
    ("and_gate", "noise"): (1, 1, 1),
    ("backup", "noise"): (0, 0.5, 1),
    ("backup", "denoise"): (1, 0.5, 1),
    ("induction", "noise"): (1 / 3, 1, 1),
    ("induction", "denoise"): (1 / 3, 1, 1),
}


@pytest.mark.parametrize(("name", "direction"), EXPECTED)
def test_heads_do_what_the_toy_says(name, direction):
    toy, (first, second) = made(name), [(0, 1), (1, 2)]
    hooked = [with_hooks(toy, direction, heads) for heads in ([first], [second], [first, second])]
    np.testing.assert_allclose(hooked, EXPECTED[name, direction], atol=0.05)
    swept = sweep(toy.model, toy.task, "z", ("layer", "head"), direction).effect[0]
    np.testing.assert_allclose([swept[first], swept[second]], hooked[:2], atol=1e-5)
    others = [float(abs(swept[i])) for i in itertools.product(range(2), range(4)) if i not in (first, second)]
    assert 0 < max(others) < HARDLY


def test_a_head_is_missed_only_without_its_backup():
    toy = made("backup")
    lost = [with_hooks(toy, "noise", heads, source="zero") for heads in ([(0, 1)], [(0, 1), (1, 2)])]
    assert abs(lost[0]) < HARDLY and lost[1] > 0.4  # what is left without both is undecided: half of the way to wrong


def test_prompts_follow_the_seed_and_leave_the_users_randomness_alone():
    before = torch.random.get_rng_state()
    one, same, another = (toys.or_gate(n_prompts=5, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert patchlib.weights_hash(one.model) == patchlib.weights_hash(same.model) != patchlib.weights_hash(another.model)
    assert torch.equal(one.task.clean_batch(), same.task.clean_batch())
    assert not torch.equal(one.task.clean_batch(), another.task.clean_batch())
    assert len(one.task) == 5 and not any(weight.requires_grad for weight in one.model.parameters())


def test_names_are_those_of_receivers():
    receivers = {receiver for toy in map(made, TOYS) for _, receiver in toy.edges}
    made_by_patchlib = {
        str(receiver)
        for site in "qkv"
        for receiver in patchlib.inputs_of(made("induction").model, itertools.product(range(2), range(4)), site)
    }
    assert receivers - made_by_patchlib == {"MLP1", "logits"}


@pytest.mark.parametrize("name", TOYS)
def test_bad_numbers_have_one_clear_answer(name):
    for wrong in (0, -1, 1.5, "3", True, 10**12):
        with pytest.raises(TaskError, match="n_prompts must be a whole number"):
            TOYS[name](n_prompts=wrong)
    for wrong in (-1, 1.5, 2**70, None):
        with pytest.raises(TaskError, match="seed must be a whole number"):
            TOYS[name](seed=wrong)
