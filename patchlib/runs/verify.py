"""Runs made again and compared with what is on disk, number by number."""

from __future__ import annotations

import random
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from patchlib._util import sha256_of
from patchlib.errors import RunError
from patchlib.runs.collect import OK, Run, collect
from patchlib.runs.grid import Planned
from patchlib.runs.manifest import read_json
from patchlib.runs.notebooks import find_notebooks, one_line
from patchlib.runs.schedule import run_grid

ATOL = 1e-4
RTOL = 1e-3
"""Float32 noise: of another number of threads, another processor, another batch size."""


@dataclass(frozen=True)
class _Difference:
    """`values` were compared; the largest absolute difference is of those that are numbers, and `fault` says more."""

    values: int
    largest: float
    fault: str | None


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
        One row a file: run, file, values (compared), largest (absolute difference), same, note.

    Raises:
        RunError: No finished run in the folder, a sample below 1, or a notebook that is not there any more.
    """
    if sample < 1:
        raise RunError(f"a sample has 1 run or more, not {sample}")
    finished = [run for run in collect(folder).found if run.status == OK]
    if not finished:
        raise RunError(f"no run in {folder} has finished; there is nothing to verify")
    chosen = random.Random(seed).sample(finished, min(sample, len(finished)))
    again = [(run, _planned(run)) for run in sorted(chosen, key=lambda run: run.name)]
    rows = []
    for run, planned in again:
        with tempfile.TemporaryDirectory(prefix="patchlib-verify-") as temporary:
            (status,) = run_grid([planned], temporary)
            for row in _compare(run, status, Path(temporary) / "runs" / planned.name, atol, rtol):
                told(row)
                rows.append(row)
    return pd.DataFrame(rows)


def _planned(run: Run) -> Planned:
    manifest = read_json(run.folder / f"{run.notebook}.manifest.json")
    (notebook,) = find_notebooks([shlex.split(manifest["repeat"])[2]])  # patchlib run NOTEBOOK -p ...
    parameters = {name: value for name, value in manifest["parameters"].items() if name != "out_dir"}
    return Planned(run.name, notebook, parameters)


def _compare(run: Run, status: dict[str, Any], place: Path, atol: float, rtol: float) -> list[dict[str, Any]]:
    row = {"run": run.name, "file": "", "values": 0, "largest": np.nan, "same": False}
    if status["status"] != OK:
        return [row | {"note": f"did not run again: {status['status']}, {status['error']}"}]
    then, now = (read_json(folder / f"{run.notebook}.manifest.json") for folder in (run.folder, place))
    since = {"code": then.get("code_hash") != now["code_hash"], "weights": then["models"] != now["models"]}
    said = [f"made by other {what}" for what, differs in since.items() if differs]
    old, new = ({file["name"]: file["sha256"] for file in one["files"]} for one in (then, now))
    rows = []
    for name in sorted({*old, *new}):
        if name in old and name in new and (run.folder / name).is_file():
            found = difference(run.folder / name, place / name, atol, rtol)
            was_changed = sha256_of(run.folder / name) != old[name]
        else:
            what = "was not made then" if name not in old else "was not made now" if name not in new else "is missing"
            found, was_changed = _Difference(0, np.nan, what), False
        note = "; ".join([*filter(None, [found.fault]), *["changed after its run"] * was_changed, *said])
        same = found.fault is None
        rows.append(row | {"file": name, "values": found.values, "largest": found.largest, "same": same, "note": note})
    return rows or [row | {"same": True, "note": "has no results to compare"}]


def difference(old: Path, new: Path, atol: float = ATOL, rtol: float = RTOL) -> _Difference:
    """Compare two .nc or .csv files: names, sizes, text, and numbers within the tolerance; attributes are left out."""
    try:
        ours, theirs = _columns(old), _columns(new)
    except (OSError, ValueError) as error:
        return _Difference(0, np.nan, f"cannot be read: {one_line(error)}")
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
    if path.suffix == ".nc":
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            return {str(name): variable.to_numpy() for name, variable in dataset.variables.items()}
    table = pd.read_csv(path)
    return {str(name): table[name].to_numpy() for name in table}
