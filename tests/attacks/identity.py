"""A2: a checkpoint is resumed only for the sweep that it is of."""

from __future__ import annotations

import copy
import functools
import importlib
import itertools
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import patchlib
from patchlib.patching.identity import identity, model_state
from tests.attacks.case import Refusal, case, refused
from tests.helpers import contrast_pairs, sweep
from tests.tiny import KINDS, load_tiny

HOW = {"site": "z", "over": ("layer", "head"), "layers": [1]}
SCALE = 1.0


@functools.cache
def pairs() -> patchlib.PromptPairs:
    return contrast_pairs(load_tiny("gpt2"))


def resumed(folder: Path, metric=None, model=None, task=None):
    return sweep(model or load_tiny("gpt2"), task or pairs(), metric=metric, checkpoint=folder / "z.ckpt", **HOW)


def told_apart(first, second, what: str) -> Refusal:
    """Two metrics differ in what a checkpoint says of them, and each is equal to itself."""
    assert identity(first, "metric") == identity(first, "metric")
    assert identity(first, "metric") != identity(second, "metric"), f"{what}: taken for the same"
    return Refusal(f"{what}: told apart")


def scaled(logits, pairs):
    return logits[:, -1, 0] * SCALE


def helper(logits):
    return logits[:, -1, 0] * SCALE


def helped(logits, pairs):
    return helper(logits)


def nested(logits, pairs):
    return torch.stack([(lambda row: row * SCALE)(row) for row in logits[:, -1, 0]])


@case("A2", "a metric whose global has changed, by itself, in a function that it calls, in a lambda inside")
def _(folder: Path) -> Refusal:
    global SCALE
    for number, metric in enumerate((scaled, helped, nested)):
        (folder / str(number)).mkdir()
        resumed(folder / str(number), metric)
        SCALE = 2.0
        try:
            line = refused(lambda metric=metric, number=number: resumed(folder / str(number), metric), "metrics differ")
        finally:
            SCALE = 1.0
        resumed(folder / str(number), metric)
    return line


@case("A2", "an edited function: other code, other names, another default, another closure, another inner lambda")
def _(folder: Path) -> Refusal:
    def closing(k):
        return lambda logits, pairs: logits[:, -1, k]

    def default(logits, pairs, k=0):
        return logits[:, -1, k]

    def other_default(logits, pairs, k=1):
        return logits[:, -1, k]

    def keyword(logits, pairs, *, k=0):
        return logits[:, -1, k]

    def other_keyword(logits, pairs, *, k=1):
        return logits[:, -1, k]

    told_apart(lambda logits, pairs: logits.amax((1, 2)), lambda logits, pairs: logits.amin((1, 2)), "names")
    told_apart(closing(0), closing(1), "closures")
    told_apart(closing(torch.zeros(2)), closing(torch.tensor([0.0, 1e-30])), "closures of tensors")
    told_apart(default, other_default, "defaults")
    told_apart(keyword, other_keyword, "keyword defaults")
    told_apart(lambda logits, pairs: (lambda x: x + 1)(0), lambda logits, pairs: (lambda x: x + 2)(0), "lambdas inside")
    resumed(folder, closing(0))
    return refused(lambda: resumed(folder, closing(1)), "differ")


class Weighted:
    """A callable object."""

    power = 1

    def __init__(self, weights):
        self.weights = weights

    def __call__(self, logits, pairs):
        return logits[:, -1, : len(self.weights)] @ torch.tensor(self.weights) ** self.power


class Slotted:
    __slots__ = ("k",)

    def __init__(self, k):
        self.k = k

    def __call__(self, logits, pairs):
        return logits[:, -1, self.k]


class Forgetful(Weighted):
    """It says nothing of its state."""

    def __reduce__(self):
        return Forgetful, ()

    def __getstate__(self):
        return {}


@case("A2", "a callable object whose state, class attribute or class has changed; slots, partials, methods, modules")
def _(folder: Path) -> Refusal:
    metric = Weighted([1.0, 2.0])
    resumed(folder, metric)
    metric.weights[1] = 3.0
    refused(lambda: resumed(folder, metric), "metrics differ")
    metric.weights[1] = 2.0
    resumed(folder, metric)
    Weighted.power = 2
    try:
        line = refused(lambda: resumed(folder, metric), "metrics differ")
    finally:
        Weighted.power = 1
    told_apart(Slotted(0), Slotted(1), "slots")
    told_apart(Forgetful([1.0]), Forgetful([2.0]), "an object that hides its state from pickle")
    partials = [functools.partial(Weighted.__call__, Weighted([power])) for power in (1.0, 2.0)]
    told_apart(partials[0], partials[1], "partials")
    told_apart(Weighted([1.0]).__call__, Weighted([2.0]).__call__, "methods")
    one, two = torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)
    told_apart(one, two, "modules of PyTorch")
    cached = [functools.lru_cache(lambda k, j=j: j) for j in (1, 2)]
    told_apart(cached[0], cached[1], "cached functions")
    told_apart({"a": np.arange(3)}, {"a": np.array([0, 1, 3])}, "arrays")
    told_apart([1, 2], [2, 1], "lists in another order")
    told_apart({1, 2}, {1, 3}, "sets")
    assert identity({"a": 1, "b": {3, 4}}, "x") == identity({"b": {4, 3}, "a": 1}, "x")
    return line


@case("A2", "a metric of a module of the user's: a function there, and a setting of the module, are edited")
def _(folder: Path) -> Refusal:
    sys.path.insert(0, str(folder))
    try:
        (folder / "own_scores.py").write_text(
            "K = 0\ndef inner(logits):\n    return logits[:, -1, K]\n"
            "def metric(logits, pairs):\n    return inner(logits)\n"
        )
        (folder / "own_metrics.py").write_text(
            "def importing(logits, pairs):\n    import own_scores\n    return own_scores.inner(logits)\n"
        )
        importing = importlib.import_module("own_metrics").importing
        module = importlib.import_module("own_scores")
        resumed(folder, module.metric)
        module.K = 1
        refused(lambda: resumed(folder, module.metric), "metrics differ")
        module.K = 0
        resumed(folder, module.metric)
        through_module = lambda logits, pairs: module.inner(logits)  # noqa: E731
        before = identity(through_module, "metric")
        imported = lambda logits, pairs: __import__("own_scores").inner(logits)  # noqa: E731
        refused(lambda: identity(imported, "a metric"), "__import__")
        inside = identity(importing, "metric")
        module.inner = lambda logits: logits[:, -1, 2]
        assert identity(through_module, "metric") != before
        assert identity(importing, "metric") != inside
        return refused(lambda: resumed(folder, module.metric), "metrics differ")
    finally:
        sys.path.remove(str(folder))
        del sys.modules["own_scores"], sys.modules["own_metrics"]


class Own(patchlib.PatchingDataset):
    """A task with data and a metric of its own."""

    name = "own"

    def __init__(self, model, factor):
        self.model, self.factor = model, factor

    def get_clean_corrupt_pairs(self):
        return [("The keys to the cabinet", "The key to the cabinet")]

    def get_target_tokens(self, pair_idx):
        return 5, 6

    def compute_metric(self, logits, pair_idx):
        return self.scored(logits) * self.factor[pair_idx]

    def scored(self, logits):
        return float(logits[0, -1, 5])


@case("A2", "a task's own compute_metric over data that have changed, or a method that it calls")
def _(folder: Path) -> Refusal:
    task = Own(load_tiny("gpt2"), [1.0])
    resumed(folder, task=task)
    refused(lambda: resumed(folder, task=Own(load_tiny("gpt2"), [2.0])), "own metric differ")
    task.factor[0] = 3.0
    refused(lambda: resumed(folder, task=task), "own metric differ")
    task.factor[0] = 1.0
    resumed(folder, task=task)
    honest = Own.scored
    Own.scored = lambda self, logits: float(logits[0, -1, 6])
    try:
        return refused(lambda: resumed(folder, task=task), "own metric differ")
    finally:
        Own.scored = honest


@case("A2", "a model whose weights were changed through .data, by one number, and back")
def _(folder: Path) -> Refusal:
    model = copy.deepcopy(load_tiny("gpt2"))
    resumed(folder, model=model)
    parameter = next(iter(model.original_model.parameters()))
    before = parameter.data[1, 1].clone()
    parameter.data[1, 1] += 1e-3
    line = refused(lambda: resumed(folder, model=model), "weights_hash differ")
    without = sweep(model, pairs(), **HOW)
    assert without.weights_hash == patchlib.weights_hash(model), "the result names the weights from before"
    parameter.data[1, 1] = before
    resumed(folder, model=model)
    return line


@case("A2", "a model with another epsilon, another buffer or another forward in one of its modules")
def _(folder: Path) -> Refusal:
    model = copy.deepcopy(load_tiny("gpt2"))
    resumed(folder, model=model)
    norm = next(module for module in model.original_model.modules() if isinstance(module, torch.nn.LayerNorm))
    norm.eps *= 100
    refused(lambda: resumed(folder, model=model), "model state differ")
    norm.eps /= 100
    drop = next(module for module in model.modules() if isinstance(module, torch.nn.Dropout))
    drop.forward = lambda x: x * 2
    line = refused(lambda: resumed(folder, model=model), "a forward that was put in place", "del module.forward")
    refused(lambda: patchlib.detector_scores(model, n_rows=2, seq_len=5), "a forward that was put in place")
    del drop.forward
    resumed(folder, model=model)
    return line


@case("A2", "a hook that was left on the model: TransformerLens', a permanent one, PyTorch's")
def _() -> Refusal:
    model = copy.deepcopy(load_tiny("gpt2"))
    with_hooks = (
        (lambda: model.add_hook("blocks.0.hook_resid_pre", lambda z, hook: z * 0), lambda: model.reset_hooks()),
        (lambda: model.hook_dict["blocks.1.attn.hook_z"].add_perma_hook(lambda z, hook: z * 0),
         lambda: model.reset_hooks(including_permanent=True)),
    )  # fmt: skip
    calls = {
        "sweep": lambda: sweep(model, pairs(), **HOW),
        "baseline": lambda: patchlib.baseline(model, pairs()),
        "path_patch": lambda: patchlib.path_patch(model, pairs(), layers=[0], progress=False),
        "Ablation": lambda: patchlib.Ablation(model, pairs()),
        "attention_patterns": lambda: patchlib.attention_patterns(model, pairs(), [(0, 0)]),
        "detector_scores": lambda: patchlib.detector_scores(model),
    }
    for put, take in with_hooks:
        put()
        for call in calls.values():
            refused(call, "hooks left on it", "blocks.", "reset_hooks")
        take()
        sweep(model, pairs(), **HOW)
    for register in (model.blocks[0].mlp.register_forward_hook, model.blocks[0].mlp.register_forward_pre_hook):
        handle = register(lambda *inputs: None)
        line = refused(calls["sweep"], "hooks left on it", "mlp")
        handle.remove()
    sweep(model, pairs(), **HOW)
    return line


@case("A2", "a bit of a stored value flipped, a value moved to another cell, a row of another sweep")
def _(folder: Path) -> str:
    import warnings

    whole = resumed(folder)
    path = folder / "z.ckpt"

    def spoilt(change) -> None:
        with sqlite3.connect(path) as database:
            change(database)
        database.close()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert resumed(folder).equals(whole), "another number"
        assert any("Damaged rows" in str(warning.message) for warning in said), "not a word"

    def flip(database):
        ((row, metrics),) = database.execute("SELECT rowid, metrics FROM finished LIMIT 1").fetchall()
        damaged = bytes([metrics[0] ^ 1]) + metrics[1:]
        database.execute("UPDATE finished SET metrics = ? WHERE rowid = ?", (damaged, row))

    spoilt(flip)
    spoilt(lambda database: database.execute("UPDATE finished SET key = replace(key, '[0, 0]', '[0, 3]')"))
    spoilt(lambda database: database.execute("UPDATE finished SET metrics = NULL"))
    spoilt(lambda database: database.execute("UPDATE finished SET key = CAST(x'ff00' AS TEXT)"))
    spoilt(lambda database: database.execute("UPDATE finished SET sha256 = 'abc'"))
    (folder / "other").mkdir()
    resumed(folder / "other", "prob")

    def foreign(database):
        database.execute("DELETE FROM finished")
        database.execute("ATTACH ? AS other", (str(folder / "other" / "z.ckpt"),))
        database.execute("INSERT INTO finished SELECT * FROM other.finished")

    spoilt(foreign)
    return "computed again, with a warning"


@case("A2", "what nobody can look into: a generator, an open file, a lock, eval, the environment")
def _(folder: Path) -> Refusal:
    import os
    import threading

    numbers, file, lock = (i for i in range(3)), open(__file__), threading.Lock()  # noqa: SIM115

    def evaluated(logits, pairs):
        return eval("logits[:, -1, 0]")

    def from_environment(logits, pairs):
        return logits[:, -1, len(os.environ)]

    def from_file(logits, pairs):
        return logits[:, -1, len(open("k.txt").read())]

    for metric in (
        lambda logits, pairs: logits[:, -1, next(numbers)],
        lambda logits, pairs: logits[:, -1, len(file.read())],
        lambda logits, pairs: logits[:, -1, 0] * (lock is None),
        evaluated,
        from_environment,
        from_file,
    ):
        line = refused(lambda metric=metric: resumed(folder, metric), "cannot tell whether", "without checkpoint")
    file.close()
    return line


@case(
    "A2", "the same metric in another process, with sets, dicts, lambdas, a tokenizer, a frame and a model in it", 120
)
def _() -> str:
    program = f"""
import warnings; warnings.simplefilter("ignore")
from tests.attacks.identity import rich
from patchlib.patching.identity import identity, model_state
from tests.tiny import load_tiny, tiny_path
from patchlib import load_model
model = load_model({load_tiny("gpt2").cfg.model_name!r}, device="cpu")
print(identity(rich(model), "metric"), model_state(model))
"""
    said = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True,
                       env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}).stdout
        for seed in ("1",)  # sets are iterated in another order there
    }  # fmt: skip
    model = load_tiny("gpt2")
    here = f"{identity(rich(model), 'metric')} {model_state(model)}\n"
    assert said == {here}, said | {here}
    return "one hash in two processes"


def rich(model):
    """A metric with a bit of everything."""
    import pandas as pd
    import xarray as xr

    words = {"a", "b", "c", "d"}
    table = {word: torch.tensor([float(len(word))]) for word in ("x", "yy")}
    frame = pd.DataFrame({"a": [1, 2]}, index=["x", "y"])
    array = xr.DataArray([1.0, 2.0], dims="i", coords={"i": [0, 1]})

    def metric(logits, pairs):
        ids = [model.tokenizer.encode(word)[-1] for word in sorted(words)]
        return logits[:, -1, ids].mean(-1) * table["x"] * frame.a.sum() * float(array.sum()) * next(itertools.count(1))

    return metric


@case("A2", "models of every architecture say the same of themselves after forwards, and when they are loaded again")
def _() -> str:
    for kind in KINDS:
        model = load_tiny(kind)
        before = model_state(model)
        sweep(model, contrast_pairs(model), **HOW)
        assert model_state(model) == before, kind
    again = patchlib.load_model(load_tiny("llama").cfg.model_name, device="cpu")
    assert model_state(again) == model_state(load_tiny("llama"))
    return ", ".join(KINDS)


@case("A2", "the same metric again, in the same process: nothing is refused, whatever it did meanwhile")
def _(folder: Path) -> str:
    model, seen = load_tiny("gpt2"), {}

    def metric(logits, pairs):
        tokens = model.tokenizer(["a b", "c"], padding=True)["input_ids"]
        return logits[:, -1, tokens[0][0]]

    first = resumed(folder, metric)
    assert resumed(folder, metric).equals(first) and not seen
    task = replace(pairs(), compute_metric=lambda logits, i: logits[0, -1, i])
    (folder / "own").mkdir()
    first = resumed(folder / "own", task=task)
    assert resumed(folder / "own", task=task).equals(first)
    return "resumed"
