"""`patchlib lab` on a copy of the notebooks, from a checkout and from a wheel; `patchlib models` and its cache."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from filelock import FileLock

from patchlib.cli import main
from patchlib.errors import ModelError, RunError
from patchlib.models import cache as model_cache
from patchlib.models.cache import HUB, OURS, cached_models, clear_models
from patchlib.models.default import SMOLLM2
from patchlib.runs.lab import copy_notebooks
from tests.tiny import tiny_path

ROOT = Path(__file__).parents[2]
NAMES = tuple(sorted(path.name for path in (ROOT / "notebooks").glob("*.ipynb")))
START = 300
"""Seconds for the server to come up on a busy machine."""


def test_notebooks_are_copied_once_and_a_changed_one_is_kept(tmp_path, capsys):
    first = copy_notebooks(tmp_path / "mine")
    assert (first.new, first.same, first.kept) == (NAMES, (), ())
    changed = tmp_path / "mine" / NAMES[1]
    changed.write_text("my own")
    (tmp_path / "mine" / NAMES[2]).unlink()
    assert main(["lab", str(tmp_path / "mine"), "--copy-only"]) == 0
    printed = capsys.readouterr().out
    assert (
        f"1 copied, {len(NAMES) - 2} there already" in printed
        and f"Kept, because they differ from patchlib's: {NAMES[1]}." in printed
    )
    assert changed.read_text() == "my own"
    again = (tmp_path / "mine" / NAMES[2]).read_text()
    assert _cells(again, "code") == _cells((ROOT / "notebooks" / NAMES[2]).read_text(), "code")


def _cells(notebook: str, kind: str) -> list[dict]:
    return [cell for cell in json.loads(notebook)["cells"] if cell["cell_type"] == kind]


def test_a_copy_needs_no_other_file_of_ours(tmp_path):
    copy_notebooks(tmp_path)
    for name in NAMES:
        links = _links((tmp_path / name).read_text())
        assert all(link.startswith(("https://", "data:image/svg+xml;base64,")) for link in links), links
        asked = [link for link in _links((ROOT / "notebooks" / name).read_text()) if link.startswith("diagrams/")]
        assert sum(link.startswith("data:") for link in links) == len(asked)


def _links(notebook: str) -> list[str]:
    texts = ["".join(cell["source"]) for cell in _cells(notebook, "markdown")]
    return re.findall(r"\]\(([^)]+)\)", "\n".join(texts))


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(RunError, match="cannot write to the output folder"):
        copy_notebooks(tmp_path / "file")


@pytest.fixture
def installed(built):
    """The wheel, unpacked: a folder that stands before the checkout on the path."""
    return built / "site"


def test_the_wheel_has_what_pages_are_made_of(installed):
    inside = {path.name for path in (installed / "patchlib" / "runs" / "execute").iterdir()}
    assert {"page.html.j2", "page.js"} <= inside
    where = "from patchlib.runs.execute.notebooks import notebook_folder as folder; print(folder())"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    said = subprocess.run([sys.executable, "-c", where], cwd=installed.parent, env=environment, capture_output=True)
    assert Path(said.stdout.decode().strip()) == installed / "patchlib" / "notebooks"


def test_jupyterlab_serves_the_copies_of_an_installed_patchlib(installed, tmp_path):
    log = tmp_path / "log"
    options = ["--ip=127.0.0.1", "--port=0", "--IdentityProvider.token=", "--allow-root"]
    command = [sys.executable, "-m", "patchlib.cli", "lab", "--no-browser", "--", *options]
    with log.open("w") as out:
        server = subprocess.Popen(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)}, stdout=out,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        end = time.monotonic() + START
        while not (found := re.search(r"http://127\.0\.0\.1:\d+(?=/lab)", log.read_text())):
            assert server.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        with urllib.request.urlopen(f"{found.group()}/api/contents", timeout=START) as answer:
            served = json.load(answer)["content"]
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(START)
    assert sorted(one["name"] for one in served) == list(NAMES)
    assert (tmp_path / "patchlib-notebooks" / NAMES[0]).is_file()
    assert f"{len(NAMES)} copied" in log.read_text()


def test_what_jupyterlab_refuses_is_an_error_of_ours(tmp_path):
    command = [sys.executable, "-m", "patchlib.cli", "lab", str(tmp_path), "--no-browser", "--", "--port=none"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=START)
    assert done.returncode == 2
    assert "patchlib: JupyterLab could not start" in done.stderr and "Traceback" not in done.stderr


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """A cache with the default model's files, what a killed process left, and a model hub's cache with one model."""
    ours, hub = tmp_path / "ours", tmp_path / "hub"
    (ours / SMOLLM2.name).mkdir(parents=True)
    (ours / f"{SMOLLM2.name}.tmp-1").mkdir()
    (ours / SMOLLM2.name / "model.safetensors").write_bytes(b"x" * 3_000_000)
    (ours / f"{SMOLLM2.name}.tmp-1" / "part").write_bytes(b"x" * 500_000)
    (ours / SMOLLM2.file).write_bytes(b"x" * 1_000_000)
    (ours / "notes.txt").write_text("mine")
    commit = hub / "models--org--small" / "snapshots" / ("0" * 40)
    commit.mkdir(parents=True)
    (commit / "model.safetensors").write_bytes(b"x" * 2_000_000)
    (commit.parents[1] / "refs").mkdir()
    (commit.parents[1] / "refs" / "main").write_text("0" * 40)
    monkeypatch.setenv("PATCHLIB_CACHE", str(ours))
    scan = model_cache.scan_cache_dir
    monkeypatch.setattr(model_cache, "scan_cache_dir", lambda: scan(hub))
    return ours, hub


def test_models_on_this_disk_are_listed_with_their_sizes(caches, capsys):
    found = [(model.name, model.size, model.where) for model in cached_models()]
    assert found == [(SMOLLM2.name, 4_500_000, OURS), ("org/small", 2_000_000, HUB)]
    assert main(["models", "--cached"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert re.match(r" +4 MB  smollm2-135m  \(patchlib's cache: ", printed[0]) and printed[-1].split()[:2] == [
        "6",
        "MB",
    ]


def test_a_model_is_fetched_by_name_and_a_wrong_name_is_one_line(capsys):
    assert main(["models", "--fetch", tiny_path("gpt2")]) == 0
    assert capsys.readouterr().out.endswith("is on this disk.\n")
    assert main(["models", "--fetch", "no/such-model"]) == 2
    said = capsys.readouterr().err
    assert "no/such-model" in said and said.count("\n") == 1


def test_clearing_without_a_name_spares_what_other_programs_share(caches, capsys):
    ours, _ = caches
    assert main(["models", "--clear"]) == 0
    assert {path.name for path in ours.iterdir()} <= {"notes.txt", f"{SMOLLM2.name}.lock"}
    assert [model.name for model in cached_models()] == ["org/small"]
    assert SMOLLM2.name in capsys.readouterr().out
    assert main(["models", "--clear"]) == 0
    assert capsys.readouterr().out.split() == ["0", "MB", "deleted"]


def test_a_model_is_cleared_by_name(caches, capsys):
    _, hub = caches
    assert main(["models", "--clear", "org/small"]) == 0
    assert not (hub / "models--org--small").exists()
    assert main(["models", "--clear", "org/small"]) == 2
    assert "there are: smollm2-135m" in capsys.readouterr().err


def test_what_another_process_is_fetching_is_not_cleared(caches):
    ours, _ = caches
    with (
        FileLock(ours / f"{SMOLLM2.name}.lock", is_singleton=False),
        pytest.raises(ModelError, match="another process is fetching"),
    ):
        clear_models()
    assert (ours / SMOLLM2.file).exists()


def test_without_caches_there_is_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATCHLIB_CACHE", str(tmp_path / "none"))
    scan = model_cache.scan_cache_dir
    monkeypatch.setattr(model_cache, "scan_cache_dir", lambda: scan(tmp_path / "no hub"))
    assert cached_models() == [] and clear_models() == []


@pytest.mark.parametrize("command", ["lab --help", "models --help", "models --cached", "report --help"])
def test_light_commands_do_without_torch(command):
    source = (
        "import sys\nfrom patchlib.cli import main\n"
        f"try:\n    main({command.split()!r})\n"
        "except SystemExit:\n    pass\n"
        "sys.exit('torch was imported' if 'torch' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
