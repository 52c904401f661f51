"""Runs of a grid, many at a time, on anything that is a ``concurrent.futures.Executor``.

Each run is a process of its own (`patchlib.runs.grid.attempt`), started by a thread here or by a Dask worker
elsewhere. All that is known of it is in its folder, so that a grid may be stopped anywhere and goes on from there.
"""

import os
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import Any

from filelock import FileLock, Timeout

from patchlib._util import first_line, is_index, versions
from patchlib.errors import RunError
from patchlib.models.cache import cached_models
from patchlib.models.default import SMOLLM2
from patchlib.runs.execute.parameters import read_parameters
from patchlib.runs.execute.provenance import code_hash
from patchlib.runs.files import prepare_folder, write_json
from patchlib.runs.folder import RunFolder, now
from patchlib.runs.grid.attempt import Job, run_job
from patchlib.runs.grid.finished import check_models, run_folders, unfinished
from patchlib.runs.grid.plan import Planned
from patchlib.runs.grid.workers import WAIT, Waiting, Workers

WINDOW = 256
"""Runs that an executor is given at a time: more than most have workers, few for the memory of a night's driver."""

Told = Callable[[dict[str, Any]], None]


def run_grid(
    runs: Sequence[Planned],
    out_dir: str | Path = "out",
    executor: Any = None,
    workers: int = 1,
    threads: int | None = None,
    retries: int = 1,
    timeout: float | None = None,
    force: bool = False,
    told: Told = lambda status: None,
    wait: float = WAIT,
) -> list[dict[str, Any]]:
    """Run what is not there yet, each run in ``out_dir/runs/NAME``.

    Finished runs whose files are as they were are skipped. Runs that failed, were interrupted or are damaged are
    repeated. A kernel or a worker that dies costs its own run only, which is tried again.

    Args:
        runs: From ``read_grid``.
        out_dir: Made if it is missing.
        executor: A ``concurrent.futures.Executor``, such as ``distributed.Client(address).get_executor()``, or what
            has its ``submit`` and gives jobs with a ``result``, such as submitit's; threads of this process when None.
            Its workers need this Python environment and must see ``out_dir`` under the same path. A function that
            makes one is called again when it breaks, as a ProcessPoolExecutor does with a worker.
        workers: How many runs at a time, without an executor.
        threads: Of each run; the cores here shared among the workers when None, and 1 with an executor.
        retries: How often a run is tried again whose kernel or process died. A cell's error is not tried again.
        timeout: Seconds that a run may take; its status is then "timeout".
        force: Also repeat runs that other code, other weights or other parameters made.
        told: Called with the status of each run that ends.
        wait: Seconds that a Dask scheduler may be without a worker, at first or later.

    Returns:
        The status of each run, in the order of ``runs``.

    Raises:
        RunError: A folder that cannot be written or that another grid is at work in, finished runs that do not go
            with these, what is no executor, or a Dask scheduler without workers, or with one that lacks patchlib.

    Example:
        >>> import json
        >>> from nbformat.v4 import new_code_cell, new_notebook
        >>> cells = [new_code_cell("n: int = 1", metadata={"tags": ["parameters"]}), new_code_cell("print(1 / n)")]
        >>> _ = (tmp_path / "divide.ipynb").write_text(json.dumps(new_notebook(cells=cells)))
        >>> _ = (tmp_path / "grid.yaml").write_text("{notebooks: [divide.ipynb], grid: {n: [0, 2]}}")
        >>> runs = patchlib.read_grid(tmp_path / "grid.yaml")
        >>> [(status["name"], status["status"]) for status in patchlib.run_grid(runs, tmp_path / "out", workers=2)]
        [('divide,n=0', 'failed'), ('divide,n=2', 'ok')]
    """
    check_settings(workers=workers, threads=threads, retries=retries, timeout=timeout, wait=wait)
    make, is_ours = _maker(executor, workers)
    if not isinstance(runs, Sequence) or not all(isinstance(run, Planned) for run in runs):
        raise RunError(f"runs takes what `read_grid` gives, not {runs!r:.200}")
    folder = prepare_folder(out_dir)
    places = {run.name: folder / "runs" / run.name for run in runs}
    with _alone(folder):
        waiting = unfinished(runs, folder, force)
        available = Workers(executor, wait)
        if waiting:
            available.check()
        codes = {notebook: code_hash(notebook) for notebook in {run.notebook for run in waiting}}
        for run in waiting:
            RunFolder(prepare_folder(places[run.name])).update(**_planned(run, codes[run.notebook]))
        plans = [asdict(run) | {"notebook": str(run.notebook)} for run in runs]
        made = {"planned_utc": now(), "versions": versions(), "code_hash": code_hash()}
        write_json(folder / "grid.json", made | {"runs": plans})
        if waiting:
            _fetch_default_model(waiting)
            shared = max(1, _cores() // workers) if executor is None else 1
            how: dict[str, Any] = {"threads": threads or shared, "retries": retries, "timeout": timeout}
            jobs = [
                Job(str(run.notebook), dict(run.parameters), str(places[run.name]), codes[run.notebook], **how)
                for run in waiting
            ]
            _run_all(jobs, make, is_ours, available, told, retries, Event() if executor is None else None)
        check_models(map(RunFolder, places.values()) if force else run_folders(folder))
        return [RunFolder(place).status for place in places.values()]


def _planned(run: Planned, code: str) -> dict[str, Any]:
    """The status of a run that is to be made, with nothing left of one before."""
    status = {"name": run.name, "notebook": run.notebook.stem, "parameters": dict(run.parameters), "code_hash": code}
    unknown = dict.fromkeys(("error", "token", "finished_utc", "wall_time_s", "peak_memory_mb"))
    made = {"package_hash": code_hash(), "data_hash": run.data_hash}
    return status | unknown | made | {"status": "waiting", "attempts": 0}


def check_settings(**settings: float | None) -> None:
    """RunError where workers, threads, retries, timeout or wait cannot be; None is left to `run_grid`."""
    for name, least in {"workers": 1, "threads": 1, "retries": 0, "timeout": 1, "wait": 0}.items():
        value = settings.get(name)
        is_number = isinstance(value, int | float) if name in ("timeout", "wait") else is_index(value)
        if value is not None and not (is_number and value >= least):
            raise RunError(f"{name} takes {least} or more, not {value!r}")


def _alone(folder: Path) -> AbstractContextManager[Any]:
    """No other grid at the same time in a folder: each would take the other's runs for orphans."""
    try:
        return FileLock(folder / ".grid.lock").acquire(blocking=False)
    except Timeout as error:
        raise RunError(f"another grid is at work in {folder}; wait until it ends, or take another folder") from error


def _cores() -> int:
    """Those that this process may use: a batch system or a container gives a part of the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fetch_default_model(runs: Iterable[Planned]) -> None:
    """Once, before all workers ask for it."""
    wanted = any(
        {**read_parameters(run.notebook, {})[0], **run.parameters}.get("model_name") == SMOLLM2.name for run in runs
    )
    if wanted and SMOLLM2.name not in [model.name for model in cached_models()]:
        # In a process of its own: the import of torch would stay in this one for the whole night.
        fetch = [sys.executable, "-m", "patchlib.cli", "models", "--fetch", SMOLLM2.name]
        if subprocess.run(fetch).returncode:
            raise RunError(f"{SMOLLM2.name} could not be fetched, see above; nothing was run")


def _maker(executor: Any, workers: int) -> tuple[Callable[[], Executor], bool]:
    """What makes the executor, and whether it is ours: to be closed at the end, and made again when it breaks."""
    if executor is None:
        return lambda: ThreadPoolExecutor(workers), True
    if isinstance(executor, Executor):
        return lambda: executor, False
    if callable(executor):
        return executor, True
    if hasattr(executor, "submit"):
        return lambda: Waiting(executor), True
    raise RunError(f"executor takes what can `submit`, or a function that makes it, not {type(executor).__name__}")


def _run_all(
    jobs: Iterable[Job],
    make: Callable[[], Executor],
    is_ours: bool,
    available: Workers,
    told: Told,
    retries: int,
    stop: Event | None,
) -> None:
    """Keep an executor busy. What it had begun when it broke, or lost with a worker, counts as one try of that run."""
    pool, todo, running = make(), deque(jobs), dict[Future[dict[str, Any]], Job]()
    tries, progress = Counter[str](), False
    try:
        while todo or running:
            try:
                while todo and len(running) < WINDOW:
                    future = pool.submit(run_job, asdict(todo[0]), *([stop] if stop else []))
                    running[future] = todo.popleft()
            except futures.BrokenExecutor as error:
                if not running:
                    if not (is_ours and progress):
                        said = f"the executor broke ({first_line(error)})"
                        raise RunError(f"{said}; what had finished is kept: run the grid again") from error
                    pool, progress = make(), False
                    continue
            available.look()
            for future in futures.wait(running, available.patience, return_when=futures.FIRST_COMPLETED).done:
                job, fault = running.pop(future), futures.CancelledError() if future.cancelled() else future.exception()
                if isinstance(fault, RunError):
                    raise fault
                folder = RunFolder(Path(job.folder))
                progress |= folder.status.get("status") != "waiting"
                if fault is None or folder.is_over:  # though its answer may have been lost with its worker
                    told(future.result() if fault is None else folder.status)
                    continue
                was_begun = folder.status.get("status") == "running"
                tries[job.folder] += was_begun or not isinstance(fault, futures.BrokenExecutor)
                if tries[job.folder] <= retries:
                    todo.append(job)
                else:
                    lost = f"its worker {'lacks a module' if isinstance(fault, ImportError) else 'was lost'}"
                    lost += f" ({first_line(fault)})"
                    told(folder.update(status="failed", error=lost, finished_utc=now(), token=None))
    except BaseException:  # Ctrl-C, a full disk: nothing new is begun, and what runs is ended
        if stop:
            stop.set()
        for future, job in running.items():
            future.cancel()
            folder = RunFolder(Path(job.folder))
            if not stop and not folder.is_over:  # one that waits in a queue may begin yet, and would find itself ended
                folder.update(status="interrupted", error="interrupted", token=None)
        raise
    finally:
        if is_ours:
            pool.shutdown(cancel_futures=True)
