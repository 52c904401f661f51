"""Runs made again and compared with what is on disk, number by number."""

import random
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from patchlib._util import first_line, sha256_of
from patchlib.errors import RunError
from patchlib.runs.execute.notebooks import find_notebooks
from patchlib.runs.folder import OK, RunFolder
from patchlib.runs.grid.plan import Planned
from patchlib.runs.grid.schedule import run_grid
from patchlib.runs.report.collect import Run, collect

ATOL = 1e-4
RTOL = 1e-3
"""Float32 noise: of another number of threads, another processor, another batch size."""


class _Difference(NamedTuple):
    """`n_values` were compared; the largest absolute difference is of the numbers; `note` says what differs."""

    n_values: int
    largest: float
    note: str | None


def verify(
    folder: str | Path,
    sample: int = 3,
    seed: int = 0,
    atol: float = ATOL,
    rtol: float = RTOL,
    told: Callable[[dict[str, Any]], None] = lambda row: None,
) -> pd.DataFrame:
    """Run some finished runs of a folder again, elsewhere, and compare their results.

    Args:
        folder: Of `patchlib grid` or `patchlib run`; nothing in it is changed.
        sample: How many runs, all if there are fewer.
        seed: Which ones.
        atol: Absolute difference that two numbers may have, in their own units.
        rtol: Relative one, which is added to it.
        told: Called with each row of the table, once it is known.

    Returns:
        One row a file: run, file, n_values (compared), largest (absolute difference), same, note.

    Raises:
        RunError: No finished run in the folder, a sample below 1, or a notebook that is not there any more.

    Example:
        >>> import json
        >>> from nbformat.v4 import new_code_cell, new_notebook
        >>> source = '''
        ... import pandas as pd
        ... import patchlib
        ... patchlib.save_run(out_dir, "sum", {"sum": pd.DataFrame({"sum": [0.1 + 0.2]})}, {"out_dir": out_dir})
        ... '''
        >>> cells = [new_code_cell("out_dir: str = ''", metadata={"tags": ["parameters"]}), new_code_cell(source)]
        >>> _ = (tmp_path / "sum.ipynb").write_text(json.dumps(new_notebook(cells=cells)))
        >>> _ = patchlib.run([tmp_path / "sum.ipynb"], out_dir=tmp_path / "out", progress=False)
        >>> patchlib.verify(tmp_path / "out")[["file", "n_values", "largest", "same"]]
                  file  n_values  largest  same
        0  sum.sum.csv         1      0.0  True
    """
    if sample < 1:
        raise RunError(f"a sample has 1 run or more, not {sample}")
    finished = [run for run in collect(folder).records if run.status == OK]
    if not finished:
        raise RunError(f"no run in {folder} has finished; there is nothing to verify")
    chosen = random.Random(seed).sample(finished, min(sample, len(finished)))
    again = [(run, _planned(run)) for run in sorted(chosen, key=lambda run: run.name)]
    rows = []
    for run, planned in again:
        with tempfile.TemporaryDirectory(prefix="patchlib-verify-") as temporary:
            run_grid([planned], temporary)
            new = RunFolder(Path(temporary) / "runs" / planned.name)
            for row in _compare(run.name, RunFolder(run.folder, run.notebook), new, atol, rtol):
                told(row)
                rows.append(row)
    return pd.DataFrame(rows)


def _planned(run: Run) -> Planned:
    manifest = RunFolder(run.folder, run.notebook).manifest
    (notebook,) = find_notebooks([shlex.split(manifest["repeat"])[2]])  # patchlib run NOTEBOOK -p ...
    parameters = {name: value for name, value in manifest["parameters"].items() if name != "out_dir"}
    return Planned(run.name, notebook, parameters)


def _compare(name: str, old: RunFolder, new: RunFolder, atol: float, rtol: float) -> list[dict[str, Any]]:
    row = {"run": name, "file": "", "n_values": 0, "largest": np.nan, "same": False}
    if not new.is_ok:
        return [row | {"note": f"did not run again: {new.status['status']}, {new.status['error']}"}]
    changed = {"code": "code_hash", "weights": "models"}
    since = [f"made by other {what}" for what, key in changed.items() if old.manifest.get(key) != new.manifest[key]]
    before, after = ({path.name: path for path in folder.files} for folder in (old, new))
    rows = []
    for file in sorted({*before, *after}):
        notes: list[str | None] = list(since)
        if file not in after or file not in before:
            result = _Difference(0, np.nan, f"was not made {'now' if file in before else 'then'}")
        elif not before[file].is_file():
            result = _Difference(0, np.nan, "is missing")
        else:
            result = difference(before[file], after[file], atol, rtol)
            notes += ["changed after its run"] * (sha256_of(before[file]) != old.files[before[file]])
        told = {"same": result.note is None, "note": "; ".join(filter(None, [result.note, *notes]))}
        rows.append(row | result._asdict() | told | {"file": file})
    return rows or [row | {"same": True, "note": "has no results to compare"}]


def difference(old: Path, new: Path, atol: float = ATOL, rtol: float = RTOL) -> _Difference:
    """Compare two .nc or .csv files: names, sizes, text, and numbers within the tolerance; attributes are left out."""
    try:
        ours, theirs = _columns(old), _columns(new)
    except (OSError, ValueError) as error:
        return _Difference(0, np.nan, f"cannot be read: {first_line(error)}")
    if ours.keys() != theirs.keys():
        return _Difference(0, np.nan, f"has other variables: {', '.join(sorted(ours.keys() ^ theirs.keys()))}")
    values, largest, faults = 0, 0.0, []
    for name, one in ours.items():
        other = theirs[name]
        values += one.size
        if one.shape != other.shape:
            faults.append(f"{name} has shape {other.shape} now and had {one.shape}")
        elif one.dtype.kind in "biuf" and other.dtype.kind in "biuf":
            gap = np.abs(other[one != other] - one[one != other].astype("float64"))
            largest = max(largest, float(gap[~np.isnan(gap)].max(initial=0)))
            exact = "f" not in one.dtype.kind + other.dtype.kind  # counts, indices and token numbers have no noise
            if not (np.array_equal(other, one) if exact else np.allclose(other, one, rtol, atol, equal_nan=True)):
                faults.append(f"{name} differs")
        elif not pd.Series(one.ravel(), dtype=object).equals(pd.Series(other.ravel(), dtype=object)):
            faults.append(f"{name} differs")
    return _Difference(values, largest, "; ".join(faults) or None)


def _columns(path: Path) -> dict[str, np.ndarray]:
    columns = xr.load_dataset(path, engine="h5netcdf").variables if path.suffix == ".nc" else pd.read_csv(path)
    return {str(name): columns[name].to_numpy() for name in columns}
