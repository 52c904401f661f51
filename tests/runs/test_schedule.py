"""Grids that run: real kernels, processes and Dask workers; what is skipped, repeated, refused, lost and kept.

Where only the driver is looked at, a script stands for the notebook; such a test says so in its name.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import nbformat
import psutil
import pytest
import submitit
from distributed import Client, LocalCluster

import patchlib
from patchlib import RunError, read_grid, run_grid
from patchlib.cli import main, say
from patchlib.runs.execute.provenance import code_hash
from patchlib.runs.files import alone
from patchlib.runs.folder import RunFolder
from patchlib.runs.grid import attempt, schedule
from tests.runs.small_grid import grid_writer

STUB = """
import json, sys, time, pathlib
job = json.loads(sys.stdin.readline())
folder, values = pathlib.Path(job["folder"]), job["parameters"]
(folder / ".half.tmp").touch()
if values["mode"] == "hang":
    time.sleep(60)
weights = (folder.parents[1] / f"weights of {values['seed']}")
models = [{"name": "m", "weights_hash": weights.read_text() if weights.exists() else "1"}]
code = "another" if values["mode"] == "fail" else job["code"]
(folder / ".half.tmp").unlink()
(folder / "tiny.manifest.json").write_text(json.dumps(
    {"notebook": "tiny", "code_hash": code, "models": models, "files": [], "peak_memory_mb": 1.0, "error": None,
     "status": "ok", "parameters": values, "headline": {}, "wall_time_s": 1, "finished_utc": "2026-01-01T00:00:00Z"}))
"""


@pytest.fixture
def tiny(tmp_path):
    return grid_writer(tmp_path)


@pytest.fixture
def stub(monkeypatch):
    """Children that start at once, read the job and write a manifest: real processes, no notebook."""
    monkeypatch.setattr(attempt, "_CHILD", [sys.executable, "-I", "-S", "-c", STUB])


def attempts(folder: Path) -> dict[str, int]:
    return {path.name: RunFolder(path).status["attempts"] for path in sorted((folder / "runs").iterdir())}


def wait_for(condition, seconds=300) -> None:  # on a busy machine a kernel takes a minute to come up
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def left_behind(text: str) -> list[psutil.Process]:
    return [one for one in psutil.process_iter(["cmdline"]) if text in " ".join(one.info["cmdline"] or [])]


@pytest.mark.slow
def test_one_of_four_fails_and_alone_is_repeated(tiny, tmp_path, capsys):
    runs = [
        {"notebook": str(tmp_path / "tiny.ipynb"), "seed": n, "mode": "fail" if n == 3 else "good"} for n in range(4)
    ]
    grid, out = tiny(notebooks=None, runs=runs), tmp_path / "out"
    assert main(["grid", str(grid), "-o", str(out), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "4 runs, 4 to do; nothing is known of the time of tiny" in said and not out.exists()
    assert main(["grid", str(grid), "-o", str(out), "--workers", "2"]) == 1
    said = capsys.readouterr().out
    page = f"Open the page: {(out / 'report.html').as_uri()}\n"
    assert "ValueError: seed 3 is unlucky" in said and said.endswith(f"3 ok, 1 failed\n{page}")
    assert "seed 3 is unlucky" in (out / "report.html").read_text()
    collected = patchlib.collect(out)
    assert collected.runs.status.value_counts().to_dict() == {"ok": 3, "failed": 1}
    assert collected.table("tiny", "table").seed.tolist() == [0, 1, 2]
    manifest = json.loads((out / "runs" / "tiny,mode=good,seed=1" / "tiny.manifest.json").read_text())
    assert manifest["seeds"] == {"seed": 1} and manifest["hardware"]["cores"] == os.cpu_count()
    assert manifest["hardware"]["cpu"] and manifest["hardware"]["memory_gb"] > 0.5
    assert manifest["git"] is None or {"commit", "dirty"} == set(manifest["git"])

    first = {path.name: RunFolder(path).status for path in (out / "runs").iterdir()}
    assert {status["code_hash"] for status in first.values()} == {manifest["code_hash"]}
    (out / "runs" / "tiny,mode=fail,seed=3" / "mended").touch()
    assert main(["grid", str(grid), "-o", str(out), "--dry-run"]) == 0
    assert "4 runs, 1 to do: about " in capsys.readouterr().out
    assert main(["grid", str(grid), "-o", str(out), "--workers", "2"]) == 0
    again = {path.name: RunFolder(path).status for path in (out / "runs").iterdir()}
    assert [name for name in again if again[name] != first[name]] == ["tiny,mode=fail,seed=3"]


@pytest.mark.slow
def test_a_kernel_that_dies_is_tried_again_and_one_that_hangs_is_stopped(tiny, tmp_path):
    (died,) = run_grid(read_grid(tiny(grid={"mode": ["die"]})), tmp_path / "out")  # without a limit: it may take long
    (hung,) = run_grid(read_grid(tiny(grid={"mode": ["hang"]})), tmp_path / "out", timeout=5)
    assert (died["status"], died["attempts"]) == ("ok", 2)
    assert (hung["status"], hung["attempts"], hung["error"]) == ("timeout", 1, "took longer than 5 s")
    assert not left_behind(str(tmp_path)) and not list(tmp_path.rglob(".*.tmp"))


@pytest.mark.slow
def test_a_dask_worker_that_is_killed_costs_only_its_own_run(tiny, tmp_path):
    runs = read_grid(tiny(runs=[{"notebook": str(tmp_path / "tiny.ipynb"), "seed": 9, "mode": "orphan"}],
                          grid={"seed": [0, 1, 2], "mode": ["slow"]}))  # fmt: skip
    two = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with LocalCluster(**two) as cluster, Client(cluster) as client:
        before = set(client.run(os.getpid).values())
        statuses = run_grid(runs, tmp_path / "out", executor=client.get_executor(pure=False))
        after = set(client.run(os.getpid).values())
    assert len(before & after) == 1  # the other worker is a new one
    # Dask's own setting, with which a model's run takes half as long again
    assert "trim None" in (tmp_path / "out" / "runs" / "tiny,mode=slow,seed=0" / "tiny.ipynb").read_text()
    assert [status["status"] for status in statuses] == ["ok"] * 4
    assert attempts(tmp_path / "out") == {
        "tiny,mode=orphan,seed=9": 2,
        "tiny,mode=slow,seed=0": 1,
        "tiny,mode=slow,seed=1": 1,
        "tiny,mode=slow,seed=2": 1,
    }
    assert patchlib.collect(tmp_path / "out").table("tiny", "table").seed.tolist() == [9, 0, 1, 2]


@pytest.mark.slow
def test_a_pool_that_breaks_with_its_worker_is_made_again_and_costs_only_that_run(tiny, tmp_path):
    runs = read_grid(tiny(grid={"mode": ["good", "orphan"], "seed": [0]}))
    spawn = get_context("spawn")

    def pool() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, mp_context=spawn)

    statuses = run_grid(runs, tmp_path / "out", executor=pool)
    assert [status["status"] for status in statuses] == ["ok", "ok"]
    assert attempts(tmp_path / "out") == {"tiny,mode=good,seed=0": 1, "tiny,mode=orphan,seed=0": 2}

    with pool() as mine, pytest.raises(RunError, match=r"the executor broke .* what had finished is kept"):
        run_grid(runs, tmp_path / "other", executor=mine)
    assert RunFolder(tmp_path / "other" / "runs" / "tiny,mode=good,seed=0").status["status"] == "ok"


@pytest.mark.slow
def test_submitit_which_brings_runs_to_slurm_is_waited_for(tiny, tmp_path):
    slurm = submitit.AutoExecutor(tmp_path / "jobs", cluster="local")  # its jobs are processes of their own here
    slurm.update_parameters(timeout_min=5)
    runs = read_grid(tiny(grid={"seed": [0, 1]}))
    assert [status["status"] for status in run_grid(runs, tmp_path / "out", executor=slurm)] == ["ok", "ok"]
    assert len(list((tmp_path / "jobs").glob("*_result.pkl"))) == 2
    assert not run_grid(runs[:0], tmp_path / "out", executor=slurm)


def test_what_is_no_executor_is_refused_before_anything_is_written(tiny, tmp_path):
    with pytest.raises(RunError, match="executor takes what can `submit`, or a function that makes it, not str"):
        run_grid(read_grid(tiny()), tmp_path / "out", executor="slurm")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM])  # Ctrl-C, and what Slurm sends
def test_an_interrupted_grid_leaves_no_process_behind_and_goes_on(tiny, tmp_path, way):
    grid, out = tiny(grid={"seed": [0, 1, 2], "mode": ["wait"]}), tmp_path / "out"
    command = [sys.executable, "-m", "patchlib", "grid", str(grid), "-o", str(out)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    folders = [out / "runs" / f"tiny,mode=wait,seed={seed}" for seed in range(3)]
    wait_for(lambda: (folders[1] / "begun").is_file())  # its kernel is at it, and will be until it is told to go on
    children = psutil.Process(process.pid).children(recursive=True)
    with pytest.raises(RunError, match=r"another grid is at work in .*out; wait until it ends"):
        run_grid(read_grid(grid), out)
    process.send_signal(way)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130 and said == "patchlib: interrupted; what had finished is kept\n"
    assert [RunFolder(folder).status["status"] for folder in folders] == ["ok", "interrupted", "waiting"]
    assert len(children) >= 2 and not psutil.wait_procs(children, timeout=60)[1]
    assert not list(out.rglob(".*.tmp"))
    kept = (folders[0] / "tiny.manifest.json").read_bytes()
    (out / "go").touch()
    finished = subprocess.run(command, capture_output=True, text=True)
    lines = finished.stdout.splitlines()
    assert finished.returncode == 0 and lines[-2] == "3 ok" and len(lines) == 4
    assert (folders[0] / "tiny.manifest.json").read_bytes() == kept


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MB, which takes root."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"no small disk can be mounted here: {mount.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_clear_error_and_what_had_finished_is_whole(tiny, small_disk):
    runs = read_grid(tiny(grid={"seed": [0, 1], "mode": ["slow"]}))
    first, second = (small_disk / "runs" / run.name for run in runs)
    ballast = small_disk / "ballast"

    def fill(status) -> None:
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 4096)
            except OSError:
                pass

    with pytest.raises(RunError, match=r"cannot (write|run in) .*: No space left on device") as caught:
        run_grid(runs, small_disk, told=fill)
    assert "\n" not in str(caught.value)
    kept = RunFolder(first).status
    assert kept["status"] == "ok" and RunFolder(first).damage() is None and RunFolder(second).status["status"] != "ok"
    assert not list(small_disk.rglob(".*.tmp")) and not left_behind(str(small_disk))
    ballast.unlink()
    statuses = run_grid(runs, small_disk)
    assert statuses[0] == kept and statuses[1]["status"] == "ok" and RunFolder(second).damage() is None


@pytest.mark.slow
def test_other_code_or_parameters_are_not_mixed_and_damaged_results_are_made_again(tiny, tmp_path):
    out, notebook = tmp_path / "out", tmp_path / "tiny.ipynb"
    (first,) = run_grid(read_grid(tiny(grid={"seed": [1]})), out)
    with pytest.raises(RunError, match="was made by other parameters; take another folder, or --force"):
        run_grid(read_grid(tiny(grid={"seed": [1]}, parameters={"mode": "slow"})), out)
    table = out / "runs" / "tiny,seed=1" / "tiny.table.csv"
    good = table.read_text()
    table.write_text("seed\n5\n")
    (second,) = run_grid(read_grid(tiny(grid={"seed": [1]})), out)
    assert table.read_text() == good and second["finished_utc"] >= first["finished_utc"]

    changed = nbformat.read(notebook, as_version=4)
    changed.cells[1].source += "\nprint('new')"
    nbformat.write(changed, notebook)
    with pytest.raises(RunError, match=r"tiny,seed=1 in .* was made by other code"):
        run_grid(read_grid(tiny(grid={"seed": [1]})), out)
    with pytest.raises(RunError, match=r"tiny,seed=1 of an earlier grid in .* was made by other code"):
        run_grid(read_grid(tiny(grid={"seed": [2]})), out)
    (tmp_path / "beside.py").write_text("V = 1")  # which nothing imports
    assert code_hash(notebook) != second["code_hash"] and code_hash(notebook) == (was := code_hash(notebook))
    changed.cells[1].source += "\nfrom beside import V"
    nbformat.write(changed, notebook)
    now = code_hash(notebook)
    (tmp_path / "beside.py").write_text("V = 2")
    assert len({was, now, code_hash(notebook)}) == 3  # a module that it imports is a part of it
    (forced,) = run_grid(read_grid(tiny(grid={"seed": [1]})), out, force=True)
    assert forced["status"] == "ok" and forced["code_hash"] != second["code_hash"]


def test_other_weights_are_refused_and_repeated_by_force_with_a_stub_for_the_notebook(tiny, tmp_path, stub):
    plan = {"grid": {"seed": [0, 1]}, "parameters": {"mode": "good"}}
    (tmp_path / "weights of 1").write_text("2")
    with pytest.raises(RunError, match="m had other weights in tiny,seed=0 than in tiny,seed=1"):
        run_grid(read_grid(tiny(**plan)), tmp_path)
    before = attempt_times(tmp_path)
    with pytest.raises(RunError, match="m had other weights"):
        run_grid(read_grid(tiny(**{**plan, "grid": {"seed": [0, 1, 2]}})), tmp_path)
    with pytest.raises(RunError, match="m had other weights"):  # nor beside those of another grid
        run_grid(read_grid(tiny(**{**plan, "grid": {"seed": [0]}})), tmp_path)
    assert attempt_times(tmp_path) == before  # refused before anything ran
    (tmp_path / "weights of 1").unlink()
    assert [one["status"] for one in run_grid(read_grid(tiny(**plan)), tmp_path, force=True)] == ["ok", "ok"]
    assert all(attempt_times(tmp_path)[name] > before[name] for name in before)


def attempt_times(folder: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("runs/*/log.txt")}


def test_code_that_changed_meanwhile_fails_the_run_with_a_stub_for_the_notebook(tiny, tmp_path, stub):
    (status,) = run_grid(read_grid(tiny(parameters={"mode": "fail", "seed": 0})), tmp_path)
    assert status["status"] == "failed" and "changed during this run" in status["error"]


@pytest.mark.slow
def test_code_that_changed_before_a_run_fails_it_at_once(tiny, tmp_path):
    notebook = tmp_path / "tiny.ipynb"

    def change(status) -> None:
        changed = nbformat.read(notebook, as_version=4)
        changed.cells[1].source += "\nprint('new')"
        nbformat.write(changed, notebook)

    first, second = run_grid(read_grid(tiny(grid={"seed": [0, 1]})), tmp_path / "out", told=change)
    assert first["status"] == "ok" and (second["status"], second["attempts"]) == ("failed", 1)
    assert "changed while the grid ran" in second["error"]
    assert not (tmp_path / "out" / "runs" / "tiny,seed=1" / "tiny.ipynb").exists()  # nothing was computed


@pytest.mark.slow
def test_a_copy_under_another_name_has_results_of_its_own(tiny, tmp_path):
    (tmp_path / "tiny.ipynb").rename(tmp_path / "my.copy.ipynb")  # it says save_run(out_dir, "tiny", ...)
    (status,) = run_grid(read_grid(tiny(notebooks=["my.copy.ipynb"])), tmp_path / "out")
    assert status["status"] == "ok"
    assert patchlib.collect(tmp_path / "out").table("my.copy", "table").seed.tolist() == [0]


def test_damaged_records_are_made_again_with_a_stub_for_the_notebook(tiny, tmp_path, stub, capsys):
    grid = tiny(grid={"seed": [0, 1, 2]}, parameters={"mode": "good"})
    command = ["grid", str(grid), "-o", str(tmp_path)]
    run_grid(read_grid(grid), tmp_path)
    (tmp_path / "runs" / "tiny,seed=0" / "status.json").write_text("")  # as a machine that went down leaves it
    (tmp_path / "runs" / "tiny,seed=1" / "tiny.manifest.json").write_text("")
    assert main([*command, "--dry-run"]) == 0 and "3 runs, 2 to do" in capsys.readouterr().out
    told: list = []
    assert {one["status"] for one in run_grid(read_grid(grid), tmp_path, told=told.append)} == {"ok"}
    assert sorted(one["name"] for one in told) == ["tiny,seed=0", "tiny,seed=1"]


def test_a_worker_that_does_not_see_the_folder_says_so(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(attempt, "SEEN", 0.1)

    class Elsewhere(ThreadPoolExecutor):
        def submit(self, function, /, job):
            return super().submit(function, job | {"folder": "/nowhere/runs/tiny"})

    with Elsewhere(1) as executor, pytest.raises(RunError, match=r"cannot read /nowhere/runs/tiny, .* same path"):
        run_grid(read_grid(tiny()), tmp_path / "out", executor)


def test_a_grid_goes_on_where_nobody_reads_what_it_says_with_a_stub(tiny, tmp_path, stub, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        grid = tiny(grid={"seed": [0, 1]}, parameters={"mode": "good"})
        assert main(["grid", str(grid), "-o", str(tmp_path)]) == 0
    assert {RunFolder(path).status["status"] for path in (tmp_path / "runs").iterdir()} == {"ok"}
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize(
    ("works", "said"), [(True, r"ok +\d+\.\d s  tiny  1 MB"), (False, "failed +tiny  its worker was lost")]
)
def test_an_answer_that_is_lost_after_the_run_costs_nothing_with_a_stub(tiny, tmp_path, stub, capsys, works, said):
    asked = []

    class Unreachable(ThreadPoolExecutor):
        def submit(self, function, /, *values):
            def work():
                asked.append(function(*values) if works else None)
                raise ConnectionError("the scheduler is gone")

            return super().submit(work)

    with Unreachable(1) as executor:
        (status,) = run_grid(read_grid(tiny(parameters={"mode": "good", "seed": 0})), tmp_path, executor, told=say)
    assert re.match(said, capsys.readouterr().out)
    assert (status["status"], len(asked)) == (("ok", 1) if works else ("failed", 2))  # 2: tried again
    assert works or status["error"] == "its worker was lost (the scheduler is gone)"


def test_a_run_that_another_took_over_ends_with_a_stub_for_the_notebook(tiny, tmp_path, stub):
    """As on a cluster, where an interrupted driver cannot reach the process that runs it."""
    place = tmp_path / "runs" / "tiny"
    result: list = []
    with ThreadPoolExecutor(1) as executor:  # of the caller, as Dask's would be
        thread = threading.Thread(
            target=lambda: result.append(
                run_grid(read_grid(tiny(parameters={"mode": "hang", "seed": 0})), tmp_path, executor)
            )
        )
        thread.start()
        wait_for(lambda: (place / ".half.tmp").exists())
        RunFolder(place).update(status="interrupted", token=None)
        thread.join(300)
    assert result[0][0]["status"] == "interrupted" and not (place / ".half.tmp").exists()


def test_the_drivers_memory_is_flat_over_200_processes_with_a_stub_for_the_notebook(tiny, tmp_path, stub, monkeypatch):
    monkeypatch.setattr(schedule, "WINDOW", 8)
    runs = read_grid(tiny(grid={"seed": list(range(220))}, parameters={"mode": "good"}))
    memory: list[int] = []
    waiting: list[int] = []

    def told(status) -> None:
        memory.append(psutil.Process().memory_info().rss)
        if len(memory) % 50 == 0:
            waiting.append(sum(RunFolder(path).status["status"] == "waiting" for path in (tmp_path / "runs").iterdir()))

    statuses = run_grid(runs, tmp_path, workers=2, told=told)
    assert len(memory) == 220 and {status["status"] for status in statuses} == {"ok"}
    assert max(memory[20:]) - memory[20] < 5 * 2**20
    assert waiting[0] > 150  # nothing runs ahead
    told_again: list = []
    run_grid(runs, tmp_path, told=told_again.append)
    assert not told_again


def test_cleaning_waits_for_a_status_that_is_being_written(tmp_path):
    """A worker that begins a run does not take away what an interrupt is just writing there."""
    half = tmp_path / ".status.json.1.tmp"
    with alone(tmp_path, "status"):
        half.write_text("{}")
        cleaner = threading.Thread(target=RunFolder(tmp_path).clean)
        cleaner.start()
        cleaner.join(0.5)
        assert half.exists()
    cleaner.join()
    assert not half.exists()


def test_a_grid_over_a_folder_of_files_reads_each_and_repeats_the_one_that_changed(tmp_path):
    cells = [
        nbformat.v4.new_code_cell('data: str = ""\nout_dir: str = "out"', metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(
            "import pandas as pd\nfrom patchlib.runs import save_run\n"
            'save_run(out_dir, "count", {"table": pd.read_csv(data)}, {"data": data, "out_dir": out_dir})'
        ),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "count.ipynb")
    (tmp_path / "prompts").mkdir()
    for word, others in {"dogs": "cat", "keys": "cabinet"}.items():
        (tmp_path / "prompts" / f"{word}.csv").write_text(f"clean,corrupted\nthe {word},the {others}\n")
    (tmp_path / "grid.yaml").write_text('notebooks: [count.ipynb]\ngrid: {data: {files: "prompts/*.csv"}}\n')
    runs = read_grid(tmp_path / "grid.yaml")
    statuses = run_grid(runs, tmp_path / "out")
    assert [(status["name"], status["status"]) for status in statuses] == [
        ("count,data=dogs", "ok"), ("count,data=keys", "ok"),
    ]  # fmt: skip
    tables = [next((tmp_path / "out" / "runs" / run.name).glob("*table*.csv")).read_text() for run in runs]
    assert ["the dogs" in tables[0], "the keys" in tables[1]] == [True, True]
    told = []
    run_grid(read_grid(tmp_path / "grid.yaml"), tmp_path / "out", told=told.append)
    assert not told
    (tmp_path / "prompts" / "keys.csv").write_text("clean,corrupted\nthe doors,the door\n")
    with pytest.raises(RunError, match=r"count,data=keys in .* was made by another content of its file"):
        run_grid(read_grid(tmp_path / "grid.yaml"), tmp_path / "out")
    run_grid(read_grid(tmp_path / "grid.yaml"), tmp_path / "out", told=told.append, force=True)
    assert [status["name"] for status in told] == ["count,data=keys"]
