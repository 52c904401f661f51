"""Runs made again and compared with what is on disk, number by number."""

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from patchlib._util import check_count, first_line
from patchlib.errors import RunError
from patchlib.runs.execute.notebooks import find_notebooks, notebook_folder
from patchlib.runs.folder import OK, RunFolder
from patchlib.runs.grid.plan import Planned
from patchlib.runs.grid.schedule import run_grid
from patchlib.runs.report.collect import DAMAGED, Run, collect
from patchlib.runs.report.netcdf import open_result

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
    notebooks: Sequence[str | Path] = (),
    timeout: float | None = None,
) -> pd.DataFrame:
    """Run some finished runs of a folder again, elsewhere, and compare their results.

    A folder may be somebody else's: of the notebooks that its runs say they are of, only patchlib's own are run, and
    those that you name. A run with a result that was changed since is not run again: it differs.

    Args:
        folder: Of `patchlib grid` or `patchlib run`; nothing in it is changed.
        sample: How many runs, all if there are fewer.
        seed: Which ones.
        atol: Absolute difference that two numbers may have, in their own units.
        rtol: Relative one, which is added to it.
        told: Called with each row of the table, once it is known.
        notebooks: Paths of further notebooks that may be run, for the runs of notebooks of their names.
        timeout: Seconds that a run may take.

    Returns:
        One row a file: run, file, n_values (compared), largest (absolute difference), same, note.

    Raises:
        RunError: No finished run in the folder, a sample below 1, or a run of a notebook that was not named.

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
        >>> table = patchlib.verify(tmp_path / "out", notebooks=[tmp_path / "sum.ipynb"])
        >>> table[["file", "n_values", "largest", "same"]]
                  file  n_values  largest  same
        0  sum.sum.csv         1      0.0  True
    """
    check_count("sample", sample, error=RunError)
    check_count("seed", seed, least=0, error=RunError)
    for name, value in {"atol": atol, "rtol": rtol}.items():
        if not isinstance(value, int | float) or not value >= 0:
            raise RunError(f"{name} takes a number of 0 or more, not {value!r}")
    named = {path.stem: path for path in find_notebooks(notebooks)} if notebooks else {}
    finished = [run for run in collect(folder).records if run.status in (OK, DAMAGED)]
    if not finished:
        raise RunError(f"no run in {folder} has finished; there is nothing to verify")
    chosen = random.Random(seed).sample(finished, min(sample, len(finished)))
    again = [(run, _planned(run, named)) for run in sorted(chosen, key=lambda run: run.name)]
    rows = []
    for run, planned in again:
        with tempfile.TemporaryDirectory(prefix="patchlib-verify-") as temporary:
            if planned:
                run_grid([planned], temporary, timeout=timeout)
            new = RunFolder(Path(temporary) / "runs" / run.name)
            for row in _compare(run, RunFolder(run.folder, run.notebook), new, atol, rtol):
                told(row)
                rows.append(row)
    return pd.DataFrame(rows)


def _planned(run: Run, named: Mapping[str, Path]) -> Planned | None:
    """The run as it was, of a notebook of ours or one that was named; None if what it left was changed since.

    Where a run's folder says that its notebook lies, there may be anything.
    """
    if run.status == DAMAGED:
        return None
    manifest = RunFolder(run.folder, run.notebook).manifest
    ours = {path.stem: path for path in notebook_folder().glob("*.ipynb")}
    command = str(manifest.get("repeat")).split()  # by name, as patchlib's own are, or by a path
    is_ours = command[:3] == ["patchlib", "run", run.notebook]
    notebook = named.get(run.notebook) or (ours.get(run.notebook) if is_ours else None)
    if notebook is None:
        mend = f"look at that notebook, and name it (--notebook {run.notebook}.ipynb) if it may run here"
        raise RunError(f"{run.name} is of a notebook that is not patchlib's: {mend}")
    parameters = {name: value for name, value in manifest["parameters"].items() if name != "out_dir"}
    return Planned(run.name, notebook, parameters)


def _compare(run: Run, old: RunFolder, new: RunFolder, atol: float, rtol: float) -> list[dict[str, Any]]:
    row = {"run": run.name, "file": "", "n_values": 0, "largest": np.nan, "same": False}
    if run.status == DAMAGED:
        return [row | {"note": run.error}]
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
        else:
            result = difference(before[file], after[file], atol, rtol)
        told = {"same": result.note is None, "note": "; ".join(filter(None, [result.note, *notes]))}
        rows.append(row | result._asdict() | told | {"file": file})
    return rows or [row | {"same": True, "note": "has no results to compare"}]


def difference(old: Path, new: Path, atol: float = ATOL, rtol: float = RTOL) -> _Difference:
    """Compare two .nc or .csv files: names, sizes, text, and numbers within the tolerance; attributes are left out."""
    try:
        ours, theirs = _columns(old), _columns(new)
    except (OSError, ValueError, RunError) as error:
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
    if path.suffix != ".nc":
        return {str(name): column.to_numpy() for name, column in pd.read_csv(path).items()}
    with open_result(path, chunks=None) as file:
        return {str(name): variable.to_numpy() for name, variable in file.variables.items()}
