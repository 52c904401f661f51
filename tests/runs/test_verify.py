"""Runs made again: what counts as the same numbers, and what the command says of runs that differ."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from patchlib import RunError, read_grid, run_grid, verify
from patchlib._util import sha256_of
from patchlib.cli import main
from patchlib.runs.execute.manifest import new_manifest
from patchlib.runs.execute.provenance import PACKAGE, _package_digest, code_hash, git_state, hardware, provenance
from patchlib.runs.report.verify import difference
from tests.runs.small_grid import grid_writer


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Three runs, of which one's table was tampered with and one cannot be repeated."""
    folder = tmp_path_factory.mktemp("grid")
    notebook = str(folder / "tiny.ipynb")
    runs = [
        {"notebook": notebook, "seed": 0},
        {"notebook": notebook, "seed": 1},
        {"notebook": notebook, "mode": "fail"},
    ]
    grid, out = grid_writer(folder)(notebooks=None, runs=runs), folder / "out"
    (out / "runs" / "tiny,mode=fail").mkdir(parents=True)
    (out / "runs" / "tiny,mode=fail" / "mended").touch()
    statuses = run_grid(read_grid(grid), out, workers=2)
    assert [status["status"] for status in statuses] == ["ok"] * 3
    table = out / "runs" / "tiny,seed=1" / "tiny.table.csv"
    table.write_text(table.read_text().replace("1,one", "1.5,one"))
    return out


@pytest.mark.slow
def test_each_file_is_compared_and_a_difference_is_exit_code_1(finished, capsys):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert main(["verify", str(finished), "--sample", "9", "--notebook", str(finished.parent / "tiny.ipynb")]) == 1
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "values largest run, file",
        "DIFFERS 0 nan tiny,mode=fail did not run again: failed, ValueError: seed 3 is unlucky",
        "same 6 0 tiny,seed=0 tiny.effects.nc",
        "same 2 0 tiny,seed=0 tiny.table.csv",
        "DIFFERS 0 nan tiny,seed=1 tiny.table.csv was changed after its run; repeat it",
        "3 runs again: 2 of 4 files have the same numbers",
    ]
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_sample_is_drawn_by_its_seed_and_the_tolerance_is_the_callers(finished, tmp_path):
    notebook, chosen = finished.parent / "tiny.ipynb", dict[str, int]()
    for seed in range(20):  # which seed draws the run that was tampered with, and nothing else, costs no run to know
        names = ["tiny,mode=fail", "tiny,seed=0", "tiny,seed=1"]
        chosen.setdefault(random.Random(seed).sample(names, 1)[0], seed)
    table = verify(finished, sample=1, seed=chosen["tiny,seed=1"], atol=1.0)  # what was changed needs no notebook
    assert list(table.run) == ["tiny,seed=1"] and not table.same.any()
    with pytest.raises(RunError, match=r"not patchlib's: look at that notebook, and name it \(--notebook tiny.ipynb\)"):
        verify(finished, sample=1, seed=chosen["tiny,seed=0"])
    signed = Path(shutil.copytree(finished, tmp_path / "signed")) / "runs" / "tiny,seed=1"  # by who changed it
    manifest = json.loads((signed / "tiny.manifest.json").read_text())
    for file in manifest["files"]:
        file["sha256"] = sha256_of(signed / file["name"])
    (signed / "tiny.manifest.json").write_text(json.dumps(manifest))
    table = verify(tmp_path / "signed", sample=1, seed=chosen["tiny,seed=1"], atol=1.0, notebooks=[notebook])
    assert set(table.run) == {"tiny,seed=1"} and table.same.all() and table.largest.max() == 0.5


def test_folders_that_cannot_be_verified_are_refused(tmp_path):
    with pytest.raises(RunError, match="there are no runs in"):
        verify(tmp_path)
    with pytest.raises(RunError, match="sample must be a whole number of 1 or more, not 0"):
        verify(tmp_path, sample=0)
    run = tmp_path / "runs" / "gone"
    run.mkdir(parents=True)
    (run / "status.json").write_text('{"status": "failed"}')
    with pytest.raises(RunError, match=r"no run in .* has finished"):
        verify(tmp_path)
    for name in ("gone", "02_head_patching"):  # the second by a path, so that it is not patchlib's
        manifest = new_manifest(name, {}) | {"repeat": f"patchlib run /no/{name}.ipynb"}
        (run / f"{name}.manifest.json").write_text(json.dumps(manifest))
        (run / "status.json").write_text(json.dumps({"status": "ok", "notebook": name}))
        with pytest.raises(RunError, match="gone is of a notebook that is not patchlib's"):
            verify(tmp_path)
    with pytest.raises(RunError, match=r"there is no notebook '/no/gone.ipynb'"):
        verify(tmp_path, notebooks=["/no/gone.ipynb"])


@pytest.mark.slow
def test_a_run_is_repeated_with_its_own_parameters_whatever_the_notebook_saved(tmp_path):
    grid = grid_writer(tmp_path)(parameters={"seed": 5})
    notebook = nbformat.read(tmp_path / "tiny.ipynb", as_version=4)
    notebook.cells[0].source += "\nsize: int = 2**10"  # no literal: what it is, the notebook alone can say
    notebook.cells[1].source = notebook.cells[1].source.replace('{"seed": seed, "mode": mode, ', "{")
    nbformat.write(notebook, tmp_path / "tiny.ipynb")
    (status,) = run_grid(read_grid(grid), tmp_path / "out")
    assert status["status"] == "ok"
    manifest = json.loads((tmp_path / "out" / "runs" / "tiny" / "tiny.manifest.json").read_text())
    assert manifest["parameters"]["seed"] == 5 and "size" not in manifest["parameters"]
    assert verify(tmp_path / "out", notebooks=[tmp_path / "tiny.ipynb"]).same.all()


BASE = xr.Dataset({"x": ("n", [1.0, np.nan, np.inf]), "i": ("n", [1, 2, 3])}, {"name": ("n", ["a", "b", "c"])})


@pytest.mark.parametrize(
    ("other", "fault"),
    [
        (BASE.assign_attrs(seconds=3), None),
        (BASE.assign(x=BASE.x + 5e-5), None),
        (BASE.assign(x=BASE.x + 0.1), "x differs"),
        (BASE.assign(x=BASE.x.fillna(0)), "x differs"),
        (BASE.assign(i=-BASE.i), "i differs"),
        (BASE.assign_coords(name=("n", ["a", "b", "d"])), "name differs"),
        (BASE.rename(x="y"), "has other variables: x, y"),
        (BASE.isel(n=[0, 1]), "x has shape (2,) now and had (3,)"),
    ],
)
def test_datasets_are_the_same_where_their_numbers_and_names_are(tmp_path, other, fault):
    for name, dataset in {"old.nc": BASE, "new.nc": other}.items():
        dataset.to_netcdf(tmp_path / name, engine="h5netcdf")
    found = difference(tmp_path / "old.nc", tmp_path / "new.nc")
    assert found.note == fault or (fault and found.note and fault in found.note)
    if fault is None:
        assert found.n_values == 9 and found.largest < 1e-4


def test_tables_with_text_gaps_and_damage_are_compared(tmp_path):
    old, new = tmp_path / "old.csv", tmp_path / "new.csv"
    pd.DataFrame({"head": ["L1H0", None], "score": [0.5, np.nan], "yes": [True, False]}).to_csv(old, index=False)
    new.write_bytes(old.read_bytes())
    assert difference(old, new).note is None
    new.write_text(old.read_text().replace("L1H0", "L1H1"))
    assert difference(old, new).note == "head differs"
    new.write_text("")
    assert "cannot be read" in str(difference(old, new).note)
    (tmp_path / "broken.nc").write_bytes(b"not a file of numbers")
    assert "cannot be read" in str(difference(tmp_path / "broken.nc", tmp_path / "broken.nc").note)


def test_provenance_has_the_seeds_the_code_the_machine_and_a_commit_only_of_a_checkout(tmp_path):
    found = provenance({"seed": 3, "data_seed": 4, "seedling": 5, "n": 6})
    assert found["seeds"] == {"seed": 3, "data_seed": 4}
    assert found["code_hash"] == code_hash() and len(found["code_hash"]) == 16
    assert found["hardware"] == hardware() and found["hardware"]["cores"] >= 1
    assert git_state(tmp_path) is None


def test_git_state_tells_a_clean_from_a_changed_checkout(tmp_path):
    def git(*words: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-qm", "first")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD").strip(), "dirty": False}
    (tmp_path / "new").write_text("not tracked")
    assert git_state(tmp_path)["dirty"] is False
    (tmp_path / "file").write_text("two")
    assert git_state(tmp_path)["dirty"] is True
    (tmp_path / "below").mkdir()
    assert git_state(tmp_path / "below") is None  # somebody else's repository around an installed package


def test_the_code_hash_is_of_a_notebooks_code_and_not_of_its_outputs(tmp_path):
    grid_writer(tmp_path)
    path = tmp_path / "tiny.ipynb"
    before = code_hash(path)
    notebook = json.loads(path.read_text())
    notebook["cells"][0]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "1"}]
    path.write_text(json.dumps(notebook, indent=3))
    assert code_hash(path) == before != code_hash()
    notebook["cells"][0]["source"] = "x = 2"
    path.write_text(json.dumps(notebook))
    assert code_hash(path) != before


def test_the_code_hash_is_of_the_tasks_words_too(tmp_path, monkeypatch):
    shutil.copytree(PACKAGE / "tasks", tmp_path / "tasks")
    monkeypatch.setattr("patchlib.runs.execute.provenance.PACKAGE", tmp_path)
    _package_digest.cache_clear()
    before = code_hash()
    words = tmp_path / "tasks" / "words.yaml"
    words.write_text(words.read_text().replace("Mary", "Marie"))
    _package_digest.cache_clear()
    after = code_hash()
    _package_digest.cache_clear()
    assert before != after
