"""What nbval does not ask of a committed notebook: run to its end, small, with the common parameters."""

import statistics
from pathlib import Path

import nbformat
import papermill
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
PARAMETERS = {"model_name", "n_prompts", "seed", "device", "out_dir"}

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]


def test_every_cell_was_run_once_from_top_to_bottom_without_error(path):
    cells = code_cells(path)
    # nbval compares nothing where there is no count, and a kernel that was used twice counts on.
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert "error" not in {output.output_type for cell in cells for output in cell.outputs}


def test_it_is_small(path):
    lengths = [len(cell.source.splitlines()) for cell in code_cells(path)]
    assert len(lengths) <= 25
    assert statistics.median(lengths) <= 6
    assert path.stat().st_size < 500_000


def test_its_first_code_cell_has_the_parameters_that_every_notebook_takes(path):
    tagged = ["parameters" in cell.metadata.get("tags", []) for cell in code_cells(path)]
    assert tagged[0] and tagged.count(True) == 1
    # As papermill reads them, which is what its --help-notebook prints.
    found = papermill.inspect_notebook(path)
    assert set(found) >= PARAMETERS
    bare = [name for name, one in found.items() if not one["help"] or one["inferred_type_name"] == "None"]
    assert not bare, "no type or no comment"


def test_no_metadata_of_a_run_is_left(path):
    nb = nbformat.read(path, as_version=4)
    assert nb.metadata.kernelspec.name == "python3"
    for metadata in (nb.metadata, *(cell.metadata for cell in nb.cells)):
        assert not {"papermill", "execution", "widgets"} & set(metadata)
        assert "injected-parameters" not in metadata.get("tags", [])
