"""The house stands: imports go one way, types hold, the code is formatted, and each public name shows its use."""

import inspect
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

import pytest

import patchlib

ROOT = Path(__file__).parents[1]
# Nothing is written into the tree: a cache there would be read by the next run, and be packed into an archive.
CHECKS = {
    "imports go one way": ["lint-imports", "--no-cache"],
    "types hold": ["mypy"],
    "no linter's complaint": ["ruff", "check", "--no-cache"],
    "formatted": ["ruff", "format", "--check", "--no-cache"],
}


@pytest.fixture(scope="module")
def mypy_cache(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What mypy learns of other packages, which takes it most of its time, for all of its runs here."""
    return ["--cache-dir", str(tmp_path_factory.mktemp("mypy"))]


@pytest.mark.slow
@pytest.mark.parametrize("what", CHECKS)
def test_the_house_stands(what: str, mypy_cache: list[str]) -> None:
    tool, *arguments = CHECKS[what]
    arguments += mypy_cache if tool == "mypy" else []
    command = [str(Path(sys.executable).with_name(tool)), *arguments]  # of this environment, as `.[test]` has it
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_an_installed_wheel_shows_its_types(built: Path, tmp_path: Path, mypy_cache: list[str]) -> None:
    """In an environment that has the wheel and, behind it, what is installed here."""
    venv.create(tmp_path / "venv", with_pip=False)
    (site,) = (tmp_path / "venv").rglob("site-packages")
    (site / "installed.pth").write_text(sysconfig.get_path("purelib"))
    shutil.copytree(built / "site", site, dirs_exist_ok=True)
    expressions = [f"patchlib.{name}" for name in patchlib.__all__]
    lines = ["import patchlib", *(f"reveal_type({expression})" for expression in expressions)]
    lines += ["reveal_type(patchlib.load_model())", "patchlib.no_such_name"]
    (tmp_path / "user.py").write_text("\n".join(lines))
    # The house's settings, so that its cache holds here, but for the models' class, which users see.
    settings = (ROOT / "pyproject.toml").read_text()
    seen = settings.replace('"transformers.*", "transformer_lens.*"', '"transformers.*"')
    (tmp_path / "pyproject.toml").write_text(seen)
    python = site.parents[2] / "bin" / "python"
    check = [sys.executable, "-m", "mypy", *mypy_cache, "--python-executable", str(python), "user.py"]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run(check, cwd=tmp_path, env=environment, capture_output=True, text=True)
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout)
    assert len(revealed) == len(expressions) + 1, done.stdout + done.stderr
    types = dict(zip(expressions, revealed, strict=False))
    assert not [expression for expression, shown in types.items() if shown == "Any"]
    assert types["patchlib.sweep"].endswith("-> xarray.core.dataset.Dataset")
    assert revealed[-1].endswith(".TransformerBridge")
    assert 'Module has no attribute "no_such_name"' in done.stdout


def public_callables() -> dict[str, Any]:
    """Name -> function or class that users call; errors are raised, and shown by what raises them."""
    modules = (patchlib, patchlib.plots, patchlib.toys, patchlib.widgets)
    public = {f"{module.__name__}.{name}": getattr(module, name) for module in modules for name in module.__all__}
    errors = {name for name, value in public.items() if isinstance(value, type) and issubclass(value, Exception)}
    return {name: value for name, value in public.items() if callable(value) and name not in errors}


def test_every_public_name_has_an_example_that_runs() -> None:
    without = [name for name, value in public_callables().items() if ">>> " not in (value.__doc__ or "")]
    assert not without, f"{len(without)} of {len(public_callables())}: {', '.join(without)}"


def test_every_public_function_says_what_it_takes_and_gives() -> None:
    wanting = []
    for name, function in public_callables().items():
        if inspect.isfunction(function):
            documentation, signature = inspect.getdoc(function) or "", inspect.signature(function)
            arguments = documentation.partition("\nArgs:\n")[2].partition("\n\n")[0]
            missing = [name for name in signature.parameters if not re.search(rf"\b{name}\b", arguments)]
            if "\nReturns:\n" not in documentation and signature.return_annotation not in (None, "None"):
                missing.append("Returns")
            wanting += [f"{name}: {', '.join(missing)}"] if missing else []
    assert not wanting, "\n".join(wanting)
