"""`patchlib run` and `patchlib grid` killed with `kill -9` at random moments: what that leaves, and what repairs it.

python -m tests.attacks.kills_runs [--times 20] [--seed 0]

A row for each kill says when it came and what was left. After it nothing may go on running, and nothing that is there
may be taken for a result that is whole; the same command again makes all of it good.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

import patchlib
from patchlib.errors import RunError
from tests.runs.small_grid import write_notebook

RUNS = 2
PATIENCE = 180.0
"""Seconds until what a killed process had started has noticed: a kernel looks for its parent every second or so."""


@dataclass(frozen=True)
class Command:
    """A command over a few cheap runs, and its folder."""

    name: str
    words: list[str]
    out: Path

    def start(self) -> subprocess.Popen[bytes]:
        """Start it in a session of its own."""
        words = [sys.executable, "-m", "patchlib", self.name, *self.words, "-o", str(self.out)]
        null = subprocess.DEVNULL
        return subprocess.Popen(words, stdin=null, stdout=null, stderr=null, start_new_session=True)


def command(name: str, folder: Path) -> Command:
    """`run` over copies of a notebook, or `grid` over seeds of it."""
    notebook = write_notebook(folder)
    if name == "grid":
        plan = folder / "grid.yaml"
        plan.write_text(f"notebooks: [tiny.ipynb]\ngrid: {{seed: {list(range(RUNS))}}}\n")
        return Command(name, [str(plan), "--workers", "2"], folder / "out")
    copies = [notebook.with_name(f"tiny_{i}.ipynb") for i in range(RUNS)]
    for copy in copies:
        copy.write_bytes(notebook.read_bytes())
    return Command(name, list(map(str, copies)), folder / "out")


def kill_and_repair(started: Command, after: float) -> str:
    """Kill a command some seconds after its start and run it again; what the kill left, in a few words.

    Raises:
        AssertionError: Something went on running, was taken for whole, or was not repaired.
    """
    process = started.start()
    try:
        process.wait(after)
        moment = "had ended"
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        moment = f"killed after {after:.1f} s"
    _wait_for_the_end(started.out.parent)
    left = _left(started.out)
    again = started.start()
    assert again.wait(PATIENCE * 2) == 0, f"{moment}, left {left}; the second call ended with {again.returncode}"
    collection = patchlib.collect(started.out)
    assert list(collection.runs.status) == ["ok"] * RUNS, (moment, left, dict(collection.runs.status))
    for notebook in dict.fromkeys(run.notebook for run in collection.records):
        seeds = [run.parameters["seed"] for run in collection.records if run.notebook == notebook]
        assert sorted(collection.table(notebook, "table").seed) == sorted(seeds)
        assert collection.dataset(notebook, "effects").effect.sizes["run"] == len(seeds)
    halves = [path.name for path in started.out.rglob("*.tmp")]
    assert not halves, f"{moment}, left {left}; the second call left {halves}"
    _wait_for_the_end(started.out.parent)
    return f"{moment}; left {left}; repaired"


def _wait_for_the_end(folder: Path) -> None:
    end = time.monotonic() + PATIENCE
    while still := [one for one in psutil.process_iter(["cmdline", "cwd"]) if _is_at(one, folder)]:
        assert time.monotonic() < end, f"still running: {[one.info['cmdline'] for one in still]}"
        time.sleep(0.2)


def _is_at(process: psutil.Process, folder: Path) -> bool:
    """Whether a process works in a folder: kernels have it as theirs, commands name it."""
    words, place = process.info["cmdline"] or [], process.info["cwd"] or ""
    return process.pid != psutil.Process().pid and (str(folder) in " ".join(words) or place.startswith(str(folder)))


def _left(out: Path) -> str:
    """What is there, and how it is taken: nothing may be good that is not whole."""
    if not out.exists():
        return "nothing"
    try:
        collection = patchlib.collect(out)
    except RunError:
        return "a folder without runs"
    for run in collection.records:
        if run.status == "ok":
            results = {"table", "effects"}
            assert set(run.results) == results, f"{run.name} is taken for whole, and has {sorted(run.results)}"
    counts = collection.runs.status.value_counts().to_dict()
    halves = len(list(out.rglob("*.tmp")))
    return ", ".join(f"{n} {status}" for status, n in counts.items()) + f", {halves} files half written"


def kills(name: str, times: int, seed: int) -> list[str]:
    """Kill a command a number of times, each in a new folder, at moments spread at random over what it takes."""
    with tempfile.TemporaryDirectory(prefix="patchlib-kills-") as place:
        begin = time.monotonic()
        assert command(name, Path(place)).start().wait(PATIENCE * 2) == 0
        took = time.monotonic() - begin
    draw, said = random.Random(seed), []
    for number in range(times):
        with tempfile.TemporaryDirectory(prefix="patchlib-kills-") as place:
            row = kill_and_repair(command(name, Path(place)), draw.uniform(0.02, 0.95) * took)
        said.append(f"| {name} | {number + 1} | {row} |")
        print(said[-1], flush=True)
    return said


def main() -> int:
    """Print a row per kill; an AssertionError ends it."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.kills_runs", description=__doc__)
    parser.add_argument("--times", type=int, default=20, help="of each command")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    given = parser.parse_args()
    for name in ("run", "grid"):
        kills(name, given.times, given.seed)
    print(f"all {2 * given.times} were repaired by the same command")
    return 0


if __name__ == "__main__":
    sys.exit(main())
