"""Grids as files: which runs they are, what these are called, and what is refused before anything runs."""

from __future__ import annotations

import pytest

from patchlib import RunError, read_grid
from tests.small_grid import grid_writer


@pytest.fixture
def tiny(tmp_path):
    return grid_writer(tmp_path)


def names(runs):
    return [run.name for run in runs]


def test_a_grid_is_every_combination_and_the_single_runs(tiny):
    grid = tiny(grid={"seed": [0, 1], "mode": ["good", "slow"]}, runs=[{"notebook": "02", "seed": 7}])
    assert names(read_grid(grid)) == [
        "tiny,mode=good,seed=0", "tiny,mode=slow,seed=0", "tiny,mode=good,seed=1", "tiny,mode=slow,seed=1",
        "02_head_patching,seed=7",
    ]  # fmt: skip
    assert [dict(run.parameters) for run in read_grid(tiny(parameters={"mode": "slow"}))] == [{"mode": "slow"}]
    odd = names(read_grid(tiny(grid={"mode": ["a/b", "a b", "x" * 300]})))
    assert len(set(odd)) == 3 and all("/" not in name and len(name) < 200 for name in odd)
    assert odd == names(read_grid(tiny(grid={"mode": ["a/b", "a b", "x" * 300]})))


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"sweeps": {}}, "unknown key 'sweeps'; it takes notebooks, parameters, grid, runs"),
        ({"parameter": {}}, "unknown key 'parameter'; did you mean 'parameters'. It takes"),
        ({"grid": {"sed": [1]}}, "no parameter 'sed'; did you mean 'seed'"),
        ({"grid": {"seed": [1, "one"]}}, r"seed of notebook tiny takes int, but was given 'one'"),
        ({"grid": {"seed": []}}, "needs a list of values"),
        ({"grid": {"seed": 3}}, r"such as \[3\], not 3"),
        ({"grid": {"seed": [1, 2, 1]}}, "the same run twice: tiny,seed=1"),
        ({"runs": [{"seed": 3}]}, "each with its 'notebook'"),
        ({"notebooks": ["nowhere.ipynb"]}, r"no notebook 'nowhere.ipynb'"),
        ({"parameters": {"out_dir": "here"}}, "leave out_dir away"),
        ({"parameters": [1]}, "names parameters and their values"),
    ],
)
def test_a_grid_that_cannot_be_run_is_refused_before_anything_runs(tiny, plan, said):
    with pytest.raises(RunError, match=said):
        read_grid(tiny(**plan))


def test_a_file_that_is_no_grid_is_refused(tmp_path):
    for text, said in (("a: [", "cannot be read"), ("", "holds no keys"), ("- 1", "holds no keys")):
        (tmp_path / "grid.yaml").write_text(text)
        with pytest.raises(RunError, match=said):
            read_grid(tmp_path / "grid.yaml")
    with pytest.raises(RunError, match="cannot be read"):
        read_grid(tmp_path / "none.yaml")
