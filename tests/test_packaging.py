"""The files that set a machine up say the same thing, and the wheel holds what they promise."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import patchlib

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]
RUNTIME = [Requirement(line) for line in PYPROJECT["project"]["dependencies"]]
OPTIONAL = [Requirement(line) for line in EXTRAS["cluster"] + EXTRAS["coursework"]]  # imported where asked for
TEST = [Requirement(line) for line in EXTRAS["test"]]
BUILD = [Requirement(line) for line in PYPROJECT["build-system"]["requires"]]
EVERY = [*RUNTIME, *BUILD, *(Requirement(line) for lines in EXTRAS.values() for line in lines)]
NAME = PYPROJECT["project"]["name"]  # not that of the package: another project has it on PyPI
DIRECT = [requirement for requirement in EVERY if requirement.name != NAME]  # as in patchlib-interp[test]

MAKE_VENV = "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e "


def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def pins() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_constraints_pin_each_direct_dependency_once_and_nothing_else():
    pinned = [Requirement(line) for line in pins()]
    assert all(re.fullmatch(r"==[\d.]+", str(requirement.specifier)) for requirement in pinned)
    assert sorted(canonicalize_name(requirement.name) for requirement in pinned) == sorted(names(DIRECT))


def test_pins_are_inside_the_ranges_of_pyproject():
    pinned = {canonicalize_name(name): version for name, version in (line.split("==") for line in pins())}
    outside = [str(wanted) for wanted in DIRECT if pinned[canonicalize_name(wanted.name)] not in wanted.specifier]
    assert not outside


def test_environment_repeats_the_pins_and_installs_patchlib():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, by_pip = environment["dependencies"]
    assert environment["name"] == "patchlib" and pip == "pip"
    assert python.removeprefix("python=") in PYPROJECT["project"]["requires-python"]
    assert by_pip == {"pip": [*pins(), "-e ."]}


@pytest.mark.parametrize(
    ("folder", "declared"), [("patchlib", RUNTIME + OPTIONAL), ("tests", RUNTIME + OPTIONAL + TEST)]
)
def test_what_the_code_imports_is_declared(folder, declared):
    files = sorted((ROOT / folder).rglob("*.py"))
    local = {"patchlib", "tests"} | {path.stem for path in files}
    providers = packages_distributions()
    undeclared = {
        f"{path.relative_to(ROOT)}: {module}"
        for path in files
        for module in imported(path) - local - set(sys.stdlib_module_names)
        if not {canonicalize_name(name) for name in providers.get(module, ())} & names(declared)
    }
    assert files and not undeclared


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    members = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {str(module).split(".")[0] for module in plain | members}


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == patchlib.__version__


def files_under(folder: str) -> set[str]:
    """What belongs to a folder: not what running its code or its notebooks leaves there."""
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}
    left = ("__pycache__", ".ipynb_checkpoints", "notebooks/out/")
    return {file for file in files if not any(name in file for name in left)}


def test_the_wheel_holds_the_package_its_types_its_notebooks_and_the_command(built):
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        inside = set(wheel.namelist())
        commands = wheel.read(f"{NAME.replace('-', '_')}-{patchlib.__version__}.dist-info/entry_points.txt").decode()
    package, notebooks = files_under("patchlib"), {f"patchlib/{file}" for file in files_under("notebooks")}
    assert {"patchlib/py.typed", "patchlib/__init__.pyi"} <= package and notebooks
    assert package | notebooks <= inside
    assert not [name for name in inside if name.startswith(("tests", "coursework", "patchlib/notebooks/out"))]
    assert "patchlib = patchlib.cli:main" in commands


def test_the_sdist_holds_what_the_wheel_is_made_of(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        inside = {name.partition("/")[2] for name in sdist.getnames()}
    assert files_under("patchlib") | files_under("notebooks") | {"pyproject.toml", "LICENSE"} <= inside


def test_public_names_are_imported_when_first_used_or_all_at_once():
    script = "import sys, patchlib; print('torch' in sys.modules, sorted(set(patchlib.__all__) - set(vars(patchlib))))"
    for eager, expected in (("", f"False {sorted(patchlib.__all__)}"), ("1", "True []")):
        environment = os.environ | {"EAGER_IMPORT": eager}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == expected, done.stderr


def test_readme_has_two_commands_that_each_set_themselves_up():
    readme = (ROOT / "README.md").read_text()
    marked = re.findall(r"^<!-- command: (\w+) -->\n```\w*\n(.+)\n```$", readme, re.MULTILINE)
    assert readme.count("<!-- command:") == len(marked) == 2
    commands = dict(marked)
    assert commands["run"] == MAKE_VENV + ". && .venv/bin/patchlib run -o out"
    assert commands["test"] == MAKE_VENV + "'.[test]' && .venv/bin/pytest"


@pytest.fixture
def ci(tmp_path):
    """Run a copy of .ci/run from elsewhere, with no stdin, beside a README of the test's own."""
    copy = tmp_path / "clone" / ".ci" / "run"
    copy.parent.mkdir(parents=True)
    shutil.copy(ROOT / ".ci" / "run", copy)
    browser = tmp_path / "bin" / "chromium"  # else it would install one
    browser.parent.mkdir()
    browser.write_text("#!/bin/sh\n")
    browser.chmod(0o755)
    path = f"{browser.parent}{os.pathsep}{os.environ['PATH']}"

    def run(readme: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "clone" / "README.md").write_text(readme)
        command = ["bash", str(copy)]
        return subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PATH": path}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True,
        )  # fmt: skip

    return run


def test_ci_runs_the_readmes_test_command_in_a_fresh_environment(ci, tmp_path):
    stale = tmp_path / "clone" / ".venv" / "stale"
    stale.mkdir(parents=True)
    command = "test ! -e .venv && echo $PATCHLIB_BROWSER: '7 passed' && exit 3"
    other = "```bash\necho wrong\n```\n"
    marked = f"<!-- command: test -->\n```bash\n{command}\n```\n"
    finished = ci(f"<!-- command: run -->\n{other}\nText.\n\n{marked}\n{other}")
    assert finished.returncode == 3, finished.stderr
    assert finished.stdout == f"+ {command}\nrequired: 7 passed\n"
    assert "pip install" not in (ROOT / ".ci" / "run").read_text()


def test_ci_fails_where_the_command_fails_or_is_missing(ci):
    assert ci("<!-- command: test -->\n```bash\nfalse && echo never\n```\n").returncode == 1
    missing = ci("```bash\npytest\n```\n")
    assert missing.returncode == 2 and "README.md has no fenced command" in missing.stderr
