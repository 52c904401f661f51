"""JupyterLab on a copy of the notebooks: those that come with patchlib stay as they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from patchlib.errors import RunError
from patchlib.runs.execute.notebooks import notebook_folder, stand_alone
from patchlib.runs.files import prepare_folder, replacing


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

    Returns:
        The folder, and the names of the notebooks that were copied, were there already, or are kept as they are.

    Raises:
        RunError: The folder cannot be written.

    Example:
        >>> copies = patchlib.copy_notebooks(tmp_path)
        >>> copies.new[0]
        '01_layer_patching.ipynb'
        >>> _ = (tmp_path / "01_layer_patching.ipynb").write_text("my own")
        >>> again = patchlib.copy_notebooks(tmp_path)
        >>> again.kept, again.new, len(again.same) == len(copies.new) - 1
        (('01_layer_patching.ipynb',), (), True)
    """
    target = prepare_folder(folder)
    paths = notebook_folder().glob("*.ipynb")
    ours = {path.name: stand_alone(path.read_text("utf-8"), path.parent).encode() for path in paths}
    there = {name: target / name for name in ours if (target / name).exists()}
    same = {name for name, path in there.items() if path.is_file() and path.read_bytes() == ours[name]}
    for name in ours.keys() - there.keys():
        with replacing(target / name) as temporary:
            temporary.write_bytes(ours[name])
    new, kept = ours.keys() - there.keys(), there.keys() - same
    return Copies(target, *(tuple(sorted(names)) for names in (new, same, kept)))


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
