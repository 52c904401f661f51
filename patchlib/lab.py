"""JupyterLab on a copy of the notebooks: those that come with patchlib stay as they are."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from patchlib.errors import RunError
from patchlib.runs.manifest import prepare_folder, replacing
from patchlib.runs.notebooks import find_notebooks


@dataclass(frozen=True)
class Copies:
    """What became of each notebook: `new` were copied, `same` were there already, `kept` are the user's own."""

    folder: Path
    new: tuple[str, ...]
    same: tuple[str, ...]
    kept: tuple[str, ...]


def copy_notebooks(folder: str | Path = "patchlib-notebooks") -> Copies:
    """Copy the notebooks that come with patchlib to a folder, where one can change and run them.

    A file that differs from ours, be it only because it was run, is never overwritten.

    Args:
        folder: Made if it is missing.

    Raises:
        RunError: The folder cannot be written.
    """
    target = prepare_folder(folder)
    found: dict[str, list[str]] = {"new": [], "same": [], "kept": []}
    for ours in find_notebooks():
        theirs = target / ours.name
        if not theirs.exists():
            with replacing(theirs) as temporary:
                shutil.copyfile(ours, temporary)
            found["new"].append(ours.name)
        elif theirs.is_file() and theirs.read_bytes() == ours.read_bytes():
            found["same"].append(ours.name)
        else:
            found["kept"].append(ours.name)
    return Copies(target, **{kind: tuple(names) for kind, names in found.items()})


def open_lab(folder: str | Path, arguments: Sequence[str] = ()) -> None:
    """Run JupyterLab in a folder until it is stopped.

    Args:
        folder: What it shows.
        arguments: Of ``jupyter lab``, such as ``["--no-browser", "--port=8899"]``.

    Raises:
        RunError: JupyterLab does not take the arguments, or cannot start.
    """
    from jupyterlab.labapp import LabApp  # half a second, which who only copies need not wait for

    try:
        LabApp.launch_instance([f"--ServerApp.root_dir={folder}", *arguments])
    except SystemExit as error:  # what a port that is taken, or an option that it does not know, ends in
        if error.code:
            raise RunError(f"JupyterLab could not start in {folder}; it said why above") from error
