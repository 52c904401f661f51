"""Files that appear whole or not at all, and folders that can be written."""

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from patchlib._util import first_line
from patchlib.errors import RunError

LONGEST = 200
"""Bytes of a temporary file's name that are its file's; most disks take 255 in all."""


def prepare_folder(out_dir: str | Path) -> Path:
    """Make the folder if it is missing, try to write in it, and return its absolute path."""
    try:
        folder = Path(out_dir).resolve()
        str(folder).encode()  # pages, manifests and notebooks are UTF-8, and name the folder
        scheme = next((part for part in folder.parts if re.fullmatch(r"[A-Za-z][\w+.-]+:", part)), None)
        if scheme is None:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            return folder
    except (OSError, TypeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise RunError(f"cannot write to the output folder {ascii(str(out_dir))[1:-1]}: {reason}") from error
    raise RunError(f"{out_dir} is an address ({scheme}//...) and no folder: write to a disk, and copy from there")


@contextmanager
def alone(folder: Path, name: str, wait: float = 0) -> Iterator[None]:
    """Hold what a notebook writes in a folder; RunError where another process does, and still does after `wait` s."""
    lock = FileLock(folder / f".{name}.manifest.json.lock", timeout=wait)  # as long a name as any that will come
    try:
        lock.acquire()
    except Timeout as error:
        mend = "wait until it ends, or take another folder"
        raise RunError(f"another run of {name} is at work in {folder}; {mend}") from error
    except OSError as error:
        raise RunError(f"cannot write {lock.lock_file}: {error.strerror or error}") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # while it is held: who waits for it then makes a new one
        lock.release()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block ends well."""
    short = os.fsencode(path.name)[:LONGEST].decode(errors="ignore")
    temporary = path.with_name(f".{short}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())  # or a machine that goes down leaves an empty file in its place
        os.replace(temporary, path)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file of ours holds; empty where it is missing or damaged, which its reader takes for the same."""
    if not os.path.isfile(path):  # a pipe of that name would be waited for
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):  # the last where somebody nested it a thousand deep
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a JSON file and return its path."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    return path
