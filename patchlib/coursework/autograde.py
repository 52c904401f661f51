"""One submission, graded in a process of its own: `python -m patchlib.coursework.autograde`, with the job on stdin.

Its parent kills it where it takes too long or too much memory, and keeps stdin open: when that ends, so does this.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from patchlib._util import without_grammar_of_addresses

BY_HAND = "to be graded by hand"
REASONS = {
    "DeadKernelError": "its kernel died",
    "Timeout waiting for IOPub output": "a cell took longer than {cell_seconds:g} s and could not be interrupted",
    "CellTimeoutError": "a cell took longer than {cell_seconds:g} s and could not be interrupted",
}
"""What stands in nbgrader's log -> why a notebook could not be executed."""


def main() -> int:
    """Grade, and write what each exercise got; 0 where nbgrader got through the notebook."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    without_grammar_of_addresses()
    from patchlib.coursework.release import course_of, last_words
    from patchlib.runs.files import write_json

    root, number, student = Path(job["root"]), job["number"], job["student"]
    result = course_of(root, job["cell_seconds"]).autograde(number, student)
    if not result["success"]:
        said = f"{result.get('log')}\n{result.get('error')}"
        print(said, flush=True)  # into the submission's log
        known = next((reason for sign, reason in REASONS.items() if sign in said), last_words(result))
        write_json(Path(job["result"]), {"failed": known.format(cell_seconds=job["cell_seconds"])})
        return 1
    notebook = root / "autograded" / student / number / job["notebook"]
    write_json(Path(job["result"]), {"rows": _rows(notebook, job["cell_seconds"])})
    return 0


def _leave_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)  # at once: the kernel notices by itself


def _rows(notebook: Path, cell_seconds: float) -> list[dict[str, Any]]:
    """Exercise, points, of and message for each graded cell of an executed notebook."""
    import nbformat
    from nbgrader.utils import determine_grade, is_grade

    rows = []
    for cell in nbformat.read(notebook, as_version=4).cells:
        if is_grade(cell):
            points, of = determine_grade(cell)
            message = BY_HAND if points is None else "" if points else _message(cell, cell_seconds)
            exercise = cell.metadata.nbgrader.grade_id.removesuffix("_test")
            rows.append({"exercise": exercise, "points": points, "of": of, "message": message})
    return rows


def _message(cell: Any, cell_seconds: float) -> str:
    """Why a cell got nothing, in one line."""
    for output in cell.get("outputs", ()):
        if output.output_type == "error":
            if output.ename in ("CellTimeoutError", "KeyboardInterrupt"):
                return f"took longer than {cell_seconds:g} s and was interrupted"
            said = next((line for line in output.evalue.splitlines() if line.strip()), "")
            return said if output.ename == "CheckFailed" and said else f"{output.ename}: {said}".removesuffix(": ")
        if output.output_type == "stream" and output.name == "stderr":  # which nbgrader takes for an error
            return f"wrote to stderr: {output.text.strip().splitlines()[-1]}"
    return "not answered"


if __name__ == "__main__":
    sys.exit(main())
