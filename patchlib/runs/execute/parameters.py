"""A notebook's parameters: what its cell declares, where their values come from, and whether these can be right.

What a run is given is weighed before anything starts. papermill would only warn of an unknown name, takes any type,
and its reader of the cell, which goes by lines, misses such as ``depth: int | None = None``.
"""

from __future__ import annotations

import ast
import difflib
import json
import os
import typing
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from patchlib._util import first_line
from patchlib.errors import RunError

if TYPE_CHECKING:  # a notebook that saves its results reads no notebook, and need not wait seconds for these
    import nbformat

PREFIX = "PATCHLIB_PARAM_"
_TYPES = {kind.__name__: kind for kind in (int, float, str, bool, list, dict, tuple)} | {
    name: getattr(typing, name) for name in ("Any", "Literal", "Optional", "Union")
}


class CommandText(str):
    """Text of a command line or an environment, where a number, a list or None is text too."""


class RawText(str):
    """Text that stays text, whatever it looks like."""


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
        """Return the value as JSON keeps it, and as the declared type where it is text.

        Raises:
            RunError: It is of another type, or JSON has none for it.
        """
        try:
            given = _plain(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise RunError(f"was given a {type(value).__name__} that cannot be kept: {first_line(error)}") from error
        adapter = _adapter(self.kind) if self.kind not in ("", "Any") else None
        readings = [given]
        if isinstance(given, str) and not isinstance(value, RawText):
            literal = _literal(given)
            is_text = isinstance(self.default, str | None) or not self.is_literal
            if adapter and isinstance(literal, str):
                readings = [given]  # whose quotes are a part of it
            elif isinstance(value, CommandText) or not (adapter or is_text):
                readings = [literal, given]
            else:  # quoted by who gave it: a number only where the notebook has no use for text
                readings = [given, literal]
        for reading in readings:
            if adapter is None or _fits(reading, adapter) or reading is self.default is None:
                return reading
        raise RunError(f"takes {self.kind}, but was given {value!r:.80} ({type(given).__name__})")

    def option(self, value: Any) -> tuple[str, str] | None:
        """What sets it on a command line: -p or -r and the text; None where nothing but its default gives the value."""
        texts = [value] if isinstance(value, str) else [str(value), json.dumps(value)]
        for option, kind in (("-p", CommandText), ("-r", RawText)):
            for text in texts:
                with suppress(RunError):
                    if json.dumps(self.read(kind(text))) == json.dumps(value):
                        return option, text
        return None

    def typed(self, value: Any) -> Any:
        """What the notebook gets: lists of JSON as the tuples that it declares."""
        adapter = _adapter(self.kind) if "tuple" in self.kind else None
        if adapter and _fits(value, adapter):
            return adapter.validate_json(json.dumps(value), strict=True)
        return tuple(value) if isinstance(self.default, tuple) and isinstance(value, list) else value


def declared_parameters(path: Path) -> dict[str, Parameter]:
    """What a notebook's cell tagged ``parameters`` declares, by name; empty if it has no such cell.

    Raises:
        RunError: The file is no notebook of Python, two cells are tagged, or the cell is not Python.
    """
    return dict(_declared(path, path.stat().st_mtime_ns if path.is_file() else 0))


@cache
def _declared(path: Path, changed: int) -> dict[str, Parameter]:
    """Read once for all runs of a grid, and again when it has ``changed``."""
    from IPython.core.inputtransformer2 import TransformerManager

    _, cells = read_notebook(path)
    if len(cells) > 1:
        raise RunError(f"{path} has {len(cells)} cells tagged 'parameters', of which the last would count: leave one")
    try:
        source = TransformerManager().transform_cell(cells[0].source) if cells else ""  # %magics become Python
        tree = ast.parse(source)
    except Exception as error:  # of many kinds, for a slip in the cell
        raise RunError(f"the parameters of {path} cannot be read: {first_line(error)}") from error
    lines, declared = source.splitlines(), {}
    names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)]
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            name, kind, value = node.target.id, ast.unparse(node.annotation).strip("'\""), node.value
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name, kind, value = node.targets[0].id, "", node.value
        else:
            continue
        after = lines[(node.end_lineno or 1) - 1].encode()[node.end_col_offset or 0 :].decode()  # ast counts bytes
        try:
            _plain(default := ast.literal_eval(value))
            is_literal = names.count(name) == 1  # it may be set again, in an `if` or so
        except (ValueError, TypeError, RecursionError):
            default, is_literal = ast.unparse(value), False
        declared[name] = Parameter(name, kind, default, after.partition("#")[2].strip(), is_literal)
    return declared


def read_notebook(path: Path) -> tuple[nbformat.NotebookNode, list[nbformat.NotebookNode]]:
    """A notebook without what papermill once injected into it, and its cells tagged ``parameters``.

    Where papermill found no such cell, what it injected is the only one there is.

    Raises:
        RunError: The file is no notebook, or one for another kernel than Python's.
    """
    import nbformat

    try:
        nb = nbformat.read(path, as_version=4)
        tagged: dict[str, list[nbformat.NotebookNode]] = {"parameters": [], "injected-parameters": []}
        for cell in nb.cells:
            for tag in tagged.keys() & set(cell.metadata.get("tags", [])):
                if cell.cell_type == "code":
                    tagged[tag].append(cell)
                else:
                    cell.metadata.tags.remove(tag)  # or papermill would set them behind this one
        json.dumps(nb, ensure_ascii=False).encode()  # it will be written as UTF-8
        kernel, language = nb.metadata.get("kernelspec", {}), nb.metadata.get("language_info", {})
        said = [language.get("name"), kernel.get("language")]
    except Exception as error:  # of many kinds: no JSON, no cells, cells that are none
        raise RunError(f"{path} cannot be read as a notebook: {first_line(error)}") from error
    # Jupyter writes the language; where nobody did, the kernel's name has to do.
    others = [str(name) for name in (*said, None if any(said) else kernel.get("name")) if name]
    if others := [name for name in others if "py" not in name.lower()]:
        raise RunError(f"{path} is a notebook of {others[0]}, and patchlib runs those of Python")
    cells, injected = tagged.values()
    if cells:
        nb.cells = [cell for cell in nb.cells if cell not in injected]
    for cell in injected:
        cell.metadata.tags = ["parameters"]
    return nb, cells or injected


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
    if not isinstance(values, Mapping):
        raise RunError(f"parameters are names and their values, such as {{'seed': 1}}, not {values!r:.80}")
    further = {name: text for name, text in defaults_of(declared, defaults or {}).items() if name not in values}
    checked = {}
    for name, value in {**further, **values}.items():
        if name not in declared:
            close = difflib.get_close_matches(str(name), declared, n=1)
            mend = f"; did you mean {close[0]!r}?" if close else "."
            offered = ", ".join(declared) or "none (no cell is tagged 'parameters')"
            raise RunError(f"notebook {path.stem} has no parameter {name!r}{mend} It takes: {offered}")
        try:
            checked[name] = declared[name].read(value)
        except RunError as error:
            source = f" by the environment's {variable(name)}" if name in further else ""
            raise RunError(f"parameter {name} of notebook {path.stem} {error}{source}") from error
    return {name: _plain(one.default) for name, one in declared.items() if one.is_literal}, checked


def variable(name: str) -> str:
    """The environment variable that has a parameter's default."""
    return PREFIX + name.upper()


def from_environment() -> dict[str, str]:
    """Defaults of parameters: ``PATCHLIB_PARAM_N_PROMPTS=4`` is n_prompts; each counts where a notebook has it."""
    found = {key.removeprefix(PREFIX): CommandText(text) for key, text in os.environ.items() if key.startswith(PREFIX)}
    return {name.lower() if name.isupper() else name: text for name, text in found.items()}


def defaults_of(declared: Collection[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Those defaults that a notebook has parameters for: of this name, or N for n, unless it has both."""
    keys = {name: name if name in defaults or name.lower() in declared else name.lower() for name in declared}
    return {name: defaults[key] for name, key in keys.items() if key in defaults}


def _literal(text: str) -> Any:
    """What Python's or JSON's literals make of text; the text itself where it is none."""
    text = text.capitalize() if text.lower() in ("true", "false") else text
    for reader in (ast.literal_eval, json.loads):
        with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError, UnicodeError):
            return _plain(reader(text.strip()))
    return text


def kept(value: Any) -> Any:
    """A value as a manifest has it: what JSON cannot hold as the text that Python shows."""
    try:
        return _plain(value)
    except (TypeError, ValueError, RecursionError):
        return ascii(value)


def _plain(value: Any) -> Any:
    """The same as JSON keeps it, so that manifests, grids and repeated runs have what this run has."""
    match value:
        case _ if hasattr(value, "tolist"):  # NumPy's
            return _plain(value.tolist())
        case None | bool() | int() | float() | str():
            str(value).encode()  # or neither a notebook nor a page could be written
            return json.loads(json.dumps(value))
        case list() | tuple():
            return [_plain(item) for item in value]
        case dict() if all(isinstance(key, str) for key in value):
            return {_plain(key): _plain(item) for key, item in value.items()}
    raise TypeError("take numbers, text, true, false, null, and lists and mappings (by text) of them")


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
