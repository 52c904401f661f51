"""Manifests, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from patchlib import __version__
from patchlib.errors import RunError

_PACKAGES = ("torch", "transformer-lens", "transformers")


def new_manifest(stem: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with all its keys, of which only the running notebook can fill some."""
    return {
        "notebook": stem,
        "status": "ok",
        "parameters": dict(parameters),
        "models": [],
        "versions": {"patchlib": __version__}
        | {package: installed_version(package) for package in _PACKAGES}
        | {"python": platform.python_version(), "platform": platform.platform()},
        "wall_time_s": None,
        "peak_memory_mb": None,
        "threads": None,
        "files": [],
        "finished_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "repeat": repeat_command(stem, parameters),
    }


def repeat_command(name: str, parameters: Mapping[str, Any]) -> str:
    """Return the command line that repeats a run, whatever folder it writes to."""
    chosen = {key: value for key, value in parameters.items() if key != "out_dir"}
    options = [word for key, value in chosen.items() for word in ("-p", key, str(value))]
    return shlex.join(["patchlib", "run", name, *options])


def installed_version(package: str) -> str | None:
    """Return the version of an installed distribution, or None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def process_age() -> float:
    """Return the seconds since this process started."""
    stat = Path("/proc/self/stat")
    if stat.is_file():
        # Not psutil's create_time: on Linux it knows the boot time to a whole second only.
        ticks = int(stat.read_text().rsplit(")", 1)[1].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - psutil.Process().create_time()


def peak_memory() -> int:
    """Return the most memory this process has held at once, in bytes."""
    # Not ru_maxrss where it can be helped: on Linux a child starts with its parent's.
    status = Path("/proc/self/status")
    high_water = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.is_file() else None
    if high_water:
        return 1024 * int(high_water[1])
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def prepare_folder(out_dir: str | Path) -> Path:
    """Make the folder if it is missing, try to write in it, and return its absolute path."""
    folder = Path(out_dir).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise RunError(f"cannot write to the output folder {folder}: {error.strerror}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block ends well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a JSON file and return its path."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    return path


def describe_file(path: Path) -> dict[str, Any]:
    """Return name, size in bytes and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest}
