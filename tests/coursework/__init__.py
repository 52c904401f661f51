"""The matrix of coursework: each exercise with its solution, empty, and wrong in typical ways, graded in this process.

A notebook's wrong solutions are in a module of their own, ``cases_NN.py``, as ``WRONG``. ``python -m tests.coursework``
prints the matrix, on the default model too.
"""

from __future__ import annotations

import importlib
import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import pytest

import patchlib
from patchlib.coursework import Variant
from patchlib.coursework.variant import VARIABLE
from tests.helpers import make_pairs, with_contrast
from tests.tiny import load_tiny

FOLDER = Path(__file__).parents[2] / "coursework"
NOTEBOOKS = [path.stem for path in sorted(FOLDER.glob("0*.ipynb"))]
STUB = "# YOUR CODE HERE\nraise NotImplementedError()"
"""What nbgrader's ClearSolutions leaves of a solution."""
_SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n.*?### END SOLUTION", re.M | re.S)


@dataclass(frozen=True)
class Wrong:
    """A typical wrong solution.

    Attributes:
        of: The exercise, the ``grade_id`` of its solution.
        name: What is wrong with it.
        says: Part of the message that the student gets.
        changes: Made to the solution, one after the other: what stands there -> what is put there.
    """

    of: str
    name: str
    says: str
    changes: dict[str, str] = field(default_factory=dict)

    def source(self, solution: str) -> str:
        for old, new in self.changes.items():
            assert old in solution, f"{self.of}, {self.name}: the solution has no {old!r}"
            solution = solution.replace(old, new)
        return solution


SWAPPED = {"clean_tokens": "KEPT", "corrupted_tokens": "clean_tokens", "KEPT": "corrupted_tokens"}
"""Changes that patch the wrong forward pass."""


def wrong_ones(name: str) -> tuple[Wrong, ...]:
    """The wrong solutions of a notebook."""
    return importlib.import_module(f"tests.coursework.cases_{name[:2]}").WRONG


def emptied(source: str) -> str:
    """A solution cell as students get it."""
    return _SOLUTION.sub(lambda found: "\n".join(found[1] + line for line in STUB.splitlines()), source)


class Sheet:
    """A source notebook whose cells are executed here: what is named setup, the solutions, the tests."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        cells = [(cell.metadata.get("nbgrader", {}), cell) for cell in self.notebook.cells]
        code = [(meta, cell) for meta, cell in cells if meta and cell.cell_type == "code"]
        self.solutions = {meta.grade_id: cell.source for meta, cell in code if meta.solution}
        self.tests = {meta.grade_id.removesuffix("_test"): cell.source for meta, cell in code if meta.grade}
        self.points = {meta.grade_id.removesuffix("_test"): meta.points for meta, cell in code if meta.grade}
        self._before = [cell.source for meta, cell in code if meta.grade_id.startswith("setup")]

    def namespace(self) -> dict[str, Any]:
        """The names that a notebook has once its setup and all its solutions are executed."""
        names: dict[str, Any] = {"__name__": "__main__"}
        with redirect_stdout(io.StringIO()):
            for source in (*self._before, *self.solutions.values()):
                exec(source, names)
        return names

    def graded(self, exercise: str, source: str, names: dict[str, Any]) -> tuple[float, str]:
        """Points and message of a graded cell where this stands in the exercise's solution cell.

        As nbgrader has it: an error gives none, and so does anything that is written to stderr.
        """
        names, err = dict(names), io.StringIO()
        with redirect_stdout(io.StringIO()), redirect_stderr(err):
            try:
                exec(source, names)
                exec(self.tests[exercise], names)
            except Exception as error:
                return 0, f"{error}" if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        return (0, f"stderr: {err.getvalue()}") if err.getvalue() else (self.points[exercise], "")


@contextmanager
def variant(given: Variant) -> Iterator[None]:
    """Make this the variant that notebooks find."""
    import json
    from dataclasses import asdict

    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = json.dumps(asdict(given))
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


def _is_usable(model: Any, pairs: patchlib.PromptPairs) -> bool:
    with warnings.catch_warnings(action="ignore"):
        return bool(patchlib.contrast(patchlib.baseline(model, pairs)).usable.all())


@contextmanager
def tiny(kind: str = "llama") -> Iterator[None]:
    """Make every variant one of a tiny random model, whose prompts' answers give a contrast."""
    model = load_tiny(kind)

    def load_task(self, model, shift=0, n_prompts=None) -> patchlib.PromptPairs:
        n = n_prompts or 8
        parts = [range(n), range(max(0, n - 4), n), range(0, n, 2), range(1, n, 2)]  # that checks ask about
        for attempt in range(100):  # a random model's prompts agree by luck
            pairs = with_contrast(model, make_pairs(model, n=n, seed=1000 * attempt + self.seed + shift))
            if all(_is_usable(model, pairs.select(part)) for part in parts):
                return pairs
        raise AssertionError(f"{kind} has no prompts with a contrast")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Variant, "load_task", load_task)
        patch.setattr(Variant, "load", lambda self: (model, self.load_task(model)))
        yield


CONTEXTS = {
    "tiny llama": lambda: tiny("llama"),
    "tiny gpt2": lambda: tiny("gpt2"),
    "toy, induction": lambda: variant(Variant(model="toy:induction", seed=3, n_prompts=9)),
}
"""Models that take seconds: the first is what wrong solutions are tried on, the others are variants."""


def matrix(name: str) -> Iterator[dict[str, Any]]:
    """Rows of the matrix of a notebook, in the variant that is set: solution, empty, and each wrong one."""
    sheet = Sheet(name)
    names = sheet.namespace()
    for exercise in sheet.tests:
        solution = sheet.solutions[exercise]
        tried = {"solution": solution, "empty": emptied(solution)}
        tried |= {wrong.name: wrong.source(solution) for wrong in wrong_ones(name) if wrong.of == exercise}
        for answer, source in tried.items():
            points, message = sheet.graded(exercise, source, names)
            row = {"notebook": name[:2], "exercise": exercise, "answer": answer, "points": points}
            yield row | {"of": sheet.points[exercise], "message": message}
