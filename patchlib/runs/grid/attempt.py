"""One run of a grid on a worker: its process, its time limit, its attempts, and its status on disk.

`run_job` is what an executor is given. The run itself is a child process (`patchlib.runs.grid.child`), so that one that
takes too much memory, hangs or crashes costs neither its worker nor another run anything.
"""

import json
import os
import platform
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Any

import psutil

from patchlib.errors import RunError
from patchlib.runs.folder import OK, RunFolder, now

LOST = 3
"""What `child` returns when the kernel died; a signal's number below 0 when it died itself."""
POLL = 0.5
"""Seconds between two looks at whether a run is still wanted."""
SEEN = 20.0
"""Seconds in which a worker must see what the grid wrote; network disks take some."""
GRACE = 10.0
"""Seconds that an interrupted run has for its page and manifest before it is killed."""
_CHILD = [sys.executable, "-m", "patchlib.runs.grid.child"]
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


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


@dataclass(frozen=True)
class _Ended:
    """How a child ended: a status, what it said, and whether it was lost rather than failed."""

    status: str
    error: str | None = None
    lost: bool = False


def run_job(job: dict[str, Any], stop: Event | None = None) -> dict[str, Any]:
    """One run in a child process, tried again where it was lost.

    Args:
        job: A `Job` as a dictionary.
        stop: Set by who runs this in a thread of his own, to interrupt it. Elsewhere, a run ends when somebody else
            writes its status: one who interrupts the grid, or runs it again.

    Returns:
        The run's status, which is on disk too.

    Raises:
        RunError: The run's folder cannot be seen or written from here: no other run of the grid can be kept either.
    """
    work, token = Job(**job), uuid.uuid4().hex
    path = Path(work.folder)
    planned = _planned(path)
    if planned.is_over:
        return planned.status  # Dask asks again for what it had and lost with its worker; or the grid was interrupted
    before = planned.status.get("attempts") or 0  # of a worker that was lost
    for attempt in range(1, work.retries + 2):
        mine = {"attempts": before + attempt, "started_utc": now(), "code_hash": work.code, "token": token}
        begun = planned.update(unless_over=attempt == 1, status="running", error=None, **mine)
        if begun.get("token") != token:  # the grid was interrupted at this moment
            return begun
        begin = time.monotonic()
        try:
            ended = _child(work, path, token, stop, again=attempt > 1)
        except OSError as error:
            raise RunError(f"cannot run in {path}: {error.strerror or error}") from error
        if not ended.lost:
            break
    left = RunFolder(path)
    if ended.status == OK and left.manifest.get("code_hash") != work.code:
        ended = _Ended("failed", "patchlib or the notebook changed during this run; run the grid again")
    if _is_disowned(path, token):
        return left.status
    said = None if ended.status == OK else left.manifest.get("error") or ended.error
    took: dict[str, Any] = {
        "wall_time_s": round(time.monotonic() - begin, 2),
        "peak_memory_mb": left.manifest.get("peak_memory_mb"),
    }
    return left.update(status=ended.status, error=said, finished_utc=now(), token=None, **took)


def _planned(path: Path) -> RunFolder:
    """The run's folder, whose status the grid wrote before it gave the run away."""
    end = time.monotonic() + SEEN
    while not (folder := RunFolder(path)).status:
        if time.monotonic() > end:
            raise RunError(
                f"the worker on {platform.node()} cannot read {path}, where the grid keeps this run; "
                "workers must see the grid's folder under the same path"
            )
        time.sleep(POLL)
    return folder


def _is_disowned(path: Path, token: str) -> bool:
    """Whether somebody else has written the run's status: one who interrupted the grid, or runs it again."""
    return bool(RunFolder(path).status.get("token", token) != token)


def _child(job: Job, path: Path, token: str, stop: Event | None, again: bool) -> _Ended:
    folder = RunFolder(path)
    folder.clean()
    environment = {**os.environ, **dict.fromkeys(_THREADS, str(job.threads))}
    if "distributed" in sys.modules:  # Dask's workers keep their own memory small with it; a run is half as slow again
        environment.pop("MALLOC_TRIM_THRESHOLD_", None)
    with (path / "log.txt").open("a" if again else "w", encoding="utf-8") as log:
        child = subprocess.Popen(_CHILD, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, env=environment)
        try:
            assert child.stdin is not None
            with suppress(BrokenPipeError):  # it died at once; its exit code says so
                child.stdin.write(json.dumps(asdict(job)) + "\n")
                child.stdin.flush()
            cut_short = _wait(child, job, path, token, stop)
        finally:
            _end(child)
    if cut_short:
        if RunFolder(path).status.get("token") in (None, token):  # or another is at work there by now
            folder.clean(manifests=False)
        return cut_short
    if child.returncode in (0, -signal.SIGINT):
        return _Ended(OK if child.returncode == 0 else "interrupted")
    error = folder.last_words() or f"its process ended with code {child.returncode}"
    return _Ended("failed", error, lost=child.returncode == LOST or child.returncode < 0)


def _wait(child: subprocess.Popen[str], job: Job, path: Path, token: str, stop: Event | None) -> _Ended | None:
    """Until the child ends by itself (None), its time is over, or nobody wants it any more."""
    begin = time.monotonic()
    while True:
        with suppress(subprocess.TimeoutExpired):
            child.wait(POLL)
            return None
        if job.timeout is not None and time.monotonic() - begin > job.timeout:
            return _Ended("timeout", f"took longer than {job.timeout:g} s")
        if _is_disowned(path, token):  # at once: another may be at work in this folder
            return _Ended("interrupted", "interrupted")
        if stop is not None and stop.is_set():
            kernel = _offspring(child)  # which an interrupted papermill leaves to notice that by itself
            child.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                child.wait(GRACE)
            _kill(kernel)
            return _Ended("interrupted", "interrupted")


def _end(child: subprocess.Popen[str]) -> None:
    """Kill what is left of a run: its process and its kernel."""
    if child.poll() is None:
        _kill(_offspring(child))
        child.kill()
        child.wait()
    if child.stdin:
        with suppress(BrokenPipeError):
            child.stdin.close()


def _offspring(child: subprocess.Popen[str]) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(child.pid).children(recursive=True)
    return []


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
