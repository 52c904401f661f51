"""Schedulers without workers, workers without patchlib, and queues that are left: a grid never waits without a word."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from threading import Event
from typing import Any

import psutil
from distributed import Client, LocalCluster

from patchlib import read_grid, run_grid
from patchlib.cli import main
from patchlib.runs.folder import RunFolder
from tests.attacks.case import Refusal, Wrong, case, clear_line, refused
from tests.runs.small_grid import grid_writer

_WORKER = "from distributed.cli.dask_worker import main; main(['{}', '--no-nanny', '--no-dashboard'])"
_LACKS = "import sys; sys.modules['{}'] = None; "
_OTHER = "import patchlib.runs.grid.workers as w; w.code_hash = lambda: '0123456789abcdef'; "


@contextmanager
def _cluster(n_workers: int = 0) -> Iterator[tuple[LocalCluster, Client]]:
    how = {"threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with LocalCluster(n_workers=n_workers, **how) as cluster, Client(cluster, set_as_default=False) as client:
        yield cluster, client


@contextmanager
def _worker(cluster: LocalCluster, before: str) -> Iterator[None]:
    """A worker's process, in which something runs before it begins."""
    code = before + _WORKER.format(cluster.scheduler_address)
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _runs(folder: Path, **axes: Any) -> list[Any]:
    return read_grid(grid_writer(folder)(grid=axes or {"seed": [0, 1]}))


@case("C13", "a scheduler without workers", 60)
def no_workers(folder: Path) -> Refusal:
    with _cluster() as (_, client):
        return refused(
            lambda: run_grid(_runs(folder), folder / "out", client.get_executor(pure=False), wait=1),
            "no worker for 1 s", "start workers",
        )  # fmt: skip


@case("C13", "a worker without patchlib", 90)
def no_patchlib(folder: Path) -> Refusal:
    with _cluster() as (cluster, client), _worker(cluster, _LACKS.format("patchlib")):
        executor = client.get_executor(pure=False)
        said = refused(lambda: run_grid(_runs(folder), folder / "out", executor), "worker tcp://", "import", "patchlib")
    assert {RunFolder(path).status.get("status") for path in (folder / "out" / "runs").glob("*")} <= {"waiting"}
    return said


@case("C13", "a worker whose patchlib is another", 90)
def other_patchlib(folder: Path) -> Refusal:
    with _cluster() as (cluster, client), _worker(cluster, _OTHER):
        executor = client.get_executor(pure=False)
        return refused(lambda: run_grid(_runs(folder), folder / "out", executor), "another patchlib", "0123456789ab")


@case("C13", "a worker that has patchlib, and not papermill", 90)
def no_papermill(folder: Path) -> Refusal:
    hide = "import patchlib.runs.grid.workers as w; w.find_spec = lambda name: None if name == 'papermill' else 1; "
    with _cluster() as (cluster, client), _worker(cluster, hide):
        executor = client.get_executor(pure=False)
        return refused(lambda: run_grid(_runs(folder), folder / "out", executor), "tcp://", "lacks papermill")


@case("C13", "all workers gone while runs are waiting", 120)
def workers_leave(folder: Path) -> Refusal:
    with _cluster() as (cluster, client), _worker(cluster, ""):
        client.wait_for_workers(1, timeout=60)
        # What is asked for is there; then the worker is killed, before it has begun anything.
        executor = client.get_executor(pure=False)
        submit = executor.submit

        def submit_and_leave(*values: Any) -> Any:
            for process in _children():
                process.kill()
            return submit(*values)

        executor.submit = submit_and_leave
        return refused(lambda: run_grid(_runs(folder), folder / "out", executor, wait=2), "no worker for 2 s")


def _children() -> list[Any]:
    children = psutil.Process().children()
    living = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]  # which have no command any more
    return [child for child in living if "dask_worker" in " ".join(child.cmdline())]


@case("C13", "Ctrl-C with runs in the queue of Dask: they are cancelled, and what runs is ended", 120)
def interrupted_queue(folder: Path) -> str:
    def interrupt(status: Any) -> None:
        raise KeyboardInterrupt

    runs = _runs(folder, seed=[0, 1, 2, 3], mode=["wait"])
    with _cluster(1) as (_, client):
        with suppress(KeyboardInterrupt):
            run_grid(runs, folder / "out", client.get_executor(pure=False), told=interrupt)
            raise Wrong("the interrupt was swallowed")
        end = time.monotonic() + 60
        while client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
            assert time.monotonic() < end, "runs are still in the queue"
            time.sleep(0.2)
    states = [RunFolder(folder / "out" / "runs" / run.name).status["status"] for run in runs]
    assert states == ["ok", "interrupted", "interrupted", "interrupted"], states
    return ", ".join(states)


class _Queue:
    """As a batch system has it: jobs that can only be waited for and cancelled; only the first ever begins."""

    def __init__(self) -> None:
        self.jobs: list[_QueuedJob] = []

    def submit(self, function: Any, *values: Any) -> _QueuedJob:
        self.jobs.append(_QueuedJob(function, values, first=not self.jobs))
        return self.jobs[-1]


class _QueuedJob:
    def __init__(self, function: Any, values: Any, first: bool) -> None:
        self.work, self.first, self.cancelled = (function, values), first, Event()

    def result(self) -> Any:
        function, values = self.work
        if self.first:
            return function(*values)
        self.cancelled.wait()
        raise RuntimeError("the job was cancelled")

    def cancel(self) -> None:
        self.cancelled.set()


@case("C13", "Ctrl-C with a batch system's queue that has not begun the jobs: they are cancelled at once", 90)
def interrupted_batch(folder: Path) -> str:
    def interrupt(status: Any) -> None:
        raise KeyboardInterrupt

    queue, runs = _Queue(), _runs(folder, seed=[0, 1, 2])
    with suppress(KeyboardInterrupt):
        run_grid(runs, folder / "out", queue, told=interrupt)
        raise Wrong("the interrupt was swallowed")
    assert [job.cancelled.is_set() for job in queue.jobs] == [False, True, True]
    states = [RunFolder(folder / "out" / "runs" / run.name).status["status"] for run in runs]
    assert states == ["ok", "interrupted", "interrupted"], states
    function, values = queue.jobs[2].work  # and should one begin all the same
    assert function(*values)["status"] == "interrupted"
    return "cancelled: 2"


@case("C13", "workers, retries, timeout and wait that are no number, or too small", 30)
def settings_of_no_number(folder: Path) -> Refusal:
    runs = _runs(folder)
    odd: dict[str, list[Any]] = {"workers": [0, 1.5, "2", True], "retries": [-1, "x"], "timeout": ["1", 0]}
    for name, values in (odd | {"wait": [-1, float("nan"), "long", [1]]}).items():
        for value in values:
            how = {name: value}
            refused(lambda how=how: run_grid(runs, folder / "out", **how), f"{name} takes", "or more")
    return refused(lambda: run_grid(runs, folder / "out", threads=0), "threads takes 1 or more")


@case("C13", "an address where no scheduler is", 90)
def no_scheduler(folder: Path) -> str:
    grid = grid_writer(folder)(grid={"seed": [0]})
    errors = io.StringIO()
    with redirect_stderr(errors):
        assert main(["grid", str(grid), "-o", str(folder / "out"), "--scheduler", "no-such-scheme://x"]) == 2
    return clear_line(errors.getvalue(), "no Dask scheduler at no-such-scheme://x")
