"""Headless runs: papermill executes notebooks; each gets a page, saved results and a manifest, all get an index."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from patchlib.runs.manifest import save_run as save_run

# Only when asked for: a notebook that just saves its results should not wait for papermill, nor a report for torch.
_HOMES = {"RunRecord": "execute", "run": "execute", "SavedRun": "saved", "saved_run": "saved"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        offered = ", ".join(sorted([*_HOMES, "save_run"]))
        raise AttributeError(f"module 'patchlib.runs' has no attribute {name!r}; it offers {offered}")
    return getattr(import_module(f"patchlib.runs.{_HOMES[name]}"), name)
