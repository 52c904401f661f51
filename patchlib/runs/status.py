"""What is known of one run of a grid, on disk: so that a grid that was stopped goes on from there."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from patchlib._util import sha256_of
from patchlib.errors import RunError
from patchlib.runs.manifest import read_json, write_json

STATUS = "status.json"


def now() -> str:
    """The time, as statuses have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def duration(seconds: float) -> str:
    """A time as commands and pages say it."""
    return f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 60:,.0f} min"


def read_status(folder: Path) -> dict[str, Any]:
    """A run's status, empty where there is none that can be read: the run is then repeated."""
    try:
        return read_json(folder / STATUS)
    except RunError:
        return {}


def write_status(folder: Path, **values: Any) -> dict[str, Any]:
    """Change some of a run's status, and return it."""
    status = read_status(folder) | values
    write_json(folder / STATUS, status)
    return status


def is_over(status: dict[str, Any]) -> bool:
    """Whether a run has ended, well or not; it is planned as "waiting"."""
    return status.get("status") in ("ok", "failed", "timeout", "interrupted")


def manifest_of(folder: Path, status: dict[str, Any]) -> Path:
    """The manifest of a grid's run with this status."""
    stem = status.get("notebook", folder.name.partition(",")[0])
    return folder / f"{stem}.manifest.json"


def damage(folder: Path) -> str | None:
    """What is wrong with the files of a run that ended well; None if they are as the manifest has them."""
    try:
        files = read_json(manifest_of(folder, read_status(folder)))["files"]
    except RunError as error:
        return str(error)
    for file in files:
        path = folder / file["name"]
        if not path.is_file():
            return f"{path.name} is missing"
        if sha256_of(path) != file["sha256"]:
            return f"{path.name} was changed"
    return None


def models_of(folders: Iterable[Path]) -> dict[str, dict[str, str]]:
    """The models of finished runs: name -> hash of the weights -> a run that used them."""
    found: dict[str, dict[str, str]] = {}
    for folder in folders:
        models: list[dict[str, Any]] = []
        if (status := read_status(folder)).get("status") == "ok":
            with suppress(RunError):  # a damaged run is made again
                models = read_json(manifest_of(folder, status))["models"]
        for model in models:
            found.setdefault(str(model["name"]), {}).setdefault(str(model["weights_hash"]), folder.name)
    return found
