"""A whole test session: how nbval compares outputs, what runs first, how the cores are shared."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from _pytest.doctest import DoctestItem
from nbval.plugin import IPyNbFile

# Outputs that hold a drawing library's defaults, random ids, pixels, or a progress bar's clock. A figure is
# committed with a PNG that a live one does not have: nbval drops these on both sides before it compares.
NOT_COMPARED = ("application/vnd.plotly.v1+json", "text/html", "image/png", "stderr")

# Workers run side by side, and torch would start a thread per core in each of them and in each notebook's
# kernel, which inherits this. It has to be set before torch is imported.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    _share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _share)))


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> Generator[None, Any, Any]:
    """Tell nbval what to leave out of its comparison of a notebook's outputs with the committed ones."""
    collectors = yield
    for collector in collectors:
        if isinstance(collector, IPyNbFile):
            collector.skip_compare += NOT_COMPARED
            collector.sanitize_patterns[r" at 0x[0-9a-f]+"] = ""  # where an object happened to lie
            collector.sanitize_patterns[r"-(0\.0+)\b"] = r"\1"  # the sign of float noise
            collector.sanitize_patterns[r" +"] = " "  # and the width of the table's column with it
    return collectors


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the notebooks first, then files with slow tests: no core waits for a long file at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.suffix != ".ipynb", item.path not in slow))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start notebooks' kernels without progress bars, as those were that the notebooks were committed from."""
    if item.path.suffix == ".ipynb":
        os.environ["TQDM_DISABLE"] = "1"
    else:
        os.environ.pop("TQDM_DISABLE", None)


@pytest.fixture(autouse=True)
def _names_in_examples(request: pytest.FixtureRequest) -> None:
    """Give docstrings' examples what they speak of: the default model, a task of four prompts, a folder."""
    if not isinstance(request.node, DoctestItem):
        return
    names: dict[str, Any] = request.getfixturevalue("doctest_namespace")
    source = "".join(example.source for example in request.node.dtest.examples)
    if "patchlib" not in names:
        import numpy as np
        import xarray as xr

        import patchlib

        names.update(patchlib=patchlib, np=np, xr=xr)
    if "tmp_path" in source:
        names["tmp_path"] = request.getfixturevalue("tmp_path")
    if "model" not in names and ("model" in source or "task" in source):
        names["model"] = names["patchlib"].load_model(device="cpu")
        names["task"] = names["patchlib"].IOIDataset(names["model"], n_prompts=4, seed=0)
