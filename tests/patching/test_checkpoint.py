"""A sweep that is stopped loses at most the batch in flight."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import xarray as xr

import patchlib
from patchlib.patching.engine import PatchedForwards
from tests.helpers import make_pairs, mixed_pairs, sweep
from tests.tiny import load_tiny, tiny_path

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")
HOW = {"site": "z", "over": ("layer", "head"), "metric": ["logit_diff", "kl"], "batch_tokens": 40}


@pytest.fixture
def counted(monkeypatch):
    """How many cells the fast engine ran."""
    honest, ran = PatchedForwards.patched_logits, []

    def patched_logits(self, cells):
        if self.fast:
            ran.extend(cells)
        return honest(self, cells)

    model = load_tiny("llama")
    sweep(model, make_pairs(model), **HOW)  # the model's own trial is over
    monkeypatch.setattr(PatchedForwards, "patched_logits", patched_logits)
    return ran


KILLED = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
import patchlib
from patchlib.patching.engine import PatchedForwards
from tests.helpers import make_pairs

model = patchlib.load_model(sys.argv[1], device="cpu")
patchlib.sweep(model, make_pairs(model), "z", ("layer",), progress=False)
honest, left = PatchedForwards.patched_logits, [3]

def patched_logits(self, cells):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return honest(self, cells)

PatchedForwards.patched_logits = patched_logits
patchlib.sweep(model, make_pairs(model), "z", ("layer", "head"), metric=["logit_diff", "kl"], batch_tokens=40,
               checkpoint=sys.argv[2], progress=False)
"""


@pytest.mark.slow
def test_killed_and_resumed_is_as_if_it_had_not_been_stopped(tmp_path, counted):
    path = tmp_path / "deep" / "z.ckpt"
    command = [sys.executable, "-c", KILLED, tiny_path("llama", 0), str(path)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    model = load_tiny("llama")
    whole = sweep(model, make_pairs(model), **HOW)
    n_whole = len(counted)
    counted.clear()
    resumed = sweep(model, make_pairs(model), **HOW, checkpoint=path)
    assert 0 < len(counted) < n_whole
    xr.testing.assert_equal(resumed, whole)
    counted.clear()
    xr.testing.assert_equal(sweep(model, make_pairs(model), **HOW, checkpoint=path), whole)
    assert not counted


def test_ctrl_c_keeps_what_was_done_and_other_batches_fit_as_well(tmp_path, counted, monkeypatch):
    model, path, seen = load_tiny("llama"), tmp_path / "z.ckpt", PatchedForwards.patched_logits

    def interrupted(self, cells):
        if len(counted) > 5:
            raise KeyboardInterrupt
        return seen(self, cells)

    with monkeypatch.context() as patch:
        patch.setattr(PatchedForwards, "patched_logits", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sweep(model, mixed_pairs(model), **HOW, checkpoint=path)
    whole = sweep(model, mixed_pairs(model), **HOW)
    resumed = sweep(model, mixed_pairs(model), **HOW | {"batch_tokens": 1000}, checkpoint=path)
    xr.testing.assert_allclose(resumed, whole, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"site": "q"}, "site"),
        ({"direction": "noise"}, "direction"),
        ({"layers": [0, 1]}, "axes"),
        ({"metric": "prob"}, "metrics"),
        ({"source": "mean"}, "donors"),
        ({"engine": "plain"}, "engine"),
    ],
)
def test_another_sweep_is_refused_and_told_apart(tmp_path, change, named):
    model, path = load_tiny("llama"), tmp_path / "z.ckpt"
    pairs = make_pairs(model)
    sweep(model, pairs, **HOW, checkpoint=path)
    with pytest.raises(patchlib.SweepError, match=rf"is of another sweep: .*{named}.* differ.*remove it"):
        sweep(model, pairs, **HOW | change, checkpoint=path)


def test_other_prompts_another_model_and_another_function_are_refused(tmp_path):
    model, path = load_tiny("llama"), tmp_path / "z.ckpt"
    sweep(model, make_pairs(model), **HOW, checkpoint=path)
    with pytest.raises(patchlib.SweepError, match="prompts differ"):
        sweep(model, make_pairs(model, seed=1), **HOW, checkpoint=path)
    with pytest.raises(patchlib.SweepError, match="weights_hash"):
        sweep(load_tiny("llama", seed=1), make_pairs(model), **HOW, checkpoint=path)

    def mine(logits, pairs):
        return logits[:, -1, 0]

    first = mine

    def mine(logits, pairs):
        return logits[:, -1, 1]

    own = tmp_path / "own.ckpt"
    sweep(model, make_pairs(model), metric=first, checkpoint=own)
    with pytest.raises(patchlib.SweepError, match="metrics differ"):
        sweep(model, make_pairs(model), metric=mine, checkpoint=own)


def test_a_file_that_is_none_or_cannot_be_written_is_an_error_with_a_mend(tmp_path):
    model = load_tiny("gpt2")
    (tmp_path / "notes.txt").write_text("not a database, and longer than the head of one " * 50)
    with pytest.raises(patchlib.SweepError, match=r"notes.txt cannot be used as a checkpoint"):
        sweep(model, make_pairs(model), checkpoint=tmp_path / "notes.txt")
    with pytest.raises(patchlib.SweepError, match="cannot be used as a checkpoint"):
        sweep(model, make_pairs(model), checkpoint=tmp_path / "notes.txt" / "z.ckpt")
