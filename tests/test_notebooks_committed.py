"""What nbval does not ask of a committed notebook: run to its end, small, with the common parameters."""

import statistics
import sys
import tomllib
import types
from pathlib import Path

import nbformat
import papermill
import pytest
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARAMETERS = {"model_name", "n_prompts", "seed", "device", "out_dir"}
SWEEPS = {"01_layer_patching", "02_head_patching"}  # which may be done in parts
OVER_RUNS = {"folder", "figure_mb"}  # of many_runs, which runs no model

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


def test_the_first_cell_installs_patchlib_on_colab_and_only_there(path, monkeypatch):
    cell = code_cells(path)[0]
    assert cell.metadata.tags == ["colab"]
    asked = []

    class Shell:
        def run_line_magic(self, name, line):
            asked.append((name, line))

    def run_cell() -> None:
        exec(TransformerManager().transform_cell(cell.source), {"get_ipython": Shell})

    run_cell()
    assert not asked
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    run_cell()
    repository = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    assert asked == [("pip", f"install -q git+{repository}")]


def test_the_cell_after_it_has_the_parameters_that_every_notebook_takes(path):
    tagged = ["parameters" in cell.metadata.get("tags", []) for cell in code_cells(path)]
    assert tagged[1] and tagged.count(True) == 1
    # As papermill reads them, which is what its --help-notebook prints.
    found = papermill.inspect_notebook(path)
    wanted = PARAMETERS | ({"layers"} if path.stem in SWEEPS else set())
    assert set(found) >= (OVER_RUNS if path.stem == "many_runs" else wanted)
    bare = [name for name, one in found.items() if not one["help"] or one["inferred_type_name"] == "None"]
    assert not bare, "no type or no comment"


def test_no_metadata_of_a_run_is_left_but_how_long_it_takes(path):
    nb = nbformat.read(path, as_version=4)
    assert set(nb.metadata.patchlib) == {"seconds", "cores"}  # by .ci/notebooks.py
    assert nb.metadata.kernelspec.name == "python3"
    for metadata in (nb.metadata, *(cell.metadata for cell in nb.cells)):
        assert not {"papermill", "execution", "widgets"} & set(metadata)
        assert "injected-parameters" not in metadata.get("tags", [])
