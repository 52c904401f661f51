"""What a manifest says, in real kernels that patchlib did not start, until the notebook has ended and after it."""

import json
import os
import time

import nbformat
import papermill
import pytest
from jupyter_client.manager import start_new_kernel
from nbformat.v4 import new_code_cell, new_notebook

import patchlib
from patchlib.runs.execute.ending import IDLE

SAVE = """
import os, json, pandas as pd
import patchlib
from pathlib import Path
out = Path({folder!r})
def save(name):
    return patchlib.save_run(out, "nb", {{name: pd.DataFrame({{"a": [1]}})}}, {{"seed": 0}})
save("first")
"""
LOOK = """
assert json.loads((out / "nb.manifest.json").read_text())["status"] == "running"
collection = patchlib.collect(out)  # by the notebook itself, for which its results are whole
assert list(collection.results) == ["nb"] and collection.runs.status.item() == "ok"
"""


def papermilled(folder, *cells):
    """Execute a notebook that saves with plain papermill; the manifest that stands then, and what it raised."""
    nb = new_notebook(cells=[new_code_cell(source) for source in (SAVE.format(folder=str(folder)), *cells)])
    nb.metadata.kernelspec = {"name": "python3", "display_name": "x", "language": "python"}
    nbformat.write(nb, folder / "in.ipynb")
    error = None
    try:
        papermill.execute_notebook(str(folder / "in.ipynb"), str(folder / "out.ipynb"), progress_bar=False)
    except Exception as raised:  # which of papermill's, nbclient's or the kernel's is what the tests ask for
        error = raised
    return json.loads((folder / "nb.manifest.json").read_text()), error


def test_a_manifest_is_ok_once_papermill_has_ended(tmp_path):
    manifest, error = papermilled(tmp_path, LOOK, "save('second')", LOOK)
    assert error is None
    assert (manifest["status"], manifest["error"]) == ("ok", None)
    assert [file["name"] for file in manifest["files"]] == ["nb.first.csv", "nb.second.csv"]
    assert patchlib.collect(tmp_path).results == {"nb": ("first", "second")}


def test_a_manifest_says_which_error_ended_papermill(tmp_path):
    manifest, error = papermilled(tmp_path, "raise ValueError('too small\\nby far')", "print('never')")
    assert isinstance(error, papermill.PapermillExecutionError)
    assert (manifest["status"], manifest["error"]) == ("failed", "ValueError: too small")
    assert not patchlib.collect(tmp_path).results


def test_a_manifest_of_a_killed_kernel_is_not_ok(tmp_path):
    manifest, error = papermilled(tmp_path, "import signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert "Kernel died" in str(error)
    assert manifest["status"] == "running"
    assert not patchlib.collect(tmp_path).results


def test_another_run_s_manifest_is_left_as_it_is(tmp_path):
    manifest, _ = papermilled(tmp_path, "(out / 'nb.manifest.json').write_text('{\"status\": \"theirs\"}')")
    assert manifest == {"status": "theirs"}


@pytest.fixture
def kernel():
    manager, client = start_new_kernel(kernel_name="python3", env=os.environ | {"OMP_NUM_THREADS": "1"})
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def status_in(folder):
    return json.loads((folder / "nb.manifest.json").read_text())["status"]


def test_a_manifest_is_ok_once_a_reader_rests(kernel, tmp_path):
    def execute(*sources):
        """Cells that wait in the kernel's queue, so that it never rests between them, however busy the machine is."""
        asked = [kernel.execute(source, stop_on_error=False) for source in sources]
        replies = {}
        while not replies.keys() >= set(asked):
            reply = kernel.get_shell_msg(timeout=120)
            replies[reply["parent_header"]["msg_id"]] = reply["content"]["status"]
        return [replies[message] for message in asked]

    slip = "1 / 0"  # which the next cell makes good
    long = f"import time; time.sleep({IDLE + 1})"  # which is no rest
    is_running = "assert json.loads((out / 'nb.manifest.json').read_text())['status'] == 'running'"
    assert execute(SAVE.format(folder=str(tmp_path)), slip, long, is_running) == ["ok", "error", "ok", "ok"]
    deadline = time.monotonic() + 60
    while status_in(tmp_path) == "running" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert status_in(tmp_path) == "ok"
    assert execute(slip) == ["error"]  # what comes later is no part of it
    time.sleep(IDLE + 1)
    assert status_in(tmp_path) == "ok"
