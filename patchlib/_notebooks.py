"""Notebooks before they run: where they are, what they are called, and which parameters they take."""

from __future__ import annotations

import ast
import builtins
import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from patchlib.errors import RunError


@dataclass(frozen=True)
class Parameter:
    """One assignment of a notebook's `parameters` cell."""

    hint: Any
    type_name: str
    default: Any


@dataclass(frozen=True)
class Notebook:
    """A notebook that can be run: its file, headline and parameters."""

    path: Path
    title: str
    description: str
    parameters: dict[str, Parameter]

    @property
    def stem(self) -> str:
        """The name that the run's files carry."""
        return self.path.stem

    @property
    def defaults(self) -> dict[str, Any]:
        """The values that the notebook itself gives its parameters."""
        return {name: parameter.default for name, parameter in self.parameters.items()}


def notebook_folder() -> Path:
    """Return the checkout's `notebooks/`, or the copy inside the installed package."""
    package = Path(__file__).resolve().parent
    # Beside an installed package lies site-packages, where a folder of that name is somebody else's.
    checkout = package.parent / "notebooks"
    in_checkout = (package.parent / "pyproject.toml").is_file() and checkout.is_dir()
    return checkout if in_checkout else package / "notebooks"


def find_notebooks(names: Sequence[str | Path] | None = None) -> list[Path]:
    """Find notebooks by path, stem (`02_head_patching`) or number (`02`); by default all the package's.

    Raises:
        RunError: a name fits no notebook, or two different files would write the same outputs.
    """
    ours = sorted(notebook_folder().glob("[0-9]*.ipynb"))
    if not names and not ours:
        raise RunError(f"there are no notebooks in {notebook_folder()}; give the path of one")
    found = [_find(str(name), ours) for name in names] if names else ours
    unique = list(dict.fromkeys(found))
    stems = [path.stem for path in unique]
    for stem in stems:
        if stems.count(stem) > 1:
            raise RunError(f"two notebooks are called {stem}.ipynb; run them with different output folders")
    return unique


def _find(name: str, ours: list[Path]) -> Path:
    if name.endswith(".ipynb") and Path(name).is_file():
        return Path(name).resolve()
    key = name.removesuffix(".ipynb")
    for path in ours:
        if key == path.stem or key.zfill(2) == path.stem.split("_")[0]:
            return path
    known = ", ".join(path.stem for path in ours) or "none"
    raise RunError(f"there is no notebook {name!r}; give the path of one, or one of: {known}")


def load(path: Path) -> nbformat.NotebookNode:
    """Read a notebook file, or raise a RunError that names it."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, nbformat.ValidationError) as error:
        raise RunError(f"{path} cannot be read as a notebook: {str(error).splitlines()[0]}") from error


def read_notebook(path: Path) -> Notebook:
    """Read what has to be known of a notebook before it runs."""
    nb = load(path)
    title, description = headline(nb, path.stem)
    return Notebook(path, title, description, _parameters(nb, path))


def headline(nb: nbformat.NotebookNode, default: str) -> tuple[str, str]:
    """Return the first level-one heading and the paragraph under it, as plain text."""
    lines = "\n\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown").splitlines()
    top = next((i for i, line in enumerate(lines) if line.startswith("# ")), None)
    if top is None:
        return default, ""
    paragraph: list[str] = []
    for line in lines[top + 1 :]:
        prose = line.strip() and not line.startswith(("#", "[![", "<", "|"))
        if prose:
            paragraph.append(line.strip())
        elif paragraph:
            break
    return _plain(lines[top][2:]), _plain(" ".join(paragraph))


def _plain(markdown: str) -> str:
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    return re.sub(r"\*\*|__|`|(?<!\w)\*(?=\S)|(?<=\S)\*(?!\w)", "", text).strip()


def _parameters(nb: nbformat.NotebookNode, path: Path) -> dict[str, Parameter]:
    # papermill.inspect_notebook reads this cell line by line and drops `x: str | None = None` and any line
    # with "=" in its comment, so that a parameter which exists would be refused; Python's parser does not.
    source = next((c.source for c in nb.cells if "parameters" in c.metadata.get("tags", [])), "")
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise RunError(f"line {error.lineno} of the parameters cell of {path.name} is not Python") from error
    found: dict[str, Parameter] = {}
    for node in body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            parameter = _parameter(node.value, getattr(node, "annotation", None))
            found |= {target.id: parameter for target in targets if isinstance(target, ast.Name)}
    return found


def _parameter(value: ast.expr, annotation: ast.expr | None) -> Parameter:
    try:
        default = ast.literal_eval(value)
        inferred = Any if default is None else type(default)
    except ValueError:
        default, inferred = ast.unparse(value), Any
    if annotation is None:
        return Parameter(inferred, getattr(inferred, "__name__", "Any"), default)
    text = annotation.value if isinstance(annotation, ast.Constant) else ast.unparse(annotation)
    try:
        hint = eval(str(text), dict(vars(typing)) | dict(vars(builtins)))
    except (NameError, AttributeError, TypeError, SyntaxError):
        hint = Any  # a type of the notebook's own, which only the running notebook knows
    return Parameter(hint, str(text), default)


def check_parameters(notebook: Notebook, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` as the notebook's types, text being read as papermill reads it ("4" for an int is 4).

    Raises:
        RunError: the notebook has no such parameter, or declares another type for it.
    """
    checked = {}
    for name, value in values.items():
        if name not in notebook.parameters:
            close = difflib.get_close_matches(name, notebook.parameters, n=1)
            mend = f"; did you mean {close[0]!r}?" if close else "."
            known = ", ".join(notebook.parameters) or "none (no cell is tagged 'parameters')"
            raise RunError(f"notebook {notebook.stem} has no parameter {name!r}{mend} It takes: {known}")
        declared = notebook.parameters[name]
        literal = parse_text(value) if isinstance(value, str) else value
        checked[name] = literal if _fits(literal, declared.hint) else value
        if not _fits(checked[name], declared.hint):
            raise RunError(
                f"parameter {name} of notebook {notebook.stem} takes {declared.type_name}, "
                f"but was given {value!r} ({type(value).__name__})"
            )
    return checked


def parse_text(text: str) -> Any:
    """Read a typed value: a Python literal, true, false or null in any case, or else the text itself."""
    words = {"true": True, "false": False, "null": None, "none": None}
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return words.get(text.strip().lower(), text)


def _fits(value: Any, hint: Any) -> bool:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin is typing.Literal:
        return any(value == arg and type(value) is type(arg) for arg in args)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin in (list, set, frozenset) or (origin is tuple and args[-1] is ...):
        return isinstance(value, origin) and all(_fits(item, args[0]) for item in value)
    if hint is None or hint is types.NoneType:
        return value is None
    if hint is float or hint is int:  # True is an int to Python, but never what was meant
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
    kind = origin or hint
    return not isinstance(kind, type) or isinstance(value, kind)
