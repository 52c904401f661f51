"""Headless runs: one notebook (`execute`), many on any executor (`grid`), and what came out of them (`report`).

A *run* is an executed notebook. Nothing here imports torch, and what is heavy is imported when it is asked for: a
notebook that only saves its results does not wait for papermill.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchlib.runs.execute.manifest import save_run as save_run
    from patchlib.runs.execute.runner import RunRecord as RunRecord
    from patchlib.runs.execute.runner import run as run
    from patchlib.runs.execute.saved import SavedRun as SavedRun
    from patchlib.runs.execute.saved import saved_run as saved_run

_HOMES = {"RunRecord": "runner", "run": "runner", "SavedRun": "saved", "saved_run": "saved", "save_run": "manifest"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'patchlib.runs' has no attribute {name!r}; it offers {', '.join(sorted(_HOMES))}")
    return getattr(import_module(f"patchlib.runs.execute.{_HOMES[name]}"), name)
