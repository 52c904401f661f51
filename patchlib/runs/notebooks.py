"""Notebooks before they run: where they are, and which parameters they take."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import papermill

from patchlib.errors import RunError

_KINDS = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}


def notebook_folder() -> Path:
    """Return the notebooks inside the installed package, or the checkout's."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "notebooks"
    return installed if installed.is_dir() else package.parent / "notebooks"


def find_notebooks(names: Sequence[str | Path] | None = None) -> list[Path]:
    """Find notebooks by path, stem (`02_head_patching`) or number (`02`); by default all the package's."""
    ours = sorted(notebook_folder().glob("[0-9]*.ipynb"))
    if not names and not ours:
        raise RunError(f"there are no notebooks in {notebook_folder()}; give the path of one")
    found = list(dict.fromkeys(_find(str(name), ours) for name in names)) if names else ours
    stems = [path.stem for path in found]
    if len(set(stems)) < len(stems):
        twin = max(stems, key=stems.count)
        raise RunError(f"two notebooks are called {twin}.ipynb; run them with different output folders")
    return found


def _find(name: str, ours: list[Path]) -> Path:
    if name.endswith(".ipynb") and Path(name).is_file():
        return Path(name).resolve()
    key = name.removesuffix(".ipynb")
    for path in ours:
        if key == path.stem or key.zfill(2) == path.stem.split("_")[0]:
            return path
    known = ", ".join(path.stem for path in ours) or "none"
    raise RunError(f"there is no notebook {name!r}; give the path of one, or one of: {known}")


def read_parameters(path: Path, values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a notebook's parameters with its own values, and `values` with text read as the types it declares."""
    try:
        nb = nbformat.read(path, as_version=4)
        # papermill asks for a kernel's name; this one will run it, whatever the notebook says.
        nb.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
        declared = papermill.inspect_notebook(nb)
    except Exception as error:  # of many kinds: no JSON, no cells, cells that are none
        raise RunError(f"{path} cannot be read as a notebook: {one_line(error)}") from error
    checked = dict(values)
    for name, value in values.items():
        if name not in declared:
            close = difflib.get_close_matches(name, declared, n=1)
            mend = f"; did you mean {close[0]!r}?" if close else "."
            known = ", ".join(declared) or "none (no cell is tagged 'parameters')"
            raise RunError(f"notebook {path.stem} has no parameter {name!r}{mend} It takes: {known}")
        kind = declared[name]["inferred_type_name"]
        if isinstance(value, str) and kind != "str":
            checked[name] = _literal(value.capitalize() if kind == "bool" else value)
        if kind in _KINDS and type(checked[name]) not in _KINDS[kind]:
            given = f"{value!r} ({type(value).__name__})"
            raise RunError(f"parameter {name} of notebook {path.stem} takes {kind}, but was given {given}")
    return {name: _literal(one["default"]) for name, one in declared.items()}, checked


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError):
        return text


def one_line(error: Exception) -> str:
    """Return the kind of an error, or of the cell's error that papermill wraps, and its message's first line."""
    name, message = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
    return ": ".join([name, *message.strip().splitlines()[:1]])
