"""The students' version of the coursework, through nbgrader: no solutions, no hidden tests, and a variant."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from patchlib._util import shown
from patchlib.coursework.variant import Variant
from patchlib.errors import RunError
from patchlib.runs.files import prepare_folder

LOCKED = 120
"""Seconds that a grader waits for another that writes to the same gradebook."""


def release(
    folder: str | Path,
    variant: Variant | None = None,
    only: Sequence[str] = (),
    source: str | Path | None = None,
) -> list[Path]:
    """Make the students' version of coursework notebooks, in ``release/NN`` of a folder that is a course of nbgrader.

    The sources are copied to ``source/NN`` and the gradebook knows them from then on: ``grade`` needs the same folder.
    A release that is made again replaces the one before.

    Args:
        folder: The course's; made if it is missing. Students must not see it: it has the solutions.
        variant: Written beside each notebook; the default one when None.
        only: Numbers or names, such as "01"; all when empty.
        source: Where the source notebooks are; ``coursework`` of the checkout that patchlib runs from when None. They
            are not in the wheel.

    Returns:
        A folder for each notebook, to give to students whole: the notebook and ``variant.json``.

    Raises:
        RunError: nbgrader is missing, there are no such sources, or nbgrader refuses one.
    """
    notebooks = _sources(only, source)
    root = prepare_folder(folder)
    course = course_of(root)
    released = []
    for path in notebooks:
        number = path.name[:2]
        target = root / "source" / number
        target.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / path.name)
        (variant or Variant()).write(target)
        result = course.generate_assignment(number, force=True)
        if not result["success"]:
            raise RunError(f"nbgrader refuses {path.name}: {last_words(result)}")
        released.append(root / "release" / number)
    return released


def _sources(only: Sequence[str], source: str | Path | None) -> list[Path]:
    folder = Path(__file__).parents[2] / "coursework" if source is None else Path(source)
    notebooks = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not notebooks:
        raise RunError(
            f"there are no coursework notebooks in {folder}: they are in the repository and not in the wheel, so name "
            "the folder coursework of a checkout (--source)"
        )
    for name in only:
        if not any(path.stem.startswith(name) for path in notebooks):
            raise RunError(f"there is no coursework {shown(name)}: there are {', '.join(p.stem for p in notebooks)}")
    return [path for path in notebooks if not only or path.stem.startswith(tuple(only))]


def course_of(root: Path, cell_seconds: float | None = None) -> Any:
    """Nbgrader's interface to a course's folder.

    Args:
        root: The folder.
        cell_seconds: That a cell may take when a submission is executed, before it is interrupted.

    Raises:
        RunError: nbgrader is missing.
    """
    if importlib.util.find_spec("nbgrader") is None:
        raise RunError(
            "nbgrader is missing, which releases and grades coursework: install patchlib's extra coursework, or "
            'pip install "nbgrader>=0.9.6,<1"'
        )
    # It calls `alembic`, which was installed beside this Python and need not be on the shell's path.
    folders = os.environ.get("PATH", "").split(os.pathsep)
    if (here := str(Path(sys.executable).parent)) not in folders:
        os.environ["PATH"] = os.pathsep.join([here, *folders])
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import Config

    config = Config()
    config.CourseDirectory.root = str(root)
    # Graders write to one gradebook side by side: each waits for the other instead of giving up.
    config.CourseDirectory.db_url = f"sqlite:///{root / 'gradebook.db'}?timeout={LOCKED}"
    config.Execute.timeout = None if cell_seconds is None else max(1, int(cell_seconds))
    return NbGraderAPI(config=config)


def _is_empty(line: str) -> bool:
    """Whether a line of the log only says that there was an error."""
    return "Please see" in line or "There was an error processing" in line


def last_words(result: dict[str, Any]) -> str:
    """Why nbgrader gave up, in one line."""
    lines = [line.strip() for line in f"{result.get('error') or ''}\n{result.get('log') or ''}".splitlines()]
    errors = [line for line in lines if "Error: " in line or "Exception: " in line or line.startswith("[ERROR]")]
    telling = [line for line in errors if "NbGraderException" not in line and not _is_empty(line)]
    return (telling or errors or [line for line in lines if line] or ["it said nothing"])[-1]
