"""Sources pass all their tests in every variant; empty and wrong solutions fail, each with its own message."""

import pytest

from tests.coursework import CONTEXTS, FOLDER, NOTEBOOKS, Sheet, emptied, matrix, wrong_ones


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_matrix_on_a_tiny_model(name):
    says = {(wrong.of, wrong.name): wrong.says for wrong in wrong_ones(name)}
    seen = {}
    with next(iter(CONTEXTS.values()))():
        for row in matrix(name):
            answer = row["exercise"], row["answer"]
            seen.setdefault(row["exercise"], []).append(row["message"])
            if row["answer"] == "solution":
                assert row["points"] == row["of"], row
            else:
                assert row["points"] == 0, row
                assert says.get(answer, "not written yet") in row["message"], row
                assert "\n" not in row["message"], row
    for exercise, messages in seen.items():
        assert len(messages) >= 4, f"{exercise}: give at least two typical wrong solutions"
        assert len(set(messages)) == len(messages), f"{exercise}: two wrong solutions get the same message"


@pytest.mark.parametrize("context", list(CONTEXTS)[1:])
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_sources_pass_in_other_variants(name, context):
    with CONTEXTS[context]():
        sheet = Sheet(name)
        names = sheet.namespace()
        for exercise, points in sheet.points.items():
            assert sheet.graded(exercise, sheet.solutions[exercise], names) == (points, "")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_each_exercise_says_what_it_takes_and_helps_twice(name):
    sheet = Sheet(name)
    by_id = {cell.metadata.nbgrader.grade_id: cell for cell in sheet.notebook.cells if "nbgrader" in cell.metadata}
    for exercise, solution in sheet.solutions.items():
        question = by_id[f"{exercise}_question"]
        assert question.metadata.nbgrader.locked
        for wanted in ("*Difficulty ", " of 5", " minutes", " points", "**Objective:**"):
            assert wanted in question.source, f"{exercise}: {wanted}"
        assert question.source.count("<details><summary>Hint") == 2, exercise
        assert '"""' in solution and "BEGIN SOLUTION" not in emptied(solution), exercise
        assert "### BEGIN HIDDEN TESTS" in sheet.tests[exercise], exercise
        assert f"{exercise}_check" in by_id and by_id[f"{exercise}_check"].metadata.nbgrader.locked, exercise


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_sources_are_committed_without_outputs(name):
    for cell in Sheet(name).notebook.cells:
        assert cell.cell_type != "code" or (not cell.outputs and cell.execution_count is None)


def test_the_teachers_page_counts_the_points():
    page = (FOLDER / "README.md").read_text()
    for name in NOTEBOOKS:
        cells = Sheet(name).notebook.cells
        points = sum(cell.metadata.get("nbgrader", {}).get("points", 0) for cell in cells)
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {name[:2]} |")]
        assert row.endswith(f"| {points:g} |"), f"{name} has {points} points: {row}"
