"""Notebooks before they run: where they are, and how their errors read."""

import os
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, count
from pathlib import Path

from patchlib.errors import RunError

_DIAGRAM = re.compile(r"\]\((diagrams/[\w-]+\.svg)\)")
_DOCUMENT = re.compile(r"\]\(\.\./(docs/[^)\s]+)\)")
_ADDRESS = re.compile(r"/github/([\w.-]+/[\w.-]+)/blob/main/notebooks/")


def notebook_folder() -> Path:
    """Return the notebooks inside the installed package, or the checkout's."""
    package = Path(__file__).resolve().parents[2]
    installed = package / "notebooks"
    return installed if installed.is_dir() else package.parent / "notebooks"


def stand_alone(notebook: str, folder: Path) -> str:
    """Return the text of a notebook; one of ours as it has to be where nothing else of ours is.

    Its diagrams are put into it (into the text, as JupyterLab shows no SVG that is attached to a cell), and what it
    links to in `docs/` is found at the repository's address, which its link to Colab has.
    """
    if folder != notebook_folder():
        return notebook

    def picture(link: re.Match[str]) -> str:
        svg = (folder / link[1]).read_bytes()
        return f"](data:image/svg+xml;base64,{b64encode(svg).decode()})"

    notebook = _DIAGRAM.sub(picture, notebook)
    if address := _ADDRESS.search(notebook):
        notebook = _DOCUMENT.sub(rf"](https://github.com/{address[1]}/blob/main/\1)", notebook)
    return notebook


def find_notebooks(names: Sequence[str | Path] | None = None, base: Path | None = None) -> list[Path]:
    """Find notebooks by path, stem (`02_head_patching`) or number (`02`); by default all that teach.

    Paths are relative to the working directory, or to ``base``.
    """
    notebooks = named_notebooks(names, base)
    if twin := next((path.stem for name, path in notebooks.items() if name != path.stem), None):
        raise RunError(f"two notebooks are called {twin}.ipynb; run them with different output folders")
    return list(notebooks.values())


def named_notebooks(names: Sequence[str | Path] | None = None, base: Path | None = None) -> dict[str, Path]:
    """The same by what their files are called: the stem, or where several share it, "alice-ps1" and "bob-ps1"."""
    names = [names] if isinstance(names, str | os.PathLike) or not isinstance(names, Iterable | None) else names
    ours = sorted(notebook_folder().glob("*.ipynb"))
    taught = [path for path in ours if path.stem[0].isdigit()]  # the one over many runs needs runs
    if not names and not taught:
        raise RunError(f"there are no notebooks in {notebook_folder()}; give the path of one")
    paths = list(dict.fromkeys(_find(str(name), ours, base or Path()) for name in names)) if names else taught
    stems = Counter(path.stem.casefold() for path in paths)  # some disks take A for a
    notebooks: dict[str, Path] = {}
    for path in paths:
        name = path.stem if stems[path.stem.casefold()] == 1 else f"{path.parent.name}-{path.stem}"
        taken = {other.casefold() for other in notebooks}
        numbered = chain([name], (f"{name}-{number}" for number in count(2)))
        notebooks[next(free for free in numbered if free.casefold() not in taken)] = path
    return notebooks


def _find(name: str, ours: list[Path], base: Path) -> Path:
    if name.endswith(".ipynb") and os.path.isfile(base / name):  # which is False for what can be no path
        return (base / name).resolve()
    key = name.removesuffix(".ipynb")
    for path in ours:
        if key == path.stem or key.zfill(2) == path.stem.split("_")[0]:
            return path
    known = ", ".join(path.stem for path in ours) or "none"
    where = f" in {base}" if base != Path() and name.endswith(".ipynb") else ""
    raise RunError(f"there is no notebook {name!r:.80}{where}; give the path of one, or one of: {known}")
