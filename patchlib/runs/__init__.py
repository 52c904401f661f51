"""Headless runs: papermill executes notebooks; each gets a page, saved results and a manifest, all get an index."""

from __future__ import annotations

from typing import Any

from patchlib.runs.manifest import save_run as save_run
from patchlib.runs.saved import SavedRun as SavedRun
from patchlib.runs.saved import saved_run as saved_run


def __getattr__(name: str) -> Any:
    if name not in ("RunRecord", "run"):
        raise AttributeError(
            f"module 'patchlib.runs' has no attribute {name!r}; it offers RunRecord, run, save_run, saved_run"
        )
    # Only now, because a notebook that just saves its results should not wait for papermill's import.
    from patchlib.runs import execute

    return getattr(execute, name)
