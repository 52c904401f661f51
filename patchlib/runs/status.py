"""What is known of one run of a grid, on disk: so that a grid that was stopped goes on from there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from patchlib.files import sha256_of
from patchlib.runs.manifest import write_json

STATUS = "status.json"


def now() -> str:
    """The time, as statuses have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_status(folder: Path) -> dict[str, Any]:
    """A run's status, empty where there is none that can be read: the run is then repeated."""
    try:
        found = json.loads((folder / STATUS).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_status(folder: Path, **values: Any) -> dict[str, Any]:
    """Change some of a run's status, and return it."""
    status = read_status(folder) | values
    write_json(folder / STATUS, status)
    return status


def is_over(status: dict[str, Any]) -> bool:
    """Whether a run has ended, well or not; it is planned as "waiting"."""
    return status.get("status") not in ("waiting", "running")


def damage(folder: Path) -> str | None:
    """What is wrong with the files of a run that ended well; None if they are as the manifest has them."""
    manifests = list(folder.glob("*.manifest.json"))
    if not manifests:
        return "its manifest is missing"
    for file in json.loads(manifests[0].read_text("utf-8"))["files"]:
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
        for manifest in folder.glob("*.manifest.json"):
            for model in json.loads(manifest.read_text("utf-8")).get("models", []):
                found.setdefault(str(model["name"]), {}).setdefault(str(model["weights_hash"]), folder.name)
    return found
