"""All the runs of a folder as one thing: a table of runs, and each result of all of them as one dataset or table."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from patchlib._util import first_line
from patchlib.errors import RunError
from patchlib.runs.execute.ending import is_open
from patchlib.runs.folder import OK, STATUS, RunFolder
from patchlib.runs.report.netcdf import look_through, open_result

RUN = "run"
DAMAGED = "damaged"
"""The status of a run whose files are not as they were, or not such as patchlib writes."""


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

    Example:
        >>> _ = patchlib.save_run(tmp_path, "heads", {}, {"seed": 3}, {"largest": 0.4})
        >>> (run,) = patchlib.collect(tmp_path).records
        >>> run.name, run.status, run.parameters, run.headline
        ('heads', 'ok', {'seed': 3}, {'largest': 0.4})
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
        records: One `Run` each, those that failed too, by notebook and name.

    Example:
        >>> effects = xr.Dataset({"effect": ("layer", [0.1, 0.7])})
        >>> _ = patchlib.save_run(tmp_path, "layers", {"sweep": effects}, {"seed": 3})
        >>> collection = patchlib.collect(tmp_path)
        >>> collection.results
        {'layers': ('sweep',)}
        >>> collection.dataset("layers", "sweep").effect.sel(run="layers").values
        array([0.1, 0.7])
    """

    folder: Path
    records: tuple[Run, ...]

    @property
    def runs(self) -> pd.DataFrame:
        """One row a run, failed ones too: status, parameters, headline numbers, models, time (s), memory (MB), ..."""
        rows = []
        for run in self.records:
            row: dict[str, Any] = {RUN: run.name, "notebook": run.notebook, "status": run.status}
            last = {"models": ", ".join(run.models), "wall_time_s": run.wall_time_s}
            last |= {"peak_memory_mb": run.peak_memory_mb, "finished_utc": run.finished_utc, "error": run.error}
            row |= _named(run.parameters, {*row, *last})
            rows.append(row | {name: value for name, value in run.headline.items() if name not in row} | last)
        table = pd.DataFrame(rows).set_index(RUN)
        return table[[*(name for name in table if name not in last), *last]]

    @property
    def results(self) -> dict[str, tuple[str, ...]]:
        """Notebook -> the names of the results that its finished runs have."""
        names: dict[str, dict[str, None]] = {}
        for run in self.records:
            if run.status == OK:
                names.setdefault(run.notebook, {}).update(dict.fromkeys(run.results))
        return {notebook: tuple(results) for notebook, results in names.items()}

    def dataset(self, notebook: str, result: str, **only: Any) -> xr.Dataset:
        """One result of all finished runs, along a first axis `run`, with the parameters as coordinates on it.

        Its variables are Dask arrays, a chunk for each run: nothing is read before it is computed, and a mean over a
        thousand runs takes the memory of a few. A layer or head of one model is no layer or head of another: where
        models differ in their sizes, the smaller has NaN beyond its own; ``model_name="gpt2"`` takes the runs of one.
        Where the runs are a grid, ``ds.set_index(run=["model_name", "seed"]).unstack("run")`` gives it an axis for
        each parameter. A parameter whose name the result uses itself is called ``parameter_<name>``.

        Args:
            notebook: Its stem, such as "02_head_patching".
            result: The name that it was saved under, such as "output".
            only: Parameters with the value that the runs must have.

        Returns:
            The result with the dimensions that it was saved with, after ``run``; attributes are those that all share.

        Raises:
            RunError: There is no such result, or no run with those parameters, or files that do not go together.
        """
        runs = self._having(notebook, result, ".nc", only)
        dataset = _concatenated([run.results[result] for run in runs]).assign_coords({RUN: [run.name for run in runs]})
        taken = {RUN, *map(str, dataset.variables), *map(str, dataset.dims)}
        parameters = pd.DataFrame([_named(run.parameters, taken) for run in runs])
        return dataset.assign_coords({name: (RUN, column.to_numpy()) for name, column in parameters.items()})

    def table(self, notebook: str, result: str, **only: Any) -> pd.DataFrame:
        """One .csv result of all finished runs, below one another, after columns with the run and its parameters.

        Args:
            notebook: Its stem, such as "03_ioi_circuit".
            result: The name that it was saved under, such as "roles".
            only: Parameters with the value that the runs must have.

        Returns:
            A row for each of the tables' rows.

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
        runs = [run for run in self.records if run.status == OK and run.notebook == notebook and result in run.results]
        if not runs:
            offered = [f"{stem}: {', '.join(names)}" for stem, names in self.results.items()]
            raise RunError(
                f"no finished run in {self.folder} has a result {result!r} of {notebook!r}; "
                f"there are {'; '.join(offered) or 'none at all'}"
            )
        if any(run.results[result].suffix != ending for run in runs):
            other = "table" if ending == ".nc" else "dataset"
            raise RunError(f"{result!r} of {notebook} is saved as another kind; take .{other}(...) for it")
        for name, value in only.items():
            value = _values({name: value})[name]
            values = dict.fromkeys(str(run.parameters.get(name)) for run in runs)
            runs = [run for run in runs if name in run.parameters and run.parameters[name] == value]
            if not runs:
                raise RunError(f"no finished run of {notebook} has {name} = {value!r}; it is {', '.join(values)}")
        return runs


def collect(folder: str | Path) -> Collection:
    """All runs of a folder that `patchlib grid` or `patchlib run` wrote.

    Each result is held against the sha256 in its run's manifest: a run with one that was changed, or whose records are
    not such as patchlib writes, is "damaged", and nothing of it is shown as a result.

    Args:
        folder: As given with ``-o``.

    Returns:
        Its runs; ``.runs`` is a table of them, ``.dataset(notebook, result)`` and ``.table(notebook, result)`` are
        one result of all that finished well.

    Raises:
        RunError: There are no runs in the folder.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"layer": [20, 23], "effect": [0.41, 0.35]})
        >>> for seed in (0, 1):
        ...     _ = patchlib.save_run(tmp_path, f"heads_{seed}", {"top": table}, {"seed": seed}, {"largest": 0.41})
        >>> collection = patchlib.collect(tmp_path)
        >>> collection.runs[["notebook", "status", "seed", "largest"]]
                notebook status  seed  largest
        run
        heads_0  heads_0     ok     0     0.41
        heads_1  heads_1     ok     1     0.41
        >>> collection.table("heads_1", "top")
               run  seed  layer  effect
        0  heads_1     1     20    0.41
        1  heads_1     1     23    0.35
    """
    try:
        folder = Path(folder).resolve()
        statuses = sorted(folder.glob(f"runs/*/{STATUS}"))
    except (TypeError, ValueError, OSError) as error:
        raise RunError(f"{folder!r:.200} is no folder: {first_line(error):.200}") from error
    runs = [_read(RunFolder(path.parent), path.parent.name) for path in statuses]
    taken = {run.name for run in runs}
    for path in sorted(folder.glob("*.manifest.json")):
        stem = path.name.removesuffix(".manifest.json")
        runs.append(_read(RunFolder(folder, stem), f"./{stem}" if stem in taken else stem))
    if not runs:
        raise RunError(
            f"there are no runs in {folder}; give a folder that `patchlib grid -o` or `patchlib run -o` wrote"
        )
    return Collection(folder, tuple(sorted(runs, key=lambda run: (run.notebook, run.name))))


def _read(folder: RunFolder, name: str) -> Run:
    """A run by its manifest, where it got as far as that, and by what the grid says, which is the later."""
    status = {} if folder.stem else folder.status
    records = folder.manifest | {key: value for key, value in status.items() if value is not None}
    state, error = str(records.get("status")), status.get("error") if status else records.get("error")
    state = OK if is_open(folder.manifest_path) else state
    unread = [STATUS] if not (folder.stem or status) else []
    unread += [folder.manifest_path.name] if folder.stem and not folder.manifest else []
    damage = f"{unread[0]} cannot be read" if unread else folder.damage() if state == OK else None
    if damage:
        state, error = DAMAGED, f"{damage}; repeat it"
    return Run(
        name=name,
        notebook=folder.notebook,
        folder=folder.path,
        status=state,
        error=error,
        parameters=_values({**folder.manifest.get("parameters", {}), **status.get("parameters", {})}),
        models=tuple(str(model["name"]) for model in folder.manifest.get("models", [])),
        wall_time_s=records.get("wall_time_s"),
        peak_memory_mb=records.get("peak_memory_mb"),
        finished_utc=records.get("finished_utc"),
        headline={key: number for key, number in folder.manifest.get("headline", {}).items() if number is not None},
        results=folder.results,
    )


def _concatenated(paths: list[Path]) -> xr.Dataset:
    """The datasets of several files along a first axis `run`: every value that an axis has in any of them."""
    parts, dims = [], dict[Any, tuple[Any, ...]]()
    look_through(paths)  # all of them by one process
    for path in paths:
        part = open_result(path, chunks={})
        for name, variable in part.variables.items():
            if dims.setdefault(name, variable.dims) != variable.dims:  # xarray would make one over the axes of both
                over = [", ".join(map(str, one)) for one in (dims[name], variable.dims)]
                mend = "collect them apart, such as by model_name"
                raise RunError(f"{name!r} is over {over[0]} in {paths[0].name} but over {over[1]} in {path}; {mend}")
        bare = {dim: range(size) for dim, size in part.sizes.items() if dim not in part.coords}
        parts.append(part.assign_coords(bare))
    how: dict[str, Any] = {"data_vars": "all", "coords": "different", "compat": "equals"}
    joined: xr.Dataset = xr.concat(parts, RUN, join="outer", combine_attrs="drop_conflicts", **how)
    return joined


def _values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as values that a table's cell or a coordinate can hold: lists and the like as JSON."""
    structured = (list, tuple, dict)  # without out_dir, which says where, not what
    return {k: json.dumps(v) if isinstance(v, structured) else v for k, v in parameters.items() if k != "out_dir"}


def _named(parameters: Mapping[str, Any], taken: set[str]) -> dict[str, Any]:
    return {f"parameter_{name}" if name in taken else name: value for name, value in parameters.items()}
