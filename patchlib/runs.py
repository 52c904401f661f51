"""Headless runs: notebooks executed by papermill, with pages, saved results and a manifest for each.

A notebook saves its own results with `save_run` in its last cell; `run` executes notebooks and adds the
status, the HTML pages and the index.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchlib._manifest import (
    describe_file,
    new_manifest,
    peak_memory,
    prepare_folder,
    process_age,
    repeat_command,
    replacing,
    write_json,
)
from patchlib.errors import RunError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from patchlib._notebooks import Notebook


@dataclass(frozen=True)
class RunRecord:
    """What became of one notebook: `status` is "ok" or "failed"; times in seconds, memory in MB."""

    notebook: str
    status: str
    error: str | None
    wall_time_s: float
    peak_memory_mb: float | None
    executed: Path
    html: Path
    manifest: Path
    results: tuple[Path, ...]


def save_run(
    out_dir: str | Path,
    notebook: str,
    results: Mapping[str, xr.Dataset | pd.DataFrame],
    parameters: Mapping[str, Any],
) -> Path:
    """Save a notebook's results and the manifest that says how they came about.

    Each dataset goes to `<notebook>.<name>.nc`, each table to `<notebook>.<name>.csv`, the manifest to
    `<notebook>.manifest.json`. Every file appears whole or not at all.

    Args:
        out_dir: folder to write to; made if it is missing.
        notebook: name of the notebook without its ending, such as "02_head_patching".
        results: datasets from `sweep`, or tables, by a short name.
        parameters: the notebook's parameters with the values of this run.

    Returns:
        The path of the manifest.

    Raises:
        RunError: the folder cannot be written, or a result is of another type or cannot be saved.
    """
    import xarray as xr

    folder = prepare_folder(out_dir)
    stem = notebook.removesuffix(".ipynb")
    paths = [_save_result(folder, stem, name, result) for name, result in results.items()]
    attrs = [result.attrs for result in results.values() if isinstance(result, xr.Dataset)]
    models = {(a["model"], a.get("weights_hash")) for a in attrs if "model" in a}
    torch = sys.modules.get("torch")
    manifest = new_manifest(stem, parameters) | {
        "models": [{"name": name, "weights_hash": weights} for name, weights in sorted(models, key=str)],
        "wall_time_s": round(process_age(), 2),
        "peak_memory_mb": round(peak_memory() / 2**20, 1),
        "threads": torch.get_num_threads() if torch else None,
        "files": [describe_file(path) for path in paths],
    }
    return write_json(folder / f"{stem}.manifest.json", manifest)


def _save_result(folder: Path, stem: str, name: str, result: object) -> Path:
    import pandas as pd
    import xarray as xr

    if not re.fullmatch(r"[\w-]+", name):
        raise RunError(f"result name {name!r} cannot be part of a file name; use letters, digits, _ and -")
    if isinstance(result, pd.DataFrame):
        path = folder / f"{stem}.{name}.csv"
        with replacing(path) as temporary:
            result.to_csv(temporary, index=not isinstance(result.index, pd.RangeIndex))
        return path
    if not isinstance(result, xr.Dataset):
        kind = type(result).__name__
        raise RunError(f"result {name!r} must be an xarray.Dataset or a pandas.DataFrame, not {kind}")
    path = folder / f"{stem}.{name}.nc"
    try:
        with replacing(path) as temporary:
            result.to_netcdf(temporary, engine="h5netcdf")
    except (TypeError, ValueError) as error:
        raise RunError(f"result {name!r} cannot be saved as netCDF: {error}") from error
    return path


def run(
    notebooks: Sequence[str | Path] | None = None,
    parameters: Mapping[str, Any] | None = None,
    out_dir: str | Path = "out",
    progress: bool = True,
) -> list[RunRecord]:
    """Execute notebooks headless and write notebook, HTML, results, manifest and index.html to a folder.

    Names, parameters and the folder are checked before anything runs. A notebook that fails leaves what it
    had done, and the others still run. Each runs in a kernel of this interpreter, in its own folder.

    Args:
        notebooks: paths, stems ("02_head_patching") or numbers ("02"); the package's own by default.
        parameters: values for every notebook asked for; text is read as the type the notebook declares.
        out_dir: folder to write to; made if it is missing.
        progress: show papermill's progress bar on stderr.

    Returns:
        One record a notebook, in order.

    Raises:
        RunError: unknown notebook or parameter, wrong type, or a folder that cannot be written.
    """
    from patchlib._index import write_index
    from patchlib._notebooks import check_parameters, find_notebooks, read_notebook

    found = [read_notebook(path) for path in find_notebooks(notebooks)]
    values = [check_parameters(notebook, parameters or {}) for notebook in found]
    folder = prepare_folder(out_dir)
    for notebook, given in zip(found, values, strict=True):
        if notebook.path.parent == folder:
            raise RunError(f"{notebook.path.name} lies in the output folder {folder}; choose another with -o")
        if "out_dir" in notebook.parameters:
            # Absolute, because the notebook runs in its own folder and not in the caller's.
            given["out_dir"] = str(prepare_folder(given.get("out_dir") or folder))
    records = []
    try:
        for count, (notebook, given) in enumerate(zip(found, values, strict=True), start=1):
            bar = {"desc": f"{notebook.stem} ({count} of {len(found)})"} if progress else False
            records.append(_run_one(notebook, given, folder, bar))
    finally:
        write_index(folder)
    return records


def _run_one(
    notebook: Notebook, given: dict[str, Any], folder: Path, bar: dict[str, str] | bool
) -> RunRecord:
    from patchlib._execute import execute
    from patchlib._notebooks import notebook_folder
    from patchlib._page import write_page

    executed, page = (folder / f"{notebook.stem}{ending}" for ending in (".ipynb", ".html"))
    manifest_path = folder / f"{notebook.stem}.manifest.json"
    saved_path = Path(given.get("out_dir", folder)) / manifest_path.name
    for stale in (manifest_path, saved_path):
        stale.unlink(missing_ok=True)

    started = time.monotonic()
    outcome = execute(notebook.path, executed, given, bar)
    wall_time = round(time.monotonic() - started, 2)
    if executed.is_file():
        write_page(executed, page)

    manifest = new_manifest(notebook.stem, notebook.defaults | given)
    known = given
    if saved_path.is_file():
        manifest |= json.loads(saved_path.read_text("utf-8"))
        known = manifest["parameters"]
        for file in manifest["files"]:
            name = os.path.relpath(saved_path.parent / file["name"], folder)
            file["name"] = Path(name).as_posix()
    ours = notebook.path.parent == notebook_folder()
    manifest["repeat"] = repeat_command(notebook.stem if ours else str(notebook.path), known)
    manifest |= {"status": outcome.status, "error": outcome.error, "runner_wall_time_s": wall_time}
    manifest |= {"title": notebook.title, "description": notebook.description}
    write_json(manifest_path, manifest)
    if outcome.interrupt is not None:
        raise outcome.interrupt
    results = tuple(folder / file["name"] for file in manifest["files"])
    peak = manifest["peak_memory_mb"]
    return RunRecord(
        notebook.stem, outcome.status, outcome.error, wall_time, peak, executed, page, manifest_path, results
    )
