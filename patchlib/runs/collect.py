"""All the runs of a folder as one thing: a table of runs, and each result of all of them as one dataset or table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from patchlib.errors import RunError
from patchlib.runs.lazy import RUN, lazy_dataset
from patchlib.runs.manifest import read_json
from patchlib.runs.status import STATUS, manifest_of

OK = "ok"
_NOT_SWEPT = ("out_dir",)  # parameters that say where, not what


@dataclass(frozen=True)
class Run:
    """One run of a notebook, finished or not.

    Attributes:
        name: The folder's name in a grid; the notebook's stem in the folder of one `patchlib run`.
        notebook: Its stem.
        status: "ok", "failed", "timeout", "interrupted", "waiting", "running"; "damaged" where a file cannot be read.
        parameters: All that the manifest knows, the notebook's own defaults included.
        models: Their names.
        headline: Numbers that the notebook saved as its headline, by name.
        results: Result's name -> its file, .nc or .csv.
    """

    name: str
    notebook: str
    folder: Path
    status: str
    error: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    wall_time_s: float | None = None
    peak_memory_mb: float | None = None
    finished_utc: str | None = None
    headline: Mapping[str, float] = field(default_factory=dict)
    results: Mapping[str, Path] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """The models that the run used, which is one as a rule; "no model" where there is none."""
        return ", ".join(dict.fromkeys(self.models)) or "no model"


@dataclass(frozen=True)
class Collection:
    """The runs of a folder, from `collect`.

    Attributes:
        folder: Where they are.
        found: One `Run` each, those that failed too, by notebook and name.
    """

    folder: Path
    found: tuple[Run, ...]

    @property
    def runs(self) -> pd.DataFrame:
        """One row a run, failed ones too: status, parameters, headline numbers, models, time (s), memory (MB), ..."""
        rows = []
        for run in self.found:
            row = {RUN: run.name, "notebook": run.notebook, "status": run.status}
            last = {"models": ", ".join(run.models), "wall_time_s": run.wall_time_s}
            last |= {"peak_memory_mb": run.peak_memory_mb, "finished_utc": run.finished_utc, "error": run.error}
            own = row | _named(run.parameters, {*row, *last})
            rows.append(own | {name: value for name, value in run.headline.items() if name not in own} | last)
        table = pd.DataFrame(rows).set_index(RUN)
        return table[[*(name for name in table if name not in last), *last]]

    @property
    def results(self) -> dict[str, tuple[str, ...]]:
        """Notebook -> the names of the results that its finished runs have."""
        names: dict[str, dict[str, None]] = {}
        for run in self.found:
            if run.status == OK:
                names.setdefault(run.notebook, {}).update(dict.fromkeys(run.results))
        return {notebook: tuple(one) for notebook, one in names.items()}

    def dataset(self, notebook: str, result: str, **only: Any) -> xr.Dataset:
        """One result of all finished runs, along a first axis `run`, with the parameters as coordinates on it.

        Nothing is read before it is used. What takes all runs, such as a mean over them, reads all of a variable at
        once; ``ds.chunk(run=1)`` makes Dask arrays of it, which take one run after the other. A layer or head of one
        model is no layer or head of another: where models differ in their sizes, the smaller has NaN beyond its own;
        `model_name="gpt2"` takes the runs of one. Where the runs are a grid,
        `ds.set_index(run=["model_name", "seed"]).unstack("run")` gives it an axis for each parameter. A parameter whose
        name the result uses itself is called `parameter_<name>`.

        Args:
            notebook: Its stem, such as "02_head_patching".
            result: The name that it was saved under, such as "output".
            only: Parameters with the value that the runs must have.

        Raises:
            RunError: There is no such result, or no run with those parameters, or files that do not go together.
        """
        runs = self._having(notebook, result, ".nc", only)
        dataset = lazy_dataset({run.name: run.results[result] for run in runs})
        taken = {RUN, *map(str, dataset.variables), *map(str, dataset.dims)}
        parameters = pd.DataFrame([_named(run.parameters, taken) for run in runs])
        return dataset.assign_coords({name: (RUN, column.to_numpy()) for name, column in parameters.items()})

    def table(self, notebook: str, result: str, **only: Any) -> pd.DataFrame:
        """One .csv result of all finished runs, below one another, after columns with the run and its parameters.

        Args:
            notebook: Its stem, such as "03_ioi_circuit".
            result: The name that it was saved under, such as "roles".
            only: Parameters with the value that the runs must have.

        Raises:
            RunError: There is no such table, or no run with those parameters, or a file that cannot be read.
        """
        tables = []
        for run in self._having(notebook, result, ".csv", only):
            try:
                table = pd.read_csv(run.results[result], keep_default_na=False, na_values=[""])  # "None" is a word
            except (OSError, ValueError) as error:
                raise RunError(f"{run.results[result]} cannot be read ({error}); repeat that run") from error
            table = table.rename(columns={RUN: f"result_{RUN}"})
            columns = {RUN: run.name} | _named(run.parameters, {RUN, *table})
            tables.append(pd.concat([pd.DataFrame(columns, index=table.index), table], axis=1))
        return pd.concat(tables, ignore_index=True)

    def _having(self, notebook: str, result: str, ending: str, only: Mapping[str, Any]) -> list[Run]:
        runs = [run for run in self.found if run.status == OK and run.notebook == notebook and result in run.results]
        if not runs:
            known = [f"{one}: {', '.join(names)}" for one, names in self.results.items()]
            raise RunError(
                f"no finished run in {self.folder} has a result {result!r} of {notebook!r}; "
                f"there are {'; '.join(known) or 'none at all'}"
            )
        if any(run.results[result].suffix != ending for run in runs):
            other = "table" if ending == ".nc" else "dataset"
            raise RunError(f"{result!r} of {notebook} is saved as another kind; take .{other}(...) for it")
        for name, value in only.items():
            values = dict.fromkeys(str(run.parameters.get(name)) for run in runs)
            runs = [run for run in runs if name in run.parameters and run.parameters[name] == value]
            if not runs:
                raise RunError(f"no finished run of {notebook} has {name} = {value!r}; it is {', '.join(values)}")
        return runs


def collect(folder: str | Path) -> Collection:
    """All runs of a folder that `patchlib grid` or `patchlib run` wrote.

    Args:
        folder: As given with ``-o``.

    Returns:
        Its runs; ``.runs`` is a table of them, ``.dataset(notebook, result)`` and ``.table(notebook, result)`` are
        one result of all that finished well.

    Raises:
        RunError: There are no runs in the folder.
    """
    folder = Path(folder).resolve()
    found = [_safely(_of_grid, path.parent) for path in sorted(folder.glob("runs/*/status.json"))]
    taken = {run.name for run in found}
    plain = [_safely(_of_manifest, path) for path in sorted(folder.glob("*.manifest.json"))]
    found += [replace(run, name=f"./{run.name}") if run.name in taken else run for run in plain]
    if not found:
        raise RunError(
            f"there are no runs in {folder}; give a folder that `patchlib grid -o` or `patchlib run -o` wrote"
        )
    return Collection(folder, tuple(sorted(found, key=lambda run: (run.notebook, run.name))))


def _safely(read: Callable[[Path], Run], path: Path) -> Run:
    """A run, damaged where its records are not such as we write: one of them must not hide all others."""
    try:
        return read(path)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        name, place = (path.name, path) if path.is_dir() else (path.name.removesuffix(".manifest.json"), path.parent)
        return Run(name, name.partition(",")[0], place, "damaged", f"its records cannot be read ({error!r}); repeat it")


def _of_grid(folder: Path) -> Run:
    """A run by its status, and by its manifest where it got as far as that."""
    status, fault = dict[str, Any](), None
    try:
        status = read_json(folder / STATUS)
    except RunError as error:
        fault = str(error)
    path = manifest_of(folder, status)
    stem = path.name.removesuffix(".manifest.json")
    missing = Run(folder.name, stem, folder, "damaged", "its manifest is missing; repeat it")
    run = _of_manifest(path, folder.name) if path.is_file() else missing
    if fault:
        return replace(run, status="damaged", error=fault)
    known: dict[str, Any] = {key: _float(status.get(key)) for key in ("wall_time_s", "peak_memory_mb")}
    known |= {"finished_utc": status.get("finished_utc")}
    known = {key: value for key, value in known.items() if value is not None}
    if status.get("status") != OK:
        known |= {"status": str(status.get("status")), "error": status.get("error")}
    return replace(run, parameters={**run.parameters, **_values(status.get("parameters"))}, **known)


def _of_manifest(path: Path, name: str | None = None) -> Run:
    stem = path.name.removesuffix(".manifest.json")
    try:
        manifest = read_json(path)
    except RunError as error:  # one bad file must not hide all other runs
        return Run(name or stem, stem, path.parent, "damaged", str(error))
    start = f"{stem}."
    files = [path.parent / file["name"] for file in manifest.get("files", [])]
    missing = [file.name for file in files if not file.is_file()]
    status, fault = str(manifest.get("status")), manifest.get("error")
    if missing and status == OK:
        status, fault = "damaged", f"missing: {', '.join(missing)}; repeat it"
    return Run(
        name=name or stem,
        notebook=stem,
        folder=path.parent,
        status=status,
        error=fault,
        parameters=_values(manifest.get("parameters")),
        models=tuple(str(model["name"]) for model in manifest.get("models", [])),
        wall_time_s=_float(manifest.get("wall_time_s")),
        peak_memory_mb=_float(manifest.get("peak_memory_mb")),
        finished_utc=manifest.get("finished_utc"),
        headline={name: number for name, number in manifest.get("headline", {}).items() if number is not None},
        results={file.name.removeprefix(start).rpartition(".")[0]: file for file in files},
    )


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _values(parameters: Any) -> dict[str, Any]:
    """Parameters as values that a table's cell or a coordinate can hold: lists and the like as JSON."""
    plain = (str, int, float, bool, type(None))
    items = (parameters or {}).items()
    return {k: v if isinstance(v, plain) else json.dumps(v) for k, v in items if k not in _NOT_SWEPT}


def _named(parameters: Mapping[str, Any], taken: set[str]) -> dict[str, Any]:
    return {f"parameter_{name}" if name in taken else name: value for name, value in parameters.items()}
