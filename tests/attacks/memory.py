"""A4: code of users is handed memory that others read too, or gives numbers that lose something."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import torch

import patchlib
from tests.attacks.case import Refusal, case, refused
from tests.helpers import contrast_pairs, sweep
from tests.tiny import load_tiny

HOW = {"site": "z", "over": ("layer", "head"), "layers": [1]}


@functools.cache
def pairs() -> patchlib.PromptPairs:
    return contrast_pairs(load_tiny("gpt2"))


def last(logits, pairs):
    """The right answer's logit."""
    return logits[torch.arange(len(logits)), -1, pairs.answers[:, 0]]


def values(metric, task=None, name: str | None = None, **how):
    """The patched values of one of the metrics, after the others have run."""
    result = sweep(load_tiny("gpt2"), task or pairs(), metric=metric, **HOW, **how)
    return result.patched.sel(metric=name).values if name else result.patched.values


def unharmed(metric, task=None) -> str:
    """The same numbers after a metric as without it, and the prompts as they were."""
    task = task or pairs()
    before = [row.clone() for row in (*task.clean_tokens, *task.corrupted_tokens, task.answers, *task.roles.values())]
    alone = values(last, task, "last")
    beside = values([metric, last, "logit_diff"], task, "last")
    np.testing.assert_array_equal(beside, alone)
    after = (*task.clean_tokens, *task.corrupted_tokens, task.answers, *task.roles.values())
    assert all(map(torch.equal, before, after)), "the prompts have changed"
    return f"{alone.flat[0]:.4g}, with and without it"


@case("A4", "a metric that writes into the logits")
def _() -> str:
    def halved(logits, pairs):
        return logits.mul_(0.5)[:, -1, 3]

    return unharmed(halved)


@case("A4", "a metric that writes into the logits through NumPy")
def _() -> str:
    def zeroed(logits, pairs):
        logits.numpy()[...] = 0
        return logits[:, -1, 3]

    return unharmed(zeroed)


@case("A4", "a metric that writes into the answers, the prompts, the roles and the index that it is given")
def _() -> str:
    def rude(logits, pairs):
        pairs.answers.fill_(7)
        pairs.clean_tokens[0].zero_()
        pairs.corrupted_tokens[0].numpy()[...] = 1
        for positions in pairs.roles.values():
            positions.zero_()
        pairs.roles.clear()
        pairs.index.zero_()
        return logits[:, -1, 3]

    return unharmed(rude)


@case("A4", "a task's own compute_metric that writes into the logits")
def _() -> str:
    def rude(logits, i):
        logits[:] = -logits
        return logits[0, -1, 3]

    return unharmed("task_metric", replace(pairs(), compute_metric=rude))


@case("A4", "a metric that gives the same memory each time, with other numbers in it")
def _() -> str:
    kept = torch.empty(4)

    def reused(logits, pairs):
        return kept.copy_(last(logits, pairs))

    np.testing.assert_array_equal(values(reused), values(last))
    return "each cell's own numbers"


@case("A4", "tokens, answers and roles that are written into after the pairs were made")
def _() -> str:
    rows = torch.tensor([[1, 2, 3]]), torch.tensor([[1, 5, 3]])
    answers, role = torch.tensor([[2, 3]]), torch.tensor([1])
    made = patchlib.PromptPairs(*rows, answers, roles={"r": role})
    for tensor in (*rows, answers, role):
        tensor.zero_()
    assert made.clean_tokens[0].tolist() == [1, 2, 3] and made.corrupted_tokens[0].tolist() == [1, 5, 3]
    assert made.answers.tolist() == [[2, 3]] and made.roles["r"].tolist() == [1]
    return "the pairs stay as they were made"


@case("A4", "complex numbers, from a metric and from compute_metric")
def _() -> Refusal:
    refused(lambda: values(lambda logits, pairs: torch.complex(logits[:, -1, 3], logits[:, -1, 4])), "complex")
    refused(lambda: values(lambda logits, pairs: [1 + 2j] * 4), "complex")
    task = replace(pairs(), compute_metric=lambda logits, i: complex(1, i))
    return refused(lambda: values(None, task), "task_metric", "complex")


@case("A4", "numbers of every real dtype: bool, int, float16, float64, NumPy, lists, with a gradient")
def _() -> str:
    expected = values(last)
    forms = {
        "float64": lambda numbers: numbers.double(),
        "NumPy": lambda numbers: numbers.numpy(),
        "a list": lambda numbers: numbers.tolist(),
        "a tuple of tensors": tuple,
        "with a gradient": lambda numbers: numbers.clone().requires_grad_() * 1,
        "a row backwards": lambda numbers: numbers.numpy()[::-1].copy()[::-1].copy(),
    }
    for form, change in forms.items():
        given = values(lambda logits, pairs, change=change: change(last(logits, pairs)))
        np.testing.assert_allclose(given, expected, rtol=1e-6, err_msg=form)
    positive = values(lambda logits, pairs: last(logits, pairs) > 0)
    np.testing.assert_array_equal(positive, expected > 0)
    whole = values(lambda logits, pairs: last(logits, pairs).round().int())
    np.testing.assert_array_equal(whole, expected.round())
    return ", ".join(forms)


@case("A4", "numbers that float32 has not: 1e300, text, sparse tensors, objects")
def _() -> Refusal:
    refused(lambda: values(lambda logits, pairs: np.full(4, 1e300)), "infinite")
    refused(lambda: values(lambda logits, pairs: ["1", "2", "3", "4"]), "list")
    refused(lambda: values(lambda logits, pairs: logits[:, -1, 3].to_sparse()), "sparse")
    refused(lambda: values(lambda logits, pairs: [10**400] * 4), "list")
    return refused(lambda: values(lambda logits, pairs: {0: 1.0}), "dict")


@case("A4", "a metric that raises: what, where, and how it is called")
def _() -> Refusal:
    def unlucky(logits, pairs):
        return {}["a key"]

    return refused(lambda: values(unlucky), "unlucky", "KeyError", "line", "pairs.index")


@case("A4", "results do not share memory with each other or with the task")
def _() -> str:
    first = sweep(load_tiny("gpt2"), pairs(), metric=last, **HOW)
    expected = first.copy(deep=True)
    for variable in first.variables.values():
        if variable.dtype.kind == "f":
            variable.values[...] = 0
    second = sweep(load_tiny("gpt2"), pairs(), metric=last, **HOW)
    assert second.equals(expected)
    return "a result that is written into changes no other"
