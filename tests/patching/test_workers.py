"""Sweeps whose parts run on real workers: a pool of processes and a Dask cluster, of which some are killed."""

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed import Client, LocalCluster
from transformers import AutoModelForCausalLM

import patchlib
from patchlib.models.load import load_model
from tests.helpers import make_pairs
from tests.tiny import load_tiny, tiny_path

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")


def pool(n_workers=2):
    return ProcessPoolExecutor(n_workers, mp_context=multiprocessing.get_context("spawn"))


@pytest.fixture(scope="module")
def processes():
    with pool() as executor:
        yield executor


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        yield client


def pairs_of(model):
    return make_pairs(model, n=6, length=12)


def swept(model, metric=("logit_diff", "kl"), **how):
    """144 cells, of which 84 change something."""
    over = ("layer", "head", "pos")
    return patchlib.sweep(model, pairs_of(model), "z", over, metric=metric, progress=False, **how)


class DeadlyLogits:
    """A metric that kills the process which computes it, so many times in all, and leaves a file for each call."""

    __name__ = "deadly"

    def __init__(self, folder: Path, n_deaths: int) -> None:
        self.folder, self.n_deaths = str(folder), n_deaths

    def __call__(self, logits, pairs):
        calls = len(os.listdir(self.folder))
        Path(self.folder, f"{calls:04}-{os.getpid()}").touch()
        if calls >= 40 and len([name for name in os.listdir(self.folder) if name.startswith("death")]) < self.n_deaths:
            Path(self.folder, f"death-{os.getpid()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return logits[:, -1, 5] - logits[:, -1, 7]


def lives(folder):
    return len([name for name in os.listdir(folder) if not name.startswith("death")])


def test_a_pool_of_processes_gives_the_numbers_of_one_to_the_bit(processes):
    model = load_tiny("llama")
    alone, together = swept(model), swept(model, executor=processes)
    assert together.attrs.pop("executor") == "ProcessPoolExecutor, 6 parts"
    assert alone.identical(together)


def test_paths_are_patched_by_workers_too(processes):
    model = load_tiny("gpt2")
    how = {"layers": [0, 1], "progress": False}
    alone, together = (
        patchlib.path_patch(model, pairs_of(model), patchlib.inputs_of(model, [(2, 1)], "q"), executor=executor, **how)
        for executor in (None, processes)
    )
    np.testing.assert_array_equal(alone.patched, together.patched)


def test_a_dask_worker_that_is_killed_costs_its_part(cluster, tmp_path):
    model = load_tiny("llama")
    (tmp_path / "alone").mkdir()
    (tmp_path / "together").mkdir()
    alone = swept(model, DeadlyLogits(tmp_path / "alone", 0))
    together = swept(model, DeadlyLogits(tmp_path / "together", 1), executor=cluster.get_executor())
    assert len(list((tmp_path / "together").glob("death-*"))) == 1
    assert together.attrs["executor"].startswith("ClientExecutor")
    np.testing.assert_array_equal(alone.patched, together.patched)


def test_a_pool_that_lost_a_worker_goes_on_from_its_checkpoint(tmp_path):
    model, calls = load_tiny("llama"), tmp_path / "calls"
    calls.mkdir()
    metric = DeadlyLogits(calls, 1)
    how = {"metric": metric, "checkpoint": tmp_path / "cells.sqlite"}
    with pool(1) as broken, pytest.raises(patchlib.SweepError, match=r"failed .* parts, which the checkpoint has"):
        swept(model, executor=broken, **how)
    before = lives(calls)
    with pool(1) as another:
        resumed = swept(model, executor=another, **how)
    again = lives(calls) - before
    (tmp_path / "alone").mkdir()
    alone = swept(model, DeadlyLogits(tmp_path / "alone", 0))
    np.testing.assert_allclose(alone.patched, resumed.patched, atol=1e-5)
    assert again < lives(tmp_path / "alone"), "what had come back was measured again"


def test_a_worker_proves_that_its_weights_are_these(processes):
    model = load_model(tiny_path("gpt2"), device="cpu")
    with torch.no_grad():
        model.original_model.get_parameter("lm_head.weight").mul_(1.01)
    with pytest.raises(patchlib.SweepError, match="other weights than the model here: save the model"):
        swept(model, executor=processes)
    in_hand = load_model(AutoModelForCausalLM.from_pretrained(tiny_path("gpt2")), tokenizer=model.tokenizer)
    with pytest.raises(patchlib.SweepError, match=r"A worker cannot load '.* in hand' .*: save the model"):
        swept(in_hand, executor=processes)


def test_what_workers_cannot_be_given_is_refused_in_a_line(processes):
    model = load_tiny("gpt2")
    lock = multiprocessing.Lock()

    def locked(logits, pairs):
        with lock:
            return logits[:, -1, 5]

    with pytest.raises(patchlib.SweepError, match=r"must be a concurrent\.futures\.Executor, not 'two'"):
        swept(model, executor="two")
    with pytest.raises(patchlib.SweepError, match="cannot be sent to workers"):
        swept(model, locked, executor=processes)
    forks = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork"))
    with pytest.raises(patchlib.SweepError, match="are forks of this one"):
        swept(model, executor=forks)
