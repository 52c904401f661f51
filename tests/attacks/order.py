"""A1: metrics that go by the order of the prompts."""

from __future__ import annotations

import functools

import torch

import patchlib
from tests.attacks.case import Refusal, case, refused
from tests.helpers import sweep, with_contrast
from tests.tiny import load_tiny


@functools.cache
def pairs_that_part_anywhere() -> patchlib.PromptPairs:
    """Six prompts of 9 tokens whose clean and corrupted rows part at 6, 3, 7, 2, 5 and 4, each with its own answers."""
    model = load_tiny("gpt2")
    generator = torch.Generator().manual_seed(3)
    clean = torch.randint(2, model.cfg.d_vocab, (6, 9), generator=generator)
    corrupted = clean.clone()
    for row, start in enumerate((6, 3, 7, 2, 5, 4)):
        corrupted[row, start] = (clean[row, start] + 11) % model.cfg.d_vocab
    return with_contrast(model, patchlib.PromptPairs(clean, corrupted, [[2, 3]] * 6))


@functools.cache
def by_hand(layer: int = 1, head: int = 2) -> torch.Tensor:
    """The logit difference of each prompt, z of one head taken from the clean prompt, one plain forward at a time."""
    model, pairs = load_tiny("gpt2"), pairs_that_part_anywhere()
    name, values = f"blocks.{layer}.attn.hook_z", []
    for clean, corrupted, (right, wrong) in zip(
        pairs.clean_tokens, pairs.corrupted_tokens, pairs.answers.tolist(), strict=True
    ):
        _, cache = model.run_with_cache(clean[None])

        def patch(z, hook, cache=cache):
            z[:, :, head] = cache[hook.name][:, :, head]
            return z

        logits = model.run_with_hooks(corrupted[None], fwd_hooks=[(name, patch)])[0, -1]
        values.append(logits[right] - logits[wrong])
    return torch.stack(values)


def patched(metric, pairs=None, **how):
    """What a sweep gives for that head."""
    result = sweep(load_tiny("gpt2"), pairs or pairs_that_part_anywhere(), "z", ("layer", "head"), metric=metric,
                   layers=[1], heads=[2], **how)  # fmt: skip
    return torch.tensor(result.patched.values.reshape(-1))


def of_all(answers):
    """A metric that counts through the answers of the whole task."""

    def metric(logits, pairs):
        rows = torch.arange(len(logits))
        return logits[rows, -1, answers[rows, 0]] - logits[rows, -1, answers[rows, 1]]

    return metric


def agrees(values) -> str:
    torch.testing.assert_close(values, by_hand(), atol=1e-4, rtol=0)
    return f"{values[0]:.2f}, {values[1]:.2f}, ... as by hand"


@case("A1", "a metric that counts through the answers of the whole set; one batch holds them all")
def _() -> str:
    three = pairs_that_part_anywhere().select([0, 1, 2])
    values = patched(of_all(three.answers), three)
    torch.testing.assert_close(values, by_hand()[:3], atol=1e-4, rtol=0)
    return f"{values[0]:.2f}, {values[1]:.2f}, ... as by hand"


@case("A1", "the same metric, where a batch holds two of six prompts")
def _() -> Refusal:
    pairs = pairs_that_part_anywhere()
    return refused(lambda: patched(of_all(pairs.answers), batch_tokens=36), "pairs.index", "of 6")


@case("A1", "the same, all answers alike within two batches, and one prompt in a batch")
def _() -> Refusal:
    answers = torch.tensor([[2, 3]] * 3 + [[5, 7]] * 3)
    refused(lambda: patched(of_all(answers), batch_tokens=54), "pairs.index")
    return refused(lambda: patched(of_all(answers), batch_tokens=1), "pairs.index")


@case("A1", "the same, the answers in a global, in a default, in an object, in a partial")
def _() -> Refusal:
    answers = pairs_that_part_anywhere().answers

    class Scored:
        def __init__(self):
            self.answers = answers

        def __call__(self, logits, pairs):
            return of_all(self.answers)(logits, pairs)

    def defaulted(logits, pairs, answers=answers):
        return of_all(answers)(logits, pairs)

    for metric in (Scored(), defaulted, functools.partial(defaulted, answers=answers)):
        line = refused(lambda metric=metric: patched(metric, batch_tokens=36), "pairs.index")
    return line


@case("A1", "a metric that takes pairs.index, in batches of one, two and six")
def _() -> str:
    answers = pairs_that_part_anywhere().answers

    def metric(logits, pairs):
        rows = torch.arange(len(logits))
        right, wrong = answers[pairs.index].T
        return logits[rows, -1, right] - logits[rows, -1, wrong]

    for batch_tokens in (1, 36, None):
        said = agrees(patched(metric, batch_tokens=batch_tokens))
    return said


@case("A1", "pairs.index of a part of a task that is swept alone counts in that part")
def _() -> str:
    whole = pairs_that_part_anywhere()
    part, seen = whole.select([5, 3, 0]), []

    def metric(logits, pairs):
        seen.append(pairs.index.tolist())
        return logits[:, -1, 0]

    sweep(load_tiny("gpt2"), part, "z", ("layer",), layers=[0], metric=metric)
    assert part.index.tolist() == [5, 3, 0] and seen[0] == [0, 1, 2], seen
    return f"{seen[0]}, and {part.index.tolist()} in the whole task"


@case("A1", "a metric that subtracts the mean of its batch, where a batch is a part")
def _() -> Refusal:
    return refused(lambda: patched(lambda logits, pairs: logits[:, -1, 5] - logits[:, -1, 5].mean(), batch_tokens=36),
                   "elsewhere in a batch")  # fmt: skip


@case("A1", "a metric with a fixed number of prompts in it")
def _() -> Refusal:
    answers = pairs_that_part_anywhere().answers
    return refused(lambda: patched(lambda logits, pairs: logits[torch.arange(6), -1, answers[:, 0]], batch_tokens=36),
                   "pairs.index", "IndexError")  # fmt: skip


@case("A1", "metrics as in TransformerLens: f(logits), f(logits, answer_tokens=...), a partial, a mean over prompts")
def _() -> Refusal:
    answers = pairs_that_part_anywhere().answers

    def logit_diff(logits, answer_tokens=answers, per_prompt=True):
        rows = torch.arange(len(logits))
        return logits[rows, -1, answer_tokens[rows, 0]] - logits[rows, -1, answer_tokens[rows, 1]]

    for metric in (
        lambda logits: logits[:, -1, 0],
        logit_diff,
        functools.partial(logit_diff, answer_tokens=answers),
        lambda logits, dim=-1: logits.mean(dim),
        lambda logits, *, answers=answers: logits[:, -1, 0],
        lambda: 3,
    ):
        refused(lambda metric=metric: patched(metric), "takes (", "metric(logits", "pairs")
    return refused(lambda: patched(lambda logits, pairs: logits[:, -1, 0].mean()), "shape [4]", "mean")


@case("A1", "metrics of unequal lengths, of too many numbers, of none")
def _() -> Refusal:
    calls = []

    def growing(logits, pairs):
        calls.append(1)
        return logits[:, -1, 0] if len(calls) < 3 else logits[:2, -1, 0]

    refused(lambda: patched(growing, pairs_that_part_anywhere().select([0, 1, 2])), "shape [3]", "[2]")
    refused(lambda: patched(lambda logits, pairs: [[1.0], [1.0, 2.0]]), "4 prompts")
    refused(lambda: patched(lambda logits, pairs: logits[:, -1]), "shape [4]")
    refused(lambda: patched(lambda logits, pairs: None), "NoneType")
    return refused(lambda: patched(lambda logits, pairs: "ab"), "str")
