"""Results, and the manifest that says how they came about."""

import math
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, SupportsFloat

import pandas as pd
import psutil
import xarray as xr

from patchlib._util import first_line, sha256_of, versions
from patchlib.errors import RunError
from patchlib.runs.execute.ending import close_at_end, shell_of_kernel
from patchlib.runs.execute.parameters import Parameter, kept
from patchlib.runs.execute.provenance import provenance
from patchlib.runs.files import alone, prepare_folder, replacing, write_json
from patchlib.runs.folder import now

RUNNING = "PATCHLIB_NOTEBOOK"
"""Tells a kernel that patchlib started which notebook it runs."""
WAIT = 10.0
"""Seconds to wait for another process that is saving the same notebook in the same folder."""
_SAVED: dict[Path, dict[str, Any]] = {}
"""What this process has saved: manifest's path -> manifest."""


def save_run(
    out_dir: str | Path,
    notebook: str,
    results: Mapping[str, xr.Dataset | pd.DataFrame],
    parameters: Mapping[str, Any],
    headline: Mapping[str, float] | None = None,
) -> Path:
    """Save a notebook's results and the manifest that says how they came about.

    Called again by the same notebook with the same parameters, it adds to what is there. In a notebook the manifest
    says "running" until the notebook has ended, and then "ok" or "failed": `patchlib run` sees the end; under plain
    papermill or Jupyter it is the end of the kernel, or five seconds without a cell. In a script it says "ok" at once.

    Each dataset goes to `<notebook>.<name>.nc`, each table to `<notebook>.<name>.csv`, the manifest to
    `<notebook>.manifest.json`. Every file appears whole or not at all.

    Args:
        out_dir: folder to write to; made if it is missing.
        notebook: name of the notebook without its ending, such as "02_head_patching"; where patchlib runs it, the
            name of the file that is run, so that a copy under another name has results of its own.
        results: datasets from `sweep`, or tables, by a short name.
        parameters: the notebook's parameters with the values of this run.
        headline: the few numbers that one run is held against another by, such as {"faithfulness": 0.72}.

    Returns:
        The path of the manifest.

    Raises:
        RunError: the folder cannot be written, or another run of the notebook is at work in it; the name is that of
            another folder's file; a result is of another type or cannot be saved, or a headline is no number.

    Example:
        >>> result = xr.Dataset({"effect": ("layer", [0.1, 0.7])})
        >>> path = patchlib.save_run(tmp_path, "layers", {"effects": result}, {"seed": 0}, {"largest effect": 0.7})
        >>> sorted(file.name for file in tmp_path.iterdir())
        ['layers.effects.nc', 'layers.manifest.json']
    """
    is_ours = RUNNING in os.environ  # whose runner holds the folder
    notebook = os.environ.get(RUNNING, notebook)
    is_name = isinstance(notebook, str) and notebook.isprintable() and notebook.strip(". ")
    if not is_name or Path(notebook).name != notebook:
        raise RunError(f"the notebook's name {notebook!r} is no name of a file; the folder is the first argument")
    given = {"results": results, "parameters": parameters, "headline": headline or {}}
    if wrong := [what for what, value in given.items() if not isinstance(value, Mapping)]:
        raise RunError(f"{wrong[0]} are names and what they stand for, not {given[wrong[0]]!r:.80}")
    numbers = {name: _number(name, value) for name, value in (headline or {}).items()}
    folder = prepare_folder(out_dir)
    path = folder / f"{notebook}.manifest.json"
    ends_itself = not is_ours and shell_of_kernel() is not None
    with nullcontext() if is_ours else alone(folder, notebook, wait=WAIT):
        files = [_save(result, folder, notebook, name) for name, result in results.items()]
        attrs = [result.attrs for result in results.values() if "model" in result.attrs]
        models = dict.fromkeys((attr["model"], attr.get("weights_hash")) for attr in attrs)
        manifest = new_manifest(notebook, parameters) | {
            "status": "running" if is_ours or ends_itself else "ok",
            "models": [{"name": name, "weights_hash": weights} for name, weights in models],
            "headline": numbers,
            "wall_time_s": round(time.time() - psutil.Process().create_time()),
            "peak_memory_mb": round(peak_memory() / 2**20, 1),
            "files": [{"name": path.name, "sha256": sha256_of(path)} for path in files],
        }
        before = _SAVED.get(path, manifest)
        if is_ours or before["parameters"] == manifest["parameters"]:  # else it is another run in this process
            manifest |= _together(before, manifest)
        _SAVED[path] = manifest
        write_json(path, manifest)
        if ends_itself:
            close_at_end(path)
        return path


def _together(before: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What two manifests of one run hold, the later one's where both have it."""
    files = {file["name"]: file for file in (*before["files"], *manifest["files"])}
    models = [*before["models"], *(model for model in manifest["models"] if model not in before["models"])]
    merged = {key: {**before[key], **manifest[key]} for key in ("parameters", "headline")}
    return {**merged, "models": models, "files": list(files.values())}


def _number(name: str, value: Any) -> float | None:
    """A plain number, which JSON can hold; None where it is not finite."""
    if isinstance(value, bool) or not isinstance(value, SupportsFloat):
        raise RunError(f"headline {name!r} must be a number, not {value!r}")
    return float(value) if math.isfinite(value) else None


def _save(result: object, folder: Path, notebook: str, name: str) -> Path:
    if not re.fullmatch(r"[\w-]+", str(name)):
        raise RunError(f"result name {name!r} cannot be part of a file name; use letters, digits, _ and -")
    if not isinstance(result, xr.Dataset | pd.DataFrame):
        kind = type(result).__name__
        raise RunError(f"result {name!r} must be an xarray.Dataset or a pandas.DataFrame, not {kind}")
    path = folder / f"{notebook}.{name}.{'nc' if isinstance(result, xr.Dataset) else 'csv'}"
    try:
        with replacing(path) as temporary:
            if isinstance(result, xr.Dataset):
                result.to_netcdf(temporary, engine="h5netcdf")
            else:
                named = result.rename_axis(index=lambda name: "index" if name is None else name)
                named.to_csv(temporary, index=not isinstance(result.index, pd.RangeIndex))
    except RunError:
        raise
    except Exception as error:  # of many kinds, of xarray, h5netcdf and pandas
        kind = "netCDF" if isinstance(result, xr.Dataset) else "CSV"
        raise RunError(f"result {name!r} cannot be saved as {kind}: {first_line(error)}") from error
    return path


def new_manifest(notebook: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest with all its keys, of which the running notebook and its runner each fill some."""
    parameters = {str(name): kept(value) for name, value in parameters.items()}
    return {
        "notebook": notebook,
        "title": notebook,
        "description": "",
        "status": "ok",
        "error": None,
        "parameters": parameters,
        "models": [],
        "headline": {},
        "versions": versions() | {"platform": platform.platform()},
        **provenance(parameters),
        "wall_time_s": None,
        "peak_memory_mb": None,
        "files": [],
        "finished_utc": now(),
        "repeat": repeat_command(notebook, parameters),
    }


def repeat_command(name: str, parameters: Mapping[str, Any], declared: Mapping[str, Parameter] | None = None) -> str:
    """Return the command line that repeats a run, whatever folder it writes to."""
    options: list[str] = []
    for key, value in parameters.items():
        one = (declared or {}).get(key, Parameter(key, "", None, ""))
        if key != "out_dir" and (option := one.option(value)):
            options += [option[0], key, option[1]]
    return shlex.join(["patchlib", "run", name, *options])


def peak_memory() -> int:
    """Return the most memory this process has held at once, in bytes."""
    status = Path("/proc/self/status")  # not ru_maxrss where it can be helped: a child starts with its parent's
    if status.is_file() and (high_water := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return 1024 * int(high_water[1])
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
