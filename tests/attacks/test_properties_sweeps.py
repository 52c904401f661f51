"""Hypothesis tries what nobody listed: prompts in any order, functions with anything in them, files cut anywhere."""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import patchlib
from patchlib.errors import ModelError, SweepError
from patchlib.patching.identity import identity
from tests.attacks.case import clear_line
from tests.helpers import sweep
from tests.tiny import load_tiny, tiny_path

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")
FEW = settings(max_examples=10, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))

# ---- A1: the order of prompts


@st.composite
def tasks(draw) -> patchlib.PromptPairs:
    """One to six prompts of two lengths, parting anywhere, with answers that may be alike."""
    n = draw(st.integers(1, 6))
    token = st.integers(2, 40)
    clean, corrupted = [], []
    for _ in range(n):
        row = draw(st.lists(token, min_size=5, max_size=6))
        other = list(row)
        position = draw(st.integers(0, len(row) - 1))
        other[position] = 41 + position
        clean.append(row)
        corrupted.append(other)
    answers = draw(st.lists(st.sampled_from([[2, 3], [5, 7], [11, 13]]), min_size=n, max_size=n))
    return patchlib.PromptPairs(clean, corrupted, answers)


@FEW
@given(task=tasks(), batch_tokens=st.integers(1, 80), way=st.sampled_from(["closure", "slice", "index"]))
def test_a_metric_gives_each_prompt_its_own_answer_or_is_refused(task, batch_tokens, way):
    model, answers = load_tiny("gpt2"), task.answers.clone()

    def metric(logits, pairs):
        rows = torch.arange(len(logits))
        mine = {"closure": answers[rows], "slice": answers[: len(logits)], "index": answers[pairs.index]}[way]
        return logits[rows, -1, mine[:, 0]] - logits[rows, -1, mine[:, 1]]

    how = {"site": "resid_pre", "over": ("layer",), "layers": [1], "batch_tokens": batch_tokens}
    right = sweep(model, task, metric="logit_diff", **how)
    try:
        mine = sweep(model, task, metric=metric, **how)
    except SweepError as error:
        assert way != "index"
        clear_line(str(error), "pairs.index")
        return
    for name in ("clean", "corrupted", "patched"):
        np.testing.assert_allclose(mine[name].values, right[name].values, atol=1e-4)


# ---- A2: what tells two values apart

LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5),
    st.complex_numbers(allow_nan=False), st.fractions(), st.decimals(allow_nan=False), st.dates(), st.uuids(),
    st.lists(st.floats(width=32), max_size=3).map(lambda numbers: torch.tensor(numbers)),
    st.lists(st.integers(-9, 9), max_size=3).map(lambda numbers: np.array(numbers, dtype=int)),
)  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ),
    max_leaves=6,
)


class Holder:
    """An object of the user's."""

    def __init__(self, value):
        self.value = value

    def __call__(self, logits, pairs):
        return self.value


def in_a_closure(value):
    return lambda logits, pairs: value


def in_a_default(value):
    def metric(logits, pairs, value=value):
        return value

    return metric


HOLDERS = st.sampled_from([in_a_closure, in_a_default, Holder, lambda value: in_a_closure(Holder([value]))])


def same(first, second) -> bool:
    """Equal in kind and to the bit, told without the code under test."""
    if type(first) is not type(second):
        return False
    if isinstance(first, torch.Tensor | np.ndarray):
        first, second = np.asarray(first), np.asarray(second)
        return (first.shape, first.dtype, first.tobytes()) == (second.shape, second.dtype, second.tobytes())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, float):
        return repr(first) == repr(second)
    return repr(first) == repr(second)


@settings(FEW, max_examples=60)
@given(first=VALUES, second=VALUES, hold=HOLDERS)
def test_two_functions_are_told_apart_by_what_they_hold_and_by_nothing_else(first, second, hold):
    import copy

    assert identity(hold(first), "metric") == identity(hold(copy.deepcopy(first)), "metric")
    equal = identity(hold(first), "metric") == identity(hold(second), "metric")
    assert equal == same(first, second)


# ---- A4: code of users

NUMBERS = st.one_of(
    st.floats(width=32), st.integers(-(10**40), 10**40), st.booleans(), st.complex_numbers(), st.none(), st.text()
)


@settings(FEW, max_examples=25)
@given(given_=st.one_of(NUMBERS, st.lists(NUMBERS, max_size=4), st.lists(st.lists(NUMBERS, max_size=2), max_size=3)),
       form=st.sampled_from([lambda x: x, np.array, lambda x: np.array(x, dtype=object)]))  # fmt: skip
def test_what_a_metric_gives_is_stored_as_it_is_or_refused_in_a_line(given_, form):
    task = patchlib.PromptPairs([[8, 2, 3], [8, 4, 3]], [[8, 5, 3], [8, 6, 3]], [[2, 3]] * 2)
    try:
        value = form(given_)
    except (ValueError, OverflowError):
        return  # NumPy makes no array of it
    how = {"site": "resid_pre", "over": ("layer",), "layers": [0]}
    try:
        result = sweep(load_tiny("gpt2"), task, metric=lambda logits, pairs: value, **how)
    except SweepError as error:
        clear_line(str(error))
        return
    wanted = [float(number) for number in given_]
    assert len(wanted) == 2
    np.testing.assert_allclose(result.patched.values.reshape(-1), wanted, rtol=1e-6)


# ---- A8: weights that were cut or written over


@settings(FEW, max_examples=12)
@given(data=st.data())
def test_a_damaged_weights_file_gives_the_same_model_or_a_line(data):
    model = load_tiny("gpt2")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(shutil.copytree(tiny_path("gpt2"), Path(name) / "m"))
        file = folder / "model.safetensors"
        content = bytearray(file.read_bytes())
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        way = data.draw(st.sampled_from(["cut", "head", "swap"]))
        if way == "cut":
            content = content[: data.draw(st.integers(0, len(content) - 1))]
        elif way == "head":
            place = data.draw(st.integers(0, 8 + length - 1))
            content[place] ^= 1 << data.draw(st.integers(0, 7))
        else:  # two tensors have changed names: of one shape, nobody can know; of others, it must show
            first, second = data.draw(st.permutations([key for key in header if key != "__metadata__"]))[:2]
            header[first], header[second] = header[second], header[first]
            head = json.dumps(header).encode()
            content = struct.pack("<Q", len(head)) + head + content[8 + length :]
        file.write_bytes(content)
        try:
            loaded = patchlib.load_model(folder, device="cpu")
        except ModelError as error:
            clear_line(str(error))
            return
        if way == "swap":
            assert header[first]["shape"] == header[second]["shape"]
        else:
            assert patchlib.weights_hash(loaded) == patchlib.weights_hash(model)


# ---- C15: a checkpoint that was cut or written over


@settings(FEW, max_examples=6)
@given(data=st.data())
def test_a_damaged_checkpoint_gives_the_same_numbers_or_a_line(data):
    model = load_tiny("gpt2")
    task = patchlib.PromptPairs([[8, 2, 3], [8, 4, 3]], [[8, 5, 3], [8, 6, 3]], [[2, 3]] * 2)
    how = {"site": "resid_pre", "over": ("layer", "pos"), "batch_tokens": 1}
    whole = sweep(model, task, **how)
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(name) / "z.ckpt"
        sweep(model, task, checkpoint=path, **how)
        content = bytearray(path.read_bytes())
        if data.draw(st.booleans()):
            content = content[: data.draw(st.integers(0, len(content)))]
        for _ in range(data.draw(st.integers(0, 3))):
            if content:
                content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
        try:
            again = sweep(model, task, checkpoint=path, **how)
        except SweepError as error:
            clear_line(str(error), "z.ckpt")
        else:
            assert again.equals(whole)


@FEW
@given(path=st.one_of(st.text(max_size=30), st.binary(max_size=5), st.integers(), st.floats(), st.booleans()))
def test_any_name_is_a_file_or_is_refused(path):
    task = patchlib.PromptPairs([[8, 2, 3]], [[8, 5, 3]], [[2, 3]])
    how = {"site": "resid_pre", "over": ("layer",), "layers": [0]}
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.chdir(name)
        if isinstance(path, str) and (path.startswith(("/", "~")) or ".." in path):
            path = f"x{path.replace('..', '')}"
        try:
            result = sweep(load_tiny("gpt2"), task, checkpoint=path, **how)
        except SweepError as error:
            clear_line(str(error), "checkpoint")
        else:
            assert Path(path).is_file() and result.equals(sweep(load_tiny("gpt2"), task, **how))
    assert replace(task).answers.equal(task.answers)
