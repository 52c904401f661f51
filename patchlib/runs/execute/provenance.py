"""Where numbers come from: the code, the state of its checkout, the machine, the seeds."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import psutil

PACKAGE = Path(__file__).parents[2]


def provenance(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says of this: ``code_hash`` (of patchlib alone), ``git``, ``hardware`` and ``seeds``."""
    seeds = {name: value for name, value in parameters.items() if re.fullmatch(r"(\w+_)?seed", name)}
    return {"code_hash": code_hash(), "git": git_state(), "hardware": hardware(), "seeds": seeds}


def code_hash(notebook: Path | None = None) -> str:
    """A hash of patchlib's source and, if given, of a notebook's code and of the modules beside it that it imports."""
    digest = _package_digest().copy()
    if notebook:  # read each time: it may change between two calls, and what this process imported does not
        content = json.loads(notebook.read_text("utf-8"))
        # Until nbformat 3 notebooks had sheets, and code cells "input".
        cells = content.get("cells") or [cell for sheet in content.get("worksheets", []) for cell in sheet["cells"]]
        codes = (cell for cell in cells if cell["cell_type"] == "code")
        sources = ["".join(cell.get("source", cell.get("input", ""))) for cell in codes]
        digest.update(json.dumps(sources + _beside(notebook.parent, sources)).encode())
    return digest.hexdigest()[:16]


def _beside(folder: Path, sources: list[str]) -> list[str]:
    """The source of the modules and packages of a folder that these sources import, and of those that they import."""
    found: dict[Path, str] = {}
    todo = list(sources)
    while todo:
        for name in re.findall(r"^\s*(?:from|import)\s+(\w+)", todo.pop(), re.MULTILINE):
            for path in sorted([folder / f"{name}.py", *(folder / name).rglob("*.py")]):
                if path.is_file() and path not in found:
                    found[path] = path.read_text("utf-8", errors="replace")
                    todo.append(found[path])
    return [found[path] for path in sorted(found)]


@cache
def _package_digest() -> hashlib._Hash:
    digest = hashlib.sha256()
    for path in sorted([*PACKAGE.rglob("*.py"), *PACKAGE.glob("tasks/*.yaml")]):  # other words make other prompts
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + path.read_bytes())
    return digest


def git_state(checkout: Path = PACKAGE.parent) -> dict[str, Any] | None:
    """The commit of patchlib's checkout, and whether tracked files differ from it; None where it was installed."""
    if not (checkout / ".git").exists():  # or git would take somebody's repository around an environment for ours
        return None

    describe = ["git", "-C", str(checkout), "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty"]
    try:
        told = subprocess.check_output(describe, stderr=subprocess.DEVNULL, text=True)
        commit, _, dirty = told.strip().partition("-")
        return {"commit": commit, "dirty": bool(dirty)}
    except (OSError, subprocess.CalledProcessError):  # no git here, or a checkout that it does not trust
        return None


def hardware() -> dict[str, Any]:
    """The processor, its logical cores, memory (GB of 2**30 bytes), and the GPUs that torch sees if it was imported."""
    gpus: list[str] = []
    if (torch := sys.modules.get("torch")) and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    memory = round(psutil.virtual_memory().total / 2**30, 1)
    return {"cpu": _cpu(), "cores": os.cpu_count(), "memory_gb": memory, "gpu": ", ".join(gpus) or None}


def _cpu() -> str:
    linux = Path("/proc/cpuinfo")  # where Python's own answer is only the architecture
    found = re.search(r"^model name\s*:\s*(.+)$", linux.read_text(), re.MULTILINE) if linux.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()
