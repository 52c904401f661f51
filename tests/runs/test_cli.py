"""The command line: exit codes, one-line errors, and what an interrupt leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from patchlib.cli import main


def write_notebook(path: Path, *cells: str) -> Path:
    parameters = new_code_cell("n: int = 1\nout_dir: str = 'out'", metadata={"tags": ["parameters"]})
    nb = new_notebook(cells=[new_markdown_cell(f"# {path.stem}"), parameters, *map(new_code_cell, cells)])
    nbformat.write(nb, path)
    return path


def test_run_writes_results_where_they_were_asked_for_and_names_the_page(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_notebook(
        tmp_path / "one.ipynb",
        "import pandas as pd\nfrom patchlib.runs import save_run\n"
        "save_run(out_dir, 'one', {'t': pd.DataFrame({'n': [n]})}, {'n': n})",
    )
    assert main(["run", "one.ipynb", "-p", "n", "-4", "-p", "out_dir", "elsewhere", "-o", "out"]) == 0
    assert (tmp_path / "elsewhere" / "one.t.csv").read_text().split() == ["n", "-4"]
    manifest = json.loads((tmp_path / "out" / "one.manifest.json").read_text())
    assert manifest["files"][0]["name"] == "../elsewhere/one.t.csv"
    printed = capsys.readouterr()
    assert (tmp_path / "out" / "index.html").as_uri() in printed.out
    assert "one (1 of 1)" in printed.err  # papermill's progress bar


@pytest.mark.parametrize(
    ("source", "error"),
    [("1 / 0", "ZeroDivisionError"), ("import os; os.kill(os.getpid(), 9)", "kernel died")],
)
def test_a_failing_notebook_gives_exit_code_1(tmp_path, capsys, source, error):
    bad = write_notebook(tmp_path / "bad.ipynb", source)
    assert main(["run", str(bad), "-o", str(tmp_path / "out")]) == 1
    assert error in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_notebook"], "there is no notebook 'no_such_notebook'"),
        (["{notebook}", "-p", "m", "1"], "no parameter 'm'"),
        (["{notebook}", "-p", "n", "one"], "takes int, but was given 'one'"),
        (["{notebook}", "-o", "{notebook}"], "cannot write to the output folder"),
        (["{notebook}", "-p", "out_dir", "{notebook}"], "cannot write to the output folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    notebook = str(write_notebook(tmp_path / "one.ipynb"))
    assert main(["run", *(argument.format(notebook=notebook) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("patchlib: ") and message in error and error.count("\n") == 1


def test_interrupt_keeps_what_had_finished_and_stops_the_kernel(tmp_path):
    first = write_notebook(tmp_path / "1.ipynb", "print('done')")
    slow = write_notebook(
        tmp_path / "2.ipynb",
        "import os, pathlib\npathlib.Path(out_dir, 'pid').write_text(str(os.getpid()))",
        "import time\ntime.sleep(120)",
    )
    out = tmp_path / "out"
    command = [sys.executable, "-m", "patchlib.cli", "run", str(first), str(slow), str(first), "-o", str(out)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore SIGINT, and their children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 300
        while "time.sleep" not in _running_cell(out / "2.ipynb"):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert "patchlib: interrupted" in stderr and (out / "index.html").as_uri() in stdout
    statuses = [json.loads((out / f"{stem}.manifest.json").read_text())["status"] for stem in "12"]
    assert statuses == ["ok", "interrupted"]
    assert (out / "2.html").is_file()
    with pytest.raises(ProcessLookupError):
        os.kill(int((out / "pid").read_text()), 0)


def _running_cell(executed: Path) -> str:
    try:
        cells = nbformat.read(executed, as_version=4).cells
    except (FileNotFoundError, nbformat.reader.NotJSONError):  # papermill is writing it
        return ""
    running = [cell.source for cell in cells if cell.metadata.get("papermill", {}).get("status") == "running"]
    return running[-1] if running else ""


def test_models_lists_by_part_of_the_name(capsys):
    assert main(["models", "SMOLLM2"]) == 0
    assert "smollm2-135m" in capsys.readouterr().out.split()
    assert main(["models", "no such model"]) == 2


def test_version_and_missing_command(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("patchlib ")
    for wrong in ([], ["runs"], ["run", "--nope"], ["run", "02", "-p", "n_prompts"], ["models", "--cached", "--clear"]):
        assert main(wrong) == 2
        assert capsys.readouterr().err.startswith("Usage: patchlib")
