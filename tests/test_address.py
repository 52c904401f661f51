"""The repository's address: the same in badges, notebooks and metadata, and changed everywhere at once."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(f"notebooks/{path.name}" for path in ROOT.glob("notebooks/*.ipynb"))
FILES = [
    "pyproject.toml",
    "CITATION.cff",
    "README.md",
    *(f"notebooks/{path.name}" for path in ROOT.glob("notebooks/*") if path.is_file()),
]
NAMED = r"(?:github\.com/|google\.com/github/|mybinder\.org/v2/gh/)"


@pytest.fixture
def checkout(tmp_path):
    """The files with the address, and the script that changes it."""
    for name in [".ci/address.py", *FILES]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def change(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(checkout / ".ci/address.py"), *words]
    return subprocess.run(command, capture_output=True, text=True)


def addresses(folder: Path, name: str) -> set[str]:
    """Every OWNER/patchlib-like address in a file; other projects' are left out."""
    found = re.findall(NAMED + r"([\w-]+/[\w-]+)", (folder / name).read_text())
    return {one for one in found if not one.startswith("TransformerLensOrg/")}


def test_it_is_everywhere_the_same_and_changes_everywhere(checkout):
    (old,) = addresses(checkout, "pyproject.toml")
    assert all(addresses(checkout, name) == {old} for name in FILES)
    before = {name: (checkout / name).read_text() for name in FILES}
    finished = change(checkout, "some-body/her.course")
    assert finished.returncode == 0, finished.stderr
    assert set(finished.stdout.split()) == set(FILES)
    after = {name: (checkout / name).read_text() for name in FILES}
    assert after == {name: text.replace(old, "some-body/her.course") for name, text in before.items()}
    assert change(checkout, old).returncode == 0
    assert {name: (checkout / name).read_text() for name in FILES} == before


@pytest.mark.parametrize("words", [[], ["no-slash"], ["https://github.com/a/b"], ["a/b", "c/d"]])
def test_what_is_no_address_is_refused(checkout, words):
    before = {name: (checkout / name).read_text() for name in FILES}
    finished = change(checkout, *words)
    assert finished.returncode == 1 and "OWNER/NAME" in finished.stderr
    assert {name: (checkout / name).read_text() for name in FILES} == before


def test_badges_open_notebooks_that_are_there():
    readme = (ROOT / "README.md").read_text()
    colab = re.findall(r"colab\.research\.google\.com/github/[^)]*/blob/main/([^)]+)", readme)
    binder = [unquote(one) for one in re.findall(r"mybinder\.org/v2/gh/[^)]*labpath=([^)]+)", readme)]
    taught = sorted(name for name in NOTEBOOKS if Path(name).stem[0].isdigit())  # many_runs reads what others ran
    assert sorted(set(colab)) == sorted(set(binder)) == taught
    for name in taught:
        head = (ROOT / name).read_text()
        assert f"/blob/main/{name}" in head and f"labpath={name.replace('/', '%2F')}" in head
