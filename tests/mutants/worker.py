"""Runs pytest in a process that has the large libraries already: they take longer to import than most tests to run."""

from __future__ import annotations

import importlib
import os
import resource
import sys
from pathlib import Path

LIBRARIES = (
    "dask.array", "hypothesis", "nbval.plugin", "numpy", "pandas", "pytest", "scipy.stats", "torch", "transformers",
    "transformer_lens", "transformer_lens.model_bridge", "transformer_lens.patching",
    "transformer_lens.tools.analysis", "xarray",
)  # fmt: skip
ARGUMENTS = (
    "-x", "-q", "-rfE", "--tb=no", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:xdist",
    "-p", "tests.mutants.no_shrinking", "-m", "not real_model",
)  # fmt: skip
CPU_SECONDS = 300
"""A fault that makes tests hang is found too. Of computing and not of waiting: a busy machine finds no faults."""


def import_libraries() -> None:
    """Everything that the tests import, but for the package and the tests themselves."""
    for name in LIBRARIES:
        importlib.import_module(name)


def run_pytest(folder: str, tests: tuple[str, ...], output: str) -> None:
    """Run the tests of a copy of the package; exit with pytest's code, its output in a file."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    os.environ |= {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}  # for the processes that tests start
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "patchlib")]:
        del sys.modules[name]
    root = str(Path(__file__).parents[2])
    sys.path[:] = [folder, *(path for path in sys.path if path not in ("", root))]

    import pytest

    sys.exit(int(pytest.main([*ARGUMENTS, *tests])))
