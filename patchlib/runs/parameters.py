"""A notebook's parameters: what its cell declares, where their values come from, and whether these can be right.

What a run is given is weighed before anything starts. papermill would only warn of an unknown name, takes any type,
and its reader of the cell, which goes by lines, misses such as ``depth: int | None = None``.
"""

from __future__ import annotations

import ast
import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import yaml
from IPython.core.inputtransformer2 import TransformerManager

from patchlib.errors import RunError
from patchlib.runs.notebooks import one_line

PREFIX = "PATCHLIB_PARAM_"
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,), "float": (int, float), "str": (str,), "bool": (bool,), "list": (list,), "dict": (dict,),
    "tuple": (tuple, list), "None": (type(None),),
}  # fmt: skip
LARGEST_SEED = 2**32 - 1
"""Of NumPy's and scikit-learn's generators; Python's and torch's take more."""
RANGES: dict[str, tuple[int, int | None]] = {
    **dict.fromkeys(("n_prompts", "n_rows", "n_test", "top_k", "depth"), (1, None)),
    "n_greedy": (0, None),
    "seed": (0, LARGEST_SEED),
}
"""Least and most of what the library's functions call by these names."""
CHOICES = {"templates": ("mixed", "ABBA", "BABA")}
_PLAIN_DEVICES = ("cpu", "cuda", "mps")  # known without torch, whose import takes seconds


@dataclass(frozen=True)
class Parameter:
    """One of a notebook's ``parameters`` cell.

    Attributes:
        kind: Its annotation, empty where it has none.
        default: Its value; the Python that makes it where that is no literal.
    """

    name: str
    kind: str
    default: Any
    comment: str
    is_literal: bool = True

    @property
    def takes(self) -> str:
        """What values it takes beyond its type, as a sentence has it; empty if any."""
        if self._has_range:
            least, most = RANGES[self.name]
            return f"{least} or more" if most is None else f"{least} to {most}"
        return f"one of {', '.join(CHOICES[self.name])}" if self._has_choices else ""

    @property
    def _has_range(self) -> bool:  # in a notebook of somebody's own the name may mean another thing
        return self.name in RANGES and _is_within(self.default, *RANGES[self.name])

    @property
    def _has_choices(self) -> bool:
        return self.default in CHOICES.get(self.name, ())

    def check(self, value: Any) -> tuple[Any, str | None]:
        """The value, text read as the declared type, and what is wrong with it (None if nothing is)."""
        given = f"{value!r} ({type(value).__name__})"
        kind = ast.parse(self.kind or "object", mode="eval").body
        if isinstance(value, str) and not (_is_known(kind) and _fits(value, kind)):
            value = _literal(value.capitalize() if value.lower() in ("true", "false") else value)
        if not _fits(value, kind):
            return value, f"takes {self.kind}, but was given {given}"
        if self.takes and not (
            _is_within(value, *RANGES[self.name]) if self._has_range else value in CHOICES[self.name]
        ):
            return value, f"takes {self.takes}, but was given {given}"
        if self.name == "model_name" and isinstance(value, str) and not value.strip():
            return value, "takes a model's name (`patchlib models` lists them), but was given an empty text"
        return value, _device_fault(value) if self.name == "device" and isinstance(value, str) else None


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
        raise RunError(f"{path} cannot be read as a notebook: {one_line(error)}") from error
    lines, found = source.splitlines(), {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            name, kind, value = node.target.id, ast.unparse(node.annotation).strip("'\""), node.value
        elif isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            name, kind, value = node.targets[0].id, "", node.value
        else:
            continue
        after = lines[(node.end_lineno or 1) - 1].encode()[node.end_col_offset or 0 :].decode()  # ast counts bytes
        default = _literal(text := ast.unparse(value))
        found[name] = Parameter(name, kind, default, after.partition("#")[2].strip(), default is not text)
    return found


def read_parameters(
    path: Path, values: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a notebook's own values, where they are literals, and those to run it with, as the declared types.

    Args:
        path: The notebook.
        values: All of them have to be parameters of it.
        defaults: From `from_environment`: taken where ``values`` has none and the notebook has such a parameter.

    Raises:
        RunError: The notebook cannot be read; an unknown name, with the nearest right one; a wrong type; a value
            that the library is known to refuse.
    """
    declared = declared_parameters(path)
    ours = {name: value for name, value in (defaults or {}).items() if name in declared and name not in values}
    checked = {}
    for name, value in {**ours, **values}.items():
        if name not in declared:
            close = difflib.get_close_matches(name, declared, n=1)
            mend = f"; did you mean {close[0]!r}?" if close else "."
            known = ", ".join(declared) or "none (no cell is tagged 'parameters')"
            raise RunError(f"notebook {path.stem} has no parameter {name!r}{mend} It takes: {known}")
        checked[name], fault = declared[name].check(value)
        if fault:
            source = f" by the environment's {variable(name)}" if name in ours else ""
            raise RunError(f"parameter {name} of notebook {path.stem} {fault}{source}")
    return {name: one.default for name, one in declared.items() if one.is_literal}, checked


def variable(name: str) -> str:
    """The environment variable that has a parameter's default."""
    return PREFIX + name.upper()


def from_environment() -> dict[str, str]:
    """Defaults of parameters: ``PATCHLIB_PARAM_N_PROMPTS=4`` is n_prompts; each counts where a notebook has it."""
    return {key.removeprefix(PREFIX).lower(): text for key, text in os.environ.items() if key.startswith(PREFIX)}


def given_parameters(pairs: Iterable[tuple[str, str]], file: str | Path | None = None) -> dict[str, Any]:
    """Parameters from a file of ``name: value`` lines, and over them those from the command line."""
    return {**(read_yaml(file, "the file of parameters") if file else {}), **dict(pairs)}


def read_yaml(path: str | Path, what: str) -> dict[str, Any]:
    """A YAML file's names and values; RunError, which calls it ``what``, where it has none."""
    try:
        content = yaml.load(Path(path).read_text("utf-8"), _NoTwins)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"{what} {path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise RunError(f"{what} {path} holds no keys; each line is a name and its value, such as `seed: 1`")
    return content


class _NoTwins(yaml.SafeLoader):
    """YAML in which a name that stands twice is an error: the first one's values would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _fits(value: Any, kind: ast.expr) -> bool:
    """Whether a value is of an annotated type; of a type that is not known here, any is."""
    match kind:
        case ast.Constant(value=None):
            return value is None
        case ast.Name(id=name):
            return name not in _TYPES or type(value) in _TYPES[name]
        case ast.BinOp(left=one, op=ast.BitOr(), right=other):
            return _fits(value, one) or _fits(value, other)
        case ast.Subscript(value=ast.Name(id="Optional"), slice=one):
            return value is None or _fits(value, one)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            return value in (literal if isinstance(literal := ast.literal_eval(choices), tuple) else (literal,))
        case ast.Subscript(value=ast.Name(id="list"), slice=one):
            return isinstance(value, list) and all(_fits(item, one) for item in value)
        case ast.Subscript(value=ast.Name(id=name)):
            return name not in _TYPES or type(value) in _TYPES[name]
    return True


def _is_known(kind: ast.expr) -> bool:
    names = {node.id for node in ast.walk(kind) if isinstance(node, ast.Name)}
    return names <= {*_TYPES, "Optional", "Literal"}


def _is_within(value: Any, least: int, most: int | None) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and value >= least and (most is None or value <= most)


def _device_fault(device: str) -> str | None:
    if device in ("", *_PLAIN_DEVICES):
        return None
    import torch

    try:
        torch.device(device)
    except RuntimeError as error:
        known = ", ".join(_PLAIN_DEVICES)
        return f"takes a device such as {known} or cuda:1, but was given {device!r} ({one_line(error)})"
    return None
