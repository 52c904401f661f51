"""Grids with real kernels, processes and Dask workers: what is run, skipped, repeated, refused and kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
import yaml
from distributed import Client, LocalCluster

import patchlib
from patchlib import RunError, read_grid, run_grid
from patchlib.cli import main
from patchlib.runs.status import read_status

PARAMETERS = 'seed: int = 0\nmode: str = "good"  # good, fail, die, hang or slow\nout_dir: str = "out"'
WORK = """
import os, signal, time
from pathlib import Path
import pandas as pd
from patchlib.runs import save_run
if mode == "fail" and not Path(out_dir, "mended").exists():
    raise ValueError("seed 3 is unlucky")
if mode == "die" and not Path(out_dir, "died").exists():
    Path(out_dir, "died").touch()
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep({"hang": 120, "slow": 2}.get(mode, 0))
save_run(out_dir, "tiny", {"table": pd.DataFrame({"seed": [seed]})}, {"seed": seed, "mode": mode, "out_dir": out_dir})
"""


@pytest.fixture
def tiny(tmp_path):
    """A notebook that takes a second or two, beside a function that writes a grid over it."""
    path = tmp_path / "tiny.ipynb"
    cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(WORK)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)

    def write(**plan):
        grid = tmp_path / "grid.yaml"
        grid.write_text(yaml.safe_dump({"notebooks": [str(path)], **plan}, sort_keys=False))
        return grid

    write.notebook = path
    return write


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


@pytest.mark.slow
def test_one_of_six_fails_and_alone_is_repeated(tiny, tmp_path, capsys):
    runs = [
        {"notebook": str(tiny.notebook), "seed": seed, "mode": "fail" if seed == 3 else "good"} for seed in range(6)
    ]
    grid, out = tiny(notebooks=None, runs=runs), tmp_path / "out"
    assert main(["grid", str(grid), "-o", str(out), "--dry-run"]) == 0
    assert "6 runs, 6 to do" in capsys.readouterr().out and not out.exists()
    assert main(["grid", str(grid), "-o", str(out), "--workers", "2"]) == 1
    said = capsys.readouterr().out
    assert "ValueError: seed 3 is unlucky" in said and said.endswith("5 ok, 1 failed\n")
    collected = patchlib.collect(out)
    assert collected.runs.status.value_counts().to_dict() == {"ok": 5, "failed": 1}
    assert collected.table("tiny", "table").seed.tolist() == [0, 1, 2, 4, 5]

    first = {path.name: read_status(path) for path in (out / "runs").iterdir()}
    (out / "runs" / "tiny,mode=fail,seed=3" / "mended").touch()
    assert main(["grid", str(grid), "-o", str(out), "--workers", "2"]) == 0
    again = {path.name: read_status(path) for path in (out / "runs").iterdir()}
    assert [name for name in again if again[name] != first[name]] == ["tiny,mode=fail,seed=3"]
    assert main(["grid", str(grid), "-o", str(out), "--dry-run"]) == 0
    assert "6 runs, 0 to do" in capsys.readouterr().out


@pytest.mark.slow
def test_a_kernel_that_dies_is_tried_again_and_one_that_hangs_is_stopped(tiny, tmp_path):
    (died,) = run_grid(read_grid(tiny(grid={"mode": ["die"]})), tmp_path / "out")
    assert (died["status"], died["attempts"]) == ("ok", 2)
    (hung,) = run_grid(read_grid(tiny(grid={"mode": ["hang"]})), tmp_path / "out", timeout=15)
    assert (hung["status"], hung["attempts"], hung["error"]) == ("timeout", 1, "took longer than 15 s")
    left = [one for one in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(one.info["cmdline"] or [])]
    assert not left


@pytest.mark.slow
def test_other_code_or_parameters_are_not_mixed_and_damaged_results_are_made_again(tiny, tmp_path):
    out = tmp_path / "out"
    (first,) = run_grid(read_grid(tiny(grid={"seed": [1]})), out)
    with pytest.raises(RunError, match="was made by other parameters; take another folder, or --force"):
        run_grid(read_grid(tiny(grid={"seed": [1]}, parameters={"mode": "slow"})), out)
    table = out / "runs" / "tiny,seed=1" / "tiny.table.csv"
    table.write_text("seed\n5\n")
    (second,) = run_grid(read_grid(tiny(grid={"seed": [1]})), out)
    assert table.read_text() == "seed\n1\n" and second["finished_utc"] >= first["finished_utc"]

    notebook = nbformat.read(tiny.notebook, as_version=4)
    notebook.cells[1].source += "\nprint('new')"
    other = tmp_path / "other"
    other.mkdir()
    nbformat.write(notebook, other / "tiny.ipynb")
    changed = read_grid(tiny(notebooks=[str(other / "tiny.ipynb")], grid={"seed": [1]}))
    with pytest.raises(RunError, match="was made by other code"):
        run_grid(changed, out)
    (forced,) = run_grid(changed, out, force=True)
    assert forced["status"] == "ok" and forced["code_hash"] != second["code_hash"]


@pytest.mark.slow
def test_a_dask_worker_that_is_killed_costs_only_its_own_run(tiny, tmp_path):
    runs = read_grid(tiny(grid={"seed": list(range(4)), "mode": ["slow"]}))
    ended = []
    two = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with LocalCluster(**two) as cluster, Client(cluster) as client:
        pids = list(client.run(os.getpid).values())

        def told(status):
            ended.append(status["name"])
            if len(ended) == 1:
                os.kill(pids[0], signal.SIGKILL)

        executor = client.get_executor(pure=False, retries=2)
        statuses = run_grid(runs, tmp_path / "out", executor=executor, told=told)
    assert [status["status"] for status in statuses] == ["ok"] * 4 and len(ended) == 4
    assert patchlib.collect(tmp_path / "out").table("tiny", "table").seed.tolist() == list(range(4))


@pytest.mark.slow
def test_an_interrupted_grid_leaves_no_process_behind_and_goes_on(tiny, tmp_path):
    grid, out = tiny(grid={"seed": [0, 1, 2], "mode": ["slow"]}), tmp_path / "out"
    command = [sys.executable, "-m", "patchlib.cli", "grid", str(grid), "-o", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and "ok" in process.stdout.readline()
    time.sleep(2)  # the second one is under way
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "what had finished is kept" in said
    found = [json.loads(path.read_text())["status"] for path in sorted(out.glob("runs/*/status.json"))]
    assert found[0] == "ok" and found[1] in ("interrupted", "failed") and found[2] == "waiting"
    end = time.monotonic() + 20
    while [one for one in psutil.process_iter(["cmdline"]) if "patchlib.runs.child" in (one.info["cmdline"] or [])]:
        assert time.monotonic() < end
        time.sleep(0.2)
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0 and finished.stdout.endswith("3 ok\n") and len(finished.stdout.splitlines()) == 3
