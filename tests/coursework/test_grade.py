"""The queue of submissions: limits, interrupts, nothing done twice, with processes that only pretend to grade."""

import shutil
import sys

import pytest

from patchlib.coursework import grade as grading
from patchlib.errors import RunError
from tests.coursework import FOLDER, NOTEBOOKS, Sheet

NAME = NOTEBOOKS[0]
EXERCISES = [*Sheet(NAME).tests, "maps_explained"]
GRADES = """
import json, sys
job = json.loads(sys.stdin.readline())
rows = [{"exercise": "effect", "points": 1 + len(job["student"]), "of": 9, "message": ""}]
json.dump({"rows": rows}, open(job["result"], "w"))
"""
FAULTS = {
    "took longer than 1 s": "import time; time.sleep(60)",
    "took more than 0.2 GB of memory": "text = 'x' * 10**9; import time; time.sleep(60)",
    "its process ended with code 9": "import os; os._exit(9)",
    "its kernel died": "import json, sys; job = json.loads(sys.stdin.readline()); "
    "json.dump({'failed': 'its kernel died'}, open(job['result'], 'w'))",
}


@pytest.fixture
def course(tmp_path, monkeypatch):
    """Three submissions of a notebook."""
    monkeypatch.setattr(grading, "course_of", lambda root: None)
    for folder in ("source", *(f"submitted/{student}" for student in ("ada", "bo", "cem"))):
        (tmp_path / folder / "01").mkdir(parents=True)
        shutil.copy(FOLDER / f"{NAME}.ipynb", tmp_path / folder / "01")
    return tmp_path


def pretend(monkeypatch, code):
    monkeypatch.setattr(grading, "_CHILD", [sys.executable, "-c", code])


@pytest.mark.parametrize("reason", FAULTS)
def test_a_submission_that_cannot_be_executed_costs_itself(course, monkeypatch, reason):
    of_the_second = f"import sys, io, json\nline = sys.stdin.readline()\nsys.stdin = io.StringIO(line)\n" \
        f"exec({FAULTS[reason]!r} if json.loads(line)['student'] == 'bo' else {GRADES!r})"  # fmt: skip
    pretend(monkeypatch, of_the_second)
    limits = {"seconds": 1 if "longer" in reason else 60, "gigabytes": 0.2}
    table = grading.grade(course, workers=3, **limits)
    lost = table[table.student == "bo"]
    assert set(lost.message) == {reason} and not lost.points.any()
    assert lost.exercise.tolist() == [f"01 {name}" for name in EXERCISES]
    others = table[(table.student != "bo") & (table.exercise == "01 effect")]
    assert others.points.tolist() == [4, 4] and set(table.of) == {9, *Sheet(NAME).points.values(), 4}
    assert grading.failures(course) == [f"bo 01: {reason}"]


def test_an_interrupt_loses_nothing_and_what_is_graded_is_not_graded_again(course, monkeypatch):
    pretend(monkeypatch, GRADES)

    def interrupts(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        grading.grade(course, told=interrupts)
    rows = (course / "grades.csv").read_text().splitlines()
    assert 1 + len(EXERCISES) <= len(rows) < 1 + 3 * len(EXERCISES)
    told = []
    table = grading.grade(course, told=told.append)
    assert len(told) <= 3 and "are graded already" in told[0] and set(table.student) == {"ada", "bo", "cem"}
    told.clear()
    changed = course / "submitted" / "bo" / "01" / f"{NAME}.ipynb"
    changed.write_text(changed.read_text() + "\n")
    grading.grade(course, told=told.append)
    assert len(told) == 2 and told[1].startswith("bo ")
    told.clear()
    grading.grade(course, told=told.append, again=True)
    assert len(told) == 3


def test_a_graded_cell_that_was_deleted_counts(course, monkeypatch):
    pretend(monkeypatch, GRADES)
    table = grading.grade(course)
    missing = table[table.exercise != "01 effect"]
    assert len(missing) == 3 * (len(EXERCISES) - 1)
    assert set(missing.message) == {"its graded cell is missing"} and not missing.points.any()


def test_errors_name_the_mend(course, monkeypatch, tmp_path):
    with pytest.raises(RunError, match="01 were released"):
        grading.grade(course, ["07"])
    with pytest.raises(RunError, match="comes first"):
        grading.grade(tmp_path / "elsewhere")
    shutil.rmtree(course / "submitted")
    with pytest.raises(RunError, match="put notebooks into submitted/STUDENT/01/"):
        grading.grade(course)
