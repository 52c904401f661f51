"""Grids as files: which runs they are, what these are called, and what is refused before anything runs."""

from __future__ import annotations

import re

import nbformat
import pytest

from patchlib import RunError, read_grid
from tests.runs.small_grid import grid_writer, write_notebook


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
    odd = names(read_grid(tiny(grid={"mode": ["a/b", "a b", "x" * 300, "\u6587" * 300]})))
    assert len(set(odd)) == 4 and all("/" not in name and len(name.encode()) < 200 for name in odd)
    assert odd[:3] == names(read_grid(tiny(grid={"mode": ["a/b", "a b", "x" * 300]})))


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"sweeps": {}}, "unknown key 'sweeps'; it takes notebooks, parameters, grid, runs"),
        ({"parameter": {}}, "unknown key 'parameter'; did you mean 'parameters'. It takes"),
        ({"grid": {"sed": [1]}}, "no parameter 'sed'; did you mean 'seed'"),
        ({"grid": {"seed": [1, "one"]}}, r"seed of notebook tiny takes int, but was given 'one'"),
        ({"grid": {"seed": []}}, "needs a list of values"),
        ({"grid": {"seed": 3}}, r"such as \[3\], not 3"),
        ({"grid": {"mode": {"files": "prompts/*.csv"}}}, "'mode' of the grid asks for the files 'prompts/.*has none"),
        ({"grid": {"mode": {"files": 3}}}, "takes a list of values, or {files: "),
        ({"grid": {"mode": {"files": "*", "sort": True}}}, "takes a list of values, or {files: "),
        ({"grid": {"seed": {"files": "*.ipynb"}}}, "seed of notebook tiny takes int, but was given"),
        ({"grid": {"seed": [1, 2, 1]}}, "the same run twice: tiny,seed=1"),
        ({"runs": [{"seed": 3}]}, "each with its 'notebook'"),
        ({"notebooks": ["nowhere.ipynb"]}, r"no notebook 'nowhere.ipynb'"),
        ({"parameters": {"out_dir": "here"}}, "leave out_dir away"),
        ({"parameters": [1]}, "names parameters and their values"),
        ({"grid": {1: [2]}}, "the name 1 is no text; put it in quotes"),
        ({"notebooks": 2}, "'notebooks' is a list, such as"),
        ({"notebooks": []}, "'notebooks' is a list, such as"),
        ({"runs": {}}, "each with its 'notebook'"),
        ({"grid": {"mode": ["Good", "good"]}}, "the same run twice: tiny,mode=good"),
        ({"grid": {"other": [{0: 1}]}}, "the name 0 is no text; put it in quotes"),
        ({"grid": {"other": [float("nan")]}}, "other = nan of tiny cannot be kept as JSON"),
        ({"grid": {"seed": list(range(400)), "mode": list(map(str, range(400)))}}, "asks for 160,000 runs"),
        ({"grid": {"seed": list(range(4000)), "mode": ["x" * 40_000]}}, "more than 100,000,000 characters"),
    ],
)
def test_a_grid_that_cannot_be_run_is_refused_before_anything_runs(tiny, tmp_path, plan, said):
    notebook = nbformat.read(tmp_path / "tiny.ipynb", as_version=4)
    notebook.cells[0].source += "\nother = None"
    nbformat.write(notebook, tmp_path / "tiny.ipynb")
    with pytest.raises(RunError, match=said):
        read_grid(tiny(**plan))


def test_a_folder_of_files_is_a_run_for_each_called_by_its_stem(tiny, tmp_path, monkeypatch):
    (tmp_path / "prompts" / "more").mkdir(parents=True)
    for name in ("b.csv", "a.csv", "notes.txt", ".hidden.csv", "more/b.csv", "more/my own.csv"):
        (tmp_path / "prompts" / name).write_text("clean,corrupted\n")
    monkeypatch.chdir("/")
    grid = tiny(grid={"mode": {"files": "prompts/*.csv"}, "seed": [0, 1]})
    runs = read_grid(grid)
    assert names(runs) == [f"tiny,mode={name},seed={seed}" for name in "ab" for seed in (0, 1)]
    assert runs[0].parameters == {"mode": str(tmp_path / "prompts" / "a.csv"), "seed": 0}
    assert names(read_grid(tiny(grid={"mode": {"files": "prompts"}}))) == [
        "tiny,mode=a",
        "tiny,mode=b",
        "tiny,mode=notes",
    ]
    same = names(read_grid(tiny(grid={"mode": {"files": str(tmp_path / "prompts/**/*.csv")}})))
    assert [re.sub(r",[0-9a-f]{8}$", "", name) for name in same] == [
        "tiny,mode=a", "tiny,mode=prompts_b.csv", "tiny,mode=prompts_more_b.csv", "tiny,mode=my_own",
    ]  # fmt: skip


def test_paths_are_relative_to_the_grid_and_of_one_name_each(tmp_path, monkeypatch):
    for place in ("own", "other"):
        (tmp_path / place).mkdir()
        write_notebook(tmp_path / place).rename(tmp_path / place / "02_head_patching.ipynb")
    grid = tmp_path / "own" / "grid.yaml"
    for here in (tmp_path, tmp_path / "own", tmp_path / "other"):
        monkeypatch.chdir(here)
        grid.write_text("notebooks: [02_head_patching.ipynb]")
        assert [run.notebook for run in read_grid(grid)] == [tmp_path / "own" / "02_head_patching.ipynb"]
    grid.write_text("notebooks: [missing.ipynb]")
    with pytest.raises(RunError, match=r"no notebook 'missing.ipynb' in .*own;"):
        read_grid(grid)
    name = "02_head_patching.ipynb"
    grid.write_text(f"runs: [{{notebook: {name}, seed: 1}}, {{notebook: ../other/{name}, seed: 2}}]")
    with pytest.raises(RunError, match="two notebooks are called 02_head_patching"):
        read_grid(grid)


def test_a_file_that_is_no_grid_is_refused(tmp_path):
    for text, said in (
        ("a: [", "cannot be read"), ("", "holds no keys"), ("- 1", "holds no keys"),
        ("grid: {seed: [0, 1], seed: [2]}", "cannot be read: 'seed' stands there twice"),
        ("grid: {seed: 010}", "cannot be read: 010 is not the same to all readers of YAML"),
    ):  # fmt: skip
        (tmp_path / "grid.yaml").write_text(text)
        with pytest.raises(RunError, match=said):
            read_grid(tmp_path / "grid.yaml")
    with pytest.raises(RunError, match="cannot be read"):
        read_grid(tmp_path / "none.yaml")
