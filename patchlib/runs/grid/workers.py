"""Who executes runs elsewhere: whether Dask's workers are there and have this patchlib, and jobs of batch systems."""

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from importlib.util import find_spec
from threading import Thread
from typing import Any

from patchlib import __version__
from patchlib._util import first_line
from patchlib.errors import RunError
from patchlib.runs.execute.provenance import code_hash

WAIT = 300.0
"""Seconds that a scheduler may be without a worker: those of a batch system take minutes to come."""
LOOK = 5.0
"""Seconds between two looks at whether there are workers."""
_NEEDED = ("papermill", "ipykernel", "nbclient", "nbconvert", "plotly", "torch", "transformer_lens", "xarray")
# Text, because a function of ours could not be read by a worker that lacks patchlib; this it answers with an error.
_ASK = "__import__('patchlib.runs.grid.workers', fromlist=['equipment']).equipment()"


def equipment() -> dict[str, Any]:
    """What a worker has of that which a run needs."""
    lacking = [name for name in _NEEDED if find_spec(name) is None]
    return {"version": __version__, "code_hash": code_hash(), "lacking": lacking}


class Workers:
    """Those of an executor; only Dask's can be asked, all others are believed."""

    def __init__(self, executor: Any, wait: float) -> None:
        client = getattr(executor, "_client", None)
        self._client = client if hasattr(client, "nthreads") else None
        self._wait, self._seen = wait, time.monotonic()
        self.patience = LOOK if self._client else None

    def check(self) -> None:
        """Wait for the first; RunError where none comes, or one lacks what a run needs, which is then said."""
        if self._client is None:
            return
        while not self._are_there():
            self.look()
            time.sleep(min(LOOK, self._wait) / 10)
        for worker, has in self._client.run(eval, _ASK, on_error="return").items():
            if isinstance(has, BaseException):
                lack = f"cannot import patchlib ({first_line(has)})"
            elif has["code_hash"] != code_hash():
                lack = f"has another patchlib ({has['version']}, code {has['code_hash']}) than is here"
            elif has["lacking"]:
                lack = f"lacks {', '.join(has['lacking'])}"
            else:
                continue
            mend = f"it needs patchlib {__version__}, code {code_hash()}, with all that it depends on"
            raise RunError(f"the worker {worker} {lack}; {mend}")

    def look(self) -> None:
        """RunError once there has been no worker for as long as one waits."""
        if self._client is None or self._are_there():
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > self._wait:
            said = f"the scheduler {self._client.scheduler.address} has had no worker for {self._wait:g} s"
            raise RunError(f"{said}; what had finished is kept: start workers, or wait longer (--wait)")

    def _are_there(self) -> bool:
        assert self._client is not None
        try:
            return bool(self._client.nthreads())
        except (OSError, ValueError, TimeoutError):  # the scheduler is gone, which may come back
            return False


class Waiting(Executor):
    """An executor whose jobs are no futures, as one of ``concurrent.futures``: for each, a thread waits.

    The threads are no pool's, whose threads a process waits for at its end: a job may stand in a queue for hours.
    """

    def __init__(self, other: Any) -> None:
        self._other = other
        self._jobs: dict[Future[Any], Any] = {}

    def submit(self, function: Callable[..., Any], /, *values: Any) -> Future[Any]:  # type: ignore[override]
        """Give a job away, and a thread to wait for it."""
        future = Future[Any]()
        self._jobs[future] = job = self._other.submit(function, *values)
        future.set_running_or_notify_cancel()

        def follow() -> None:
            try:
                future.set_result(job.result())
            except BaseException as error:  # whatever the job ended with
                future.set_exception(error)
            finally:
                del self._jobs[future]

        Thread(target=follow, daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel what has not ended, where jobs can be: in a queue it would begin when nobody waits for it."""
        for job in list(self._jobs.values()):
            if hasattr(job, "cancel"):
                job.cancel()
