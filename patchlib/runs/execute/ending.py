"""When a notebook has ended that runs in a kernel of its own, such as papermill's or a reader's.

Papermill goes from cell to cell at once and ends the kernel behind the last one, whereas a reader stops to read: so a
kernel that is asked to end, or has nothing to do, has come to its notebook's end, and one that was killed never does.
"""

import atexit
import sys
from pathlib import Path
from threading import Timer
from typing import Any

from patchlib._util import first_line
from patchlib.runs.files import read_json, write_json
from patchlib.runs.folder import now

IDLE = 5.0
"""Seconds without a cell after which nobody is taking the notebook through; papermill needs some milliseconds."""
_OPEN: dict[Path, "_Open"] = {}
"""The manifests of this kernel whose notebook has not ended."""


def shell_of_kernel() -> Any:
    """The IPython shell of the notebook that calls; None in a script, or on a terminal."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell if hasattr(shell, "kernel") else None


def is_open(manifest: Path) -> bool:
    """Whether the caller's own notebook wrote a manifest, and goes on: its results are whole, and its end is not."""
    return manifest.resolve() in _OPEN


def close_at_end(manifest: Path) -> None:
    """Have a manifest that says "running" say how the kernel's notebook ended, once it has."""
    manifest = manifest.resolve()
    if manifest in _OPEN:  # saved once more: the text to be closed is another
        _OPEN.pop(manifest).forget()
    _OPEN[manifest] = _Open(manifest)


class _Open:
    """A manifest, until the notebook has ended that wrote it."""

    def __init__(self, manifest: Path) -> None:
        self._manifest, self._written = manifest, manifest.read_bytes()
        self._error: BaseException | None = None
        self._timer = Timer(IDLE, self._end)
        self._events = {"pre_run_cell": self._before_cell, "post_run_cell": self._after_cell}
        for event, call in self._events.items():
            shell_of_kernel().events.register(event, call)
        atexit.register(self._end)

    def _before_cell(self, _: Any) -> None:
        self._timer.cancel()

    def _after_cell(self, result: Any) -> None:
        # The last cell's counts: behind an error goes on only who was told to, by a tag or an option.
        self._error = result.error_before_exec or result.error_in_exec
        self._timer = Timer(IDLE, self._end)
        self._timer.daemon = True
        self._timer.start()

    def forget(self) -> None:
        """Let the notebook end without a word."""
        self._timer.cancel()
        atexit.unregister(self._end)
        for event, call in self._events.items():
            shell_of_kernel().events.unregister(event, call)

    def _end(self) -> None:
        if _OPEN.pop(self._manifest, None) is not self:
            return
        self.forget()
        if not self._manifest.is_file() or self._manifest.read_bytes() != self._written:
            return  # it is another run's by now
        error = self._error and f"{type(self._error).__name__}: {first_line(self._error)}"
        outcome = {"status": "failed" if error else "ok", "error": error, "finished_utc": now()}
        write_json(self._manifest, read_json(self._manifest) | outcome)
