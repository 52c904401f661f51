"""Runs of a grid, many at a time, on anything that is a ``concurrent.futures.Executor``.

Each run is a process of its own (`patchlib.runs.child`), started by a thread here or by a Dask worker elsewhere. All
that is known of it is in its folder, so that a grid may be stopped anywhere and goes on from there.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from patchlib.errors import RunError
from patchlib.model_cache import SMOLLM2, cached_models
from patchlib.runs.grid import Planned
from patchlib.runs.manifest import prepare_folder, write_json
from patchlib.runs.parameters import read_parameters
from patchlib.runs.status import code_hash, damage, models_of, now, read_status, write_status

LOST = 3
"""What `child` returns when the kernel died; a signal's number below 0 when it died itself."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_running: set[subprocess.Popen[str]] = set()


@dataclass(frozen=True)
class Job:
    """What a worker needs to know of a run; plain values, since it may be another machine's."""

    notebook: str
    parameters: dict[str, Any]
    folder: str
    code: str
    threads: int
    retries: int
    timeout: float | None


def run_grid(
    runs: Sequence[Planned],
    out_dir: str | Path = "out",
    executor: Executor | None = None,
    workers: int = 1,
    threads: int | None = None,
    retries: int = 1,
    timeout: float | None = None,
    force: bool = False,
    told: Callable[[dict[str, Any]], None] = lambda status: None,
) -> list[dict[str, Any]]:
    """Run what is not there yet, each run in ``out_dir/runs/NAME``.

    Finished runs whose files are as they were are skipped. Runs that failed, were interrupted or are damaged are
    repeated. A kernel or a worker that dies costs its own run only, which is tried again.

    Args:
        runs: From ``read_grid``.
        out_dir: Made if it is missing.
        executor: Of `concurrent.futures`, such as ``distributed.Client(address).get_executor()``; threads of this
            process when None. Its workers need this Python environment and must see ``out_dir`` under the same path.
        workers: How many runs at a time, without an executor.
        threads: Of each run; the cores here shared among the workers when None, and 1 with an executor.
        retries: How often a run is tried again whose kernel or process died. A cell's error is not tried again.
        timeout: Seconds that a run may take; it then counts as failed.
        force: Also repeat runs that other code, other weights or other parameters made.
        told: Called with the status of each run that ends.

    Returns:
        The status of each run, in the order of ``runs``.

    Raises:
        RunError: A folder that cannot be written, or finished runs that do not go with these.
    """
    folder = prepare_folder(out_dir)
    folders = [folder / "runs" / run.name for run in runs]
    waiting = []
    for run, place in zip(runs, folders, strict=True):
        if not _is_done(run, place, force):
            write_status(
                prepare_folder(place), name=run.name, notebook=run.notebook.stem, status="waiting", error=None,
                attempts=0, parameters=dict(run.parameters), code_hash=code_hash(run.notebook),
            )  # fmt: skip
            waiting.append((run, place))
    write_json(folder / "grid.json", {"planned_utc": now(), "runs": [_plain(run) for run in runs]})
    if waiting:
        _fetch_default_model(run for run, _ in waiting)
        shared = max(1, (os.cpu_count() or 1) // workers) if executor is None else 1
        jobs = [
            Job(
                notebook=str(run.notebook), parameters=dict(run.parameters), folder=str(place),
                code=code_hash(run.notebook), threads=threads or shared, retries=retries, timeout=timeout,
            )
            for run, place in waiting
        ]  # fmt: skip
        _run_all(jobs, executor or ThreadPoolExecutor(workers), told)
    _check_models(folders)
    return [read_status(place) for place in folders]


def _plain(run: Planned) -> dict[str, Any]:
    return {"name": run.name, "notebook": str(run.notebook), "parameters": dict(run.parameters)}


def _is_done(run: Planned, folder: Path, force: bool) -> bool:
    """Whether a run is there, valid and made by this code; RunError where it is another's."""
    status = read_status(folder)
    if status.get("status") != "ok" or damage(folder):
        return False
    made = {"parameters": dict(run.parameters), "code_hash": code_hash(run.notebook)}
    other = [key for key, value in made.items() if status.get(key) != value]
    if other and not force:
        what = "other parameters" if "parameters" in other else "other code (patchlib's or the notebook's)"
        raise RunError(f"{run.name} in {folder.parents[1]} was made by {what}; take another folder, or --force")
    return not other


def _check_models(folders: Iterable[Path]) -> None:
    done = [folder for folder in folders if read_status(folder).get("status") == "ok"]
    for name, hashes in models_of(done).items():
        if len(hashes) > 1:
            raise RunError(
                f"{name} had other weights in {' than in '.join(list(hashes.values())[:2])}: the runs do not compare; "
                "delete those made by the wrong ones and run the grid again"
            )


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


def _run_all(jobs: Sequence[Job], executor: Executor, told: Callable[[dict[str, Any]], None]) -> None:
    futures: list[Future[dict[str, Any]]] = []
    try:
        futures += [executor.submit(run_job, asdict(job)) for job in jobs]
        for future in as_completed(futures):
            told(future.result())
    except BaseException:  # Ctrl-C, a full disk: nothing new is begun, and what runs here is ended
        for future in futures:
            future.cancel()
        for child in list(_running):
            with suppress(ProcessLookupError):
                child.send_signal(signal.SIGINT)
        raise
    finally:
        if isinstance(executor, ThreadPoolExecutor):
            executor.shutdown(cancel_futures=True)


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """One run in a child process, tried again where it was lost; its status, which is on disk too."""
    one, attempts = Job(**job), 0
    folder = Path(one.folder)
    if (status := read_status(folder)).get("status") == "ok" and not damage(folder):
        return status  # Dask computes again what a lost worker had finished; before a run its status is "waiting"
    while True:
        attempts += 1
        started, begin = now(), time.monotonic()
        write_status(folder, status="running", error=None, attempts=attempts, started_utc=started, code_hash=one.code)
        code, error = _child(one, folder)
        ended = {0: "ok", -signal.SIGINT: "interrupted", None: "timeout"}.get(code, "failed")
        lost = code is not None and (code == LOST or (code < 0 and code != -signal.SIGINT))
        if not lost or attempts > one.retries:
            break
    manifest = _manifest(folder)
    return write_status(
        folder, status=ended, error=None if ended == "ok" else manifest.get("error") or error, finished_utc=now(),
        wall_time_s=round(time.monotonic() - begin, 2), peak_memory_mb=manifest.get("peak_memory_mb"),
    )  # fmt: skip


def _manifest(folder: Path) -> dict[str, Any]:
    found = list(folder.glob("*.manifest.json"))
    return json.loads(found[0].read_text("utf-8")) if found else {}


def _child(job: Job, folder: Path) -> tuple[int | None, str]:
    """The exit code of a run's process, None if its time was over; and the last line of its log."""
    environment = {**os.environ, **dict.fromkeys(_THREADS, str(job.threads))}
    for stale in folder.glob("*.manifest.json"):
        stale.unlink()
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "patchlib.runs.child"], stdin=subprocess.PIPE, stdout=log, stderr=log, text=True,
            env=environment,
        )  # fmt: skip
        _running.add(child)
        try:
            assert child.stdin is not None
            with suppress(BrokenPipeError):  # it died at once; its exit code says so
                child.stdin.write(json.dumps({**asdict(job)}) + "\n")
                child.stdin.flush()
            code: int | None = child.wait(job.timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(child)
            _running.discard(child)
    if code is None:
        return None, f"took longer than {job.timeout:g} s"
    lines = (folder / "log.txt").read_text("utf-8", errors="replace").split("\n")
    said = [line for line in lines if line.strip()]
    return code, said[-1] if said else f"its process ended with code {code}"


def _end(child: subprocess.Popen[str]) -> None:
    """Kill what is left of a run: its process and its kernel."""
    if child.poll() is None:
        with suppress(psutil.NoSuchProcess):
            for process in [*psutil.Process(child.pid).children(recursive=True), child]:
                process.kill()
        child.wait()
    if child.stdin:
        child.stdin.close()
