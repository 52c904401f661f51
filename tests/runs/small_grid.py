"""A notebook that takes a second or two and does what its parameter `mode` says, and grids over it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nbformat
import yaml

PARAMETERS = 'seed: int = 0\nmode: str = "good"  # good, fail, die, orphan, hang, slow or wait\nout_dir: str = "out"'
WORK = """
import os, time
from pathlib import Path
import numpy as np, pandas as pd, psutil, xarray as xr
from patchlib.runs import save_run

def once(name):
    there = Path(out_dir, name).exists()
    Path(out_dir, name).touch()
    return not there

if mode == "fail" and not Path(out_dir, "mended").exists():
    raise ValueError("seed 3 is unlucky")
if mode == "die" and once("died"):
    psutil.Process().kill()
if mode == "orphan" and once("orphaned"):
    worker = psutil.Process().parent().parent()  # our parent, its child, ends with it, and we do then
    assert "spawn" in " ".join(worker.cmdline()), "this is not a worker process, but whoever runs the tests"
    worker.kill()
    time.sleep(120)
print("trim", os.environ.get("MALLOC_TRIM_THRESHOLD_"))
time.sleep({"hang": 120, "slow": 2}.get(mode, 0))
Path(out_dir, "begun").touch()
while mode == "wait" and seed == 1 and not Path(out_dir, "../../go").exists():  # in the grid's folder
    time.sleep(0.1)
table = pd.DataFrame({"seed": [seed], "word": ["one"]})
effects = xr.Dataset({"effect": ("layer", np.arange(3.0) + seed)}, {"label": ("layer", list("abc"))})
values = {"seed": seed, "mode": mode, "out_dir": out_dir}
save_run(out_dir, "tiny", {"table": table, "effects": effects}, values)
"""


def write_notebook(folder: Path) -> Path:
    """tiny.ipynb in a folder."""
    cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(WORK)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "tiny.ipynb")
    return folder / "tiny.ipynb"


def grid_writer(folder: Path) -> Callable[..., Path]:
    """A function that writes grid.yaml with these keys over that notebook, and returns its path."""
    path = write_notebook(folder)

    def write(**plan) -> Path:
        grid = folder / "grid.yaml"
        grid.write_text(yaml.safe_dump({"notebooks": [str(path)], **plan}, sort_keys=False))
        return grid

    return write
