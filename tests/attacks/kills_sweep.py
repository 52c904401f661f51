"""`kill -9` at random moments of a sweep with a checkpoint: what each left, and that the second call repairs it.

    python -m tests.attacks.kills_sweep [--times 20] [--seed 0]

Each time a process of its own sweeps into a new checkpoint and is killed after a random part of the time that an
undisturbed one takes, from before the file is made to after the last row. Then the same call goes on from there,
and has to give the numbers of a sweep that never stopped, bit for bit; a third call has nothing left to do.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import random
import signal
import sqlite3
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
import xarray as xr

import patchlib
from tests.helpers import computed_cells, mixed_pairs
from tests.tiny import load_tiny

HOW = {"site": "z", "over": ("layer", "head", "pos"), "metric": ["logit_diff", "kl"], "batch_tokens": 30}


def swept(path: Path | None) -> xr.Dataset:
    """The sweep that is killed, or goes on."""
    model = load_tiny("gpt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", patchlib.ContrastWarning)
        return patchlib.sweep(model, mixed_pairs(model), checkpoint=path, progress=False, **HOW)


def n_rows(path: Path) -> int:
    """How many batches are in a checkpoint that a killed process has left."""
    if not path.exists():
        return 0
    with contextlib.closing(sqlite3.connect(path)) as database, contextlib.suppress(sqlite3.OperationalError):
        return int(database.execute("SELECT count(*) FROM finished").fetchone()[0])
    return 0  # killed before there was a table


def n_computed(path: Path, whole: xr.Dataset) -> int:
    """How many cells the same call computes, once its numbers have been compared."""
    with computed_cells() as cells:
        xr.testing.assert_identical(swept(path), whole)
    return len(cells)


def kill_once(folder: Path, number: int, after: float, whole: xr.Dataset) -> str:
    """Kill one sweep, repair it, and say what happened; AssertionError where it cannot be repaired."""
    path = folder / f"{number}.ckpt"
    process = multiprocessing.get_context("fork").Process(target=swept, args=(path,))
    process.start()
    time.sleep(after)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL), f"the sweep failed by itself: {process.exitcode}"
    left, journal = n_rows(path), Path(f"{path}-journal").exists()
    again = n_computed(path, whole)
    assert n_computed(path, whole) == 0, "the third call still had something to do"
    ended = "had ended" if process.exitcode == 0 else "killed"
    return (
        f"{ended} after {after:.3f} s: {left} batches left{', with a journal' * journal}; {again} cells computed again"
    )


def main() -> int:
    """Kill, repair, and print a row for each; 1 where one was not repaired."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.kills_sweep", description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    rng, failed = random.Random(arguments.seed), 0
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        whole = swept(None)
        began = time.perf_counter()
        swept(Path(name) / "whole.ckpt")
        duration = time.perf_counter() - began
        print(f"undisturbed: {duration:.2f} s, {n_rows(Path(name) / 'whole.ckpt')} batches")
        for number in range(arguments.times):
            try:
                said = kill_once(Path(name), number, rng.uniform(0, 1.1 * duration), whole)
            except Exception as error:  # the others are tried too
                failed += 1
                said = f"NOT REPAIRED: {type(error).__name__}: {error}"
            print(f"| {number + 1} | {said} |", flush=True)
    print(f"{arguments.times - failed} of {arguments.times} repaired")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
