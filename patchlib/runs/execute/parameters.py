"""A notebook's parameters: what its cell declares, where their values come from, and whether these can be right.

What a run is given is weighed before anything starts. papermill would only warn of an unknown name, takes any type,
and its reader of the cell, which goes by lines, misses such as ``depth: int | None = None``.
"""

import ast
import difflib
import json
import os
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from pydantic import TypeAdapter

from patchlib._util import first_line
from patchlib.errors import RunError

PREFIX = "PATCHLIB_PARAM_"
_TYPES = {kind.__name__: kind for kind in (int, float, str, bool, list, dict, tuple)} | {
    name: getattr(typing, name) for name in ("Any", "Literal", "Optional", "Union")
}


@dataclass(frozen=True)
class Parameter:
    """One of a notebook's ``parameters`` cell.

    Attributes:
        name: As the cell has it.
        kind: Its annotation, empty where it has none.
        default: Its value; the Python that makes it where that is no literal.
        comment: What stands behind it in the cell.
        is_literal: Whether its default is known without running the cell.
    """

    name: str
    kind: str
    default: Any
    comment: str
    is_literal: bool = True

    def read(self, value: Any) -> Any:
        """Return the value, text read as the declared type.

        Raises:
            RunError: It is of another type.
        """
        adapter, readings = _adapter(self.kind) if self.kind else None, [value]
        if isinstance(value, str):  # from a command line, where everything is text
            literal = _literal(value.capitalize() if value.lower() in ("true", "false") else value)
            readings = [value, literal] if adapter else [literal]
        for reading in readings:
            if adapter is None or _fits(reading, adapter):
                return reading
        raise RunError(f"takes {self.kind}, but was given {value!r} ({type(value).__name__})")


def declared_parameters(path: Path) -> dict[str, Parameter]:
    """What a notebook's cell tagged ``parameters`` declares, by name; empty if it has no such cell.

    Raises:
        RunError: The file is no notebook, or the cell is not Python.
    """
    return dict(_declared(path, path.stat().st_mtime_ns if path.is_file() else 0))


@cache
def _declared(path: Path, changed: int) -> dict[str, Parameter]:
    """Read once for all runs of a grid, and again when it has ``changed``."""
    try:
        nb = nbformat.read(path, as_version=4)
        cells = [cell.source for cell in nb.cells if "parameters" in cell.metadata.get("tags", [])]
        source = TransformerManager().transform_cell(cells[0]) if cells else ""  # %magics become Python
        tree = ast.parse(source)
    except Exception as error:  # of many kinds: no JSON, no cells, cells that are none, a slip in the cell
        raise RunError(f"{path} cannot be read as a notebook: {first_line(error)}") from error
    lines, declared = source.splitlines(), {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            name, kind, value = node.target.id, ast.unparse(node.annotation).strip("'\""), node.value
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name, kind, value = node.targets[0].id, "", node.value
        else:
            continue
        after = lines[(node.end_lineno or 1) - 1].encode()[node.end_col_offset or 0 :].decode()  # ast counts bytes
        default = _literal(text := ast.unparse(value))
        declared[name] = Parameter(name, kind, default, after.partition("#")[2].strip(), default is not text)
    return declared


def read_parameters(
    path: Path, values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a notebook's own values, where they are literals, and those to run it with, as the declared types.

    Args:
        path: The notebook.
        values: All of them have to be parameters of it.
        defaults: From `from_environment`: taken where ``values`` has none and the notebook has such a parameter.

    Raises:
        RunError: The notebook cannot be read; an unknown name, with the nearest right one; a wrong type.
    """
    declared = declared_parameters(path)
    further = {name: value for name, value in (defaults or {}).items() if name in declared and name not in values}
    checked = {}
    for name, value in {**further, **values}.items():
        if name not in declared:
            close = difflib.get_close_matches(name, declared, n=1)
            mend = f"; did you mean {close[0]!r}?" if close else "."
            offered = ", ".join(declared) or "none (no cell is tagged 'parameters')"
            raise RunError(f"notebook {path.stem} has no parameter {name!r}{mend} It takes: {offered}")
        try:
            checked[name] = declared[name].read(value)
        except RunError as error:
            source = f" by the environment's {variable(name)}" if name in further else ""
            raise RunError(f"parameter {name} of notebook {path.stem} {error}{source}") from error
    return {name: one.default for name, one in declared.items() if one.is_literal}, checked


def variable(name: str) -> str:
    """The environment variable that has a parameter's default."""
    return PREFIX + name.upper()


def from_environment() -> dict[str, str]:
    """Defaults of parameters: ``PATCHLIB_PARAM_N_PROMPTS=4`` is n_prompts; each counts where a notebook has it."""
    return {key.removeprefix(PREFIX).lower(): text for key, text in os.environ.items() if key.startswith(PREFIX)}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


@cache
def _adapter(annotation: str) -> TypeAdapter[Any] | None:
    """What checks values of an annotation; None where it names what only the notebook knows."""
    tree = ast.parse(annotation, mode="eval")
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    # Somebody's notebook is only looked at here: nothing of it but such names and brackets may be evaluated.
    if names - _TYPES.keys() or any(isinstance(node, ast.Call | ast.Attribute) for node in ast.walk(tree)):
        return None
    try:
        return TypeAdapter(eval(compile(tree, "annotation", "eval"), {"__builtins__": {}}, _TYPES))
    except Exception:  # of many kinds, for what is no type, such as a bare Optional
        return None


def _fits(value: Any, adapter: TypeAdapter[Any]) -> bool:
    """Whether a value is of a type, as strictly as JSON has types: no bool is an int, a list may be a tuple."""
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except (TypeError, ValueError):  # no JSON, or pydantic's ValidationError
        return False
    return True
