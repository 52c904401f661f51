"""The students' version, and grades: through nbgrader itself, on a hand-built model that loads at once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from patchlib.coursework import Variant
from patchlib.coursework.grade import Submission, failures, grade
from patchlib.coursework.release import release
from patchlib.errors import PatchlibError, RunError, TaskError
from tests.coursework import FOLDER, NOTEBOOKS, STUB, Sheet

TOY = Variant(model="toy:induction", seed=5, n_prompts=9)
needs_nbgrader = pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import nbgrader"], capture_output=True).returncode != 0,
    reason="nbgrader is not installed: pip install 'nbgrader>=0.9.6,<1'",
)


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    release(folder, TOY)
    return folder


def submit(course: Path, student: str, name: str, change=lambda cell: None) -> Path:
    """Hand in the source, with its solutions, each cell changed."""
    notebook = nbformat.read(course / "release" / name[:2] / f"{name}.ipynb", as_version=4)
    solutions = Sheet(name).solutions
    for cell in notebook.cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id") in solutions:
            cell.source = solutions[cell.metadata.nbgrader.grade_id]
        change(cell)
    path = course / "submitted" / student / name[:2] / f"{name}.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(notebook, path)
    return path


@needs_nbgrader
def test_a_release_has_no_solution_and_no_hidden_test(course):
    for name in NOTEBOOKS:
        path = course / "release" / name[:2] / f"{name}.ipynb"
        text, released = path.read_text(), nbformat.read(path, as_version=4)
        assert "SOLUTION" not in text and "HIDDEN" not in text
        source = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        for cell in source.cells:
            meta = cell.metadata.get("nbgrader", {})
            if cell.cell_type == "markdown" and meta.get("solution"):  # a model answer
                assert cell.source[:60] not in text
        for meta, cell in ((c.metadata.get("nbgrader", {}), c) for c in released.cells):
            if meta.get("solution") and cell.cell_type == "code":
                body = Sheet(name).solutions[meta.grade_id].split("### BEGIN SOLUTION\n")[1].split("    ### END")[0]
                assert body.strip() not in cell.source and "raise NotImplementedError()" in cell.source
        assert Variant.here(path.parent) == TOY


@needs_nbgrader
def test_a_release_fails_every_graded_cell(course, monkeypatch):
    monkeypatch.chdir(course / "release" / "01")
    for name in NOTEBOOKS:
        cells = nbformat.read(course / "release" / name[:2] / f"{name}.ipynb", as_version=4).cells
        names: dict = {}
        for cell in cells:
            meta = cell.metadata.get("nbgrader", {})
            if cell.cell_type != "code" or not meta:
                continue
            if meta.get("grade"):
                with pytest.raises(Exception, match=r"not written yet|NotImplementedError|is not defined"):
                    exec(cell.source, names)
            elif meta.get("solution") or meta.grade_id.startswith("setup"):
                exec(cell.source, names)


@needs_nbgrader
@pytest.mark.slow
def test_grades_cost_nobody_else_anything_and_are_not_made_twice(course):
    """One right, one that kills its kernel: points, reasons, exit code, and nothing is executed again."""
    name = NOTEBOOKS[0]
    submit(course, "ada", name)

    def dies(cell):
        if cell.metadata.get("nbgrader", {}).get("grade_id") == "effect":
            cell.source = "import os\nos._exit(1)"

    submit(course, "bob", name, dies)
    (course / "submitted" / "cem" / "01").mkdir(parents=True)
    command = [sys.executable, "-m", "patchlib", "coursework", "grade", str(course), "--only", "01"]
    environment = os.environ | {"PATCHLIB_VARIANT": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1, done.stderr
    table = grade(course, ["01"])  # in no time: all are graded
    by_student = {student: rows for student, rows in table.groupby("student")}
    sheet = Sheet(name)
    ada = by_student["ada"].set_index("exercise")
    assert ada.points.dropna().sum() == sum(sheet.points.values())
    assert (by_student["bob"].points == 0).all() and by_student["bob"].message.str.contains("kernel died").all()
    assert (by_student["cem"].points == 0).all() and by_student["cem"].message.str.contains("was handed in").all()
    assert [line.split(":")[0] for line in failures(course)] == ["bob 01", "cem 01"]
    assert {len(rows) for rows in by_student.values()} == {len(sheet.points) + 1}  # and what a person reads
    assert not list((course / "graded").glob("*/*.result.json"))
    record = Submission(course, "ada", "01").record
    record.write_text(json.dumps(json.loads(record.read_text()) | {"key": "of another submission"}))
    with pytest.raises(PatchlibError, match="seconds must be"):
        grade(course, ["01"], seconds=0)


def test_errors_name_the_mend(tmp_path, monkeypatch):
    with pytest.raises(RunError, match="there is no coursework '99'"):
        release(tmp_path, only=["99"])
    with pytest.raises(RunError, match="not in the wheel"):
        release(tmp_path, source=tmp_path)
    for said, mend in (
        ("{", "is no variant"),
        ('{"sed": 1}', "must be JSON such as"),
        ('{"seed": -1}', "seed must be"),
    ):
        monkeypatch.setenv("PATCHLIB_VARIANT", said)
        with pytest.raises(TaskError, match=mend):
            Variant.here()
    with pytest.raises(TaskError, match="no hand-built model"):
        Variant(model="toy:xor")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RunError, match="extra coursework"):
        grade(tmp_path)


def test_a_task_of_the_field_is_a_variant():
    from tests.tiny import load_tiny

    model = load_tiny("gpt2")
    with pytest.raises(TaskError, match="There is no task 'nonsense': choose ioi, GreaterThan"):
        Variant(task="nonsense").load_task(model)
    assert len(Variant(task="ioi", seed=2).load_task(model, shift=1, n_prompts=5)) == 5


def test_the_stub_is_nbgraders():
    nbgrader = pytest.importorskip("nbgrader.preprocessors")
    assert nbgrader.ClearSolutions().code_stub["python"] == STUB
