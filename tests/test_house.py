"""The house stands: imports go one way, types hold, the code is formatted, and each public name shows its use."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import patchlib

ROOT = Path(__file__).parents[1]
# Nothing is written into the tree: a cache there would be read by the next run, and be packed into an archive.
CHECKS = {
    "imports go one way": ["lint-imports", "--no-cache"],
    "types hold": ["mypy", "--cache-dir", os.devnull],
    "no linter's complaint": ["ruff", "check", "--no-cache"],
    "formatted": ["ruff", "format", "--check", "--no-cache"],
}


@pytest.mark.slow
@pytest.mark.parametrize("what", CHECKS)
def test_the_house_stands(what: str) -> None:
    tool, *arguments = CHECKS[what]
    command = [str(Path(sys.executable).with_name(tool)), *arguments]  # of this environment, as `patchlib[test]` has it
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


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
