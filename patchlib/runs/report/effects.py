"""The effects of many runs beside each other: only what compares, under names that say what the runs differ in.

Within one model the same cell is followed from run to run. A head of one model is no head of another: between models,
layers at the same share of the depth are compared. Token positions mean other words in other prompts: results over
them are left out. Effects on different metrics, at different sites, in different directions or over different axes are
never put together.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from patchlib._util import T, first_line
from patchlib.errors import RunError
from patchlib.plots.runs import named
from patchlib.runs.folder import OK
from patchlib.runs.report.collect import Run
from patchlib.runs.report.netcdf import look_through, open_result


@dataclass(frozen=True)
class RunEffects:
    """One result of one run.

    Attributes:
        run: It was saved by.
        result: Its name.
        metric: The result's first one, which all numbers here are in.
        site: Where was patched, as "z"; empty where the result does not say.
        direction: "denoise" or "noise"; empty where the result does not say.
        n: Prompts.
        unpatched: "clean" and "corrupted" -> mean over prompts of that forward; None where the result does not say.
        cells: Effect by cell, its index the swept axes.
    """

    run: Run
    result: str
    metric: str
    site: str
    direction: str
    n: int
    unpatched: dict[str, float | None]
    cells: pd.Series

    @property
    def kind(self) -> tuple[str, ...]:
        """What two results have to share for their effects to be held against each other; last, the axes."""
        return self.metric, self.site, self.direction, ", ".join(map(str, self.cells.index.names))

    @property
    def is_stream(self) -> bool:
        """Whether the residual stream was patched: where the prompts differ, its effect is 1 by construction."""
        return self.site.startswith("resid")

    @property
    def largest(self) -> str:
        """The cell with the largest absolute effect; empty where there is no effect at all."""
        if self.cells.isna().all():
            return ""
        cell: Any = self.cells.abs().idxmax()
        return f"{named(self.cells, cell)}: {self.cells[cell]:.2f}"


@dataclass(frozen=True)
class Comparison:
    """One result of several runs of a notebook.

    Attributes:
        notebook: Its stem.
        title: The result, and what sets it apart from others of that name.
        metric: That the effects are on.
        is_stream: Whether the residual stream was patched.
        tables: Model -> effect by cell (index) and run (columns), of the cells that all of its runs have: a notebook
            may choose its layers by what it finds.
        left_out: Model -> how many cells only some of its runs have.
    """

    notebook: str
    title: str
    metric: str
    is_stream: bool
    tables: dict[str, pd.DataFrame]
    left_out: dict[str, int]


def read_effects(records: Iterable[Run]) -> tuple[list[RunEffects], dict[str, str]]:
    """Every result with an effect of the runs that finished, and what is wrong with those that cannot be read.

    Args:
        records: Of `collect`.

    Returns:
        The effects, in the order of the runs and of their results; and run's name -> error.
    """
    effects, errors = [], {}
    finished = [run for run in records if run.status == OK]
    saved = [(run, result, path) for run in finished for result, path in run.results.items() if path.suffix == ".nc"]
    look_through(path for *_, path in saved)  # all of them by one process
    for run, result, path in saved:
        try:
            effects += _read(run, result)
        except Exception as error:  # of many kinds: one bad file must not keep the others from being shown
            is_said = isinstance(error, RunError)
            errors[run.name] = str(error) if is_said else f"{path} is no result of a sweep ({first_line(error)})"
    return effects, errors


def _read(run: Run, result: str) -> list[RunEffects]:
    with open_result(run.results[result], chunks=None) as file:
        if "effect" not in file or not set(file.effect.dims) - {"metric"}:
            return []
        first = file.isel(metric=0) if "metric" in file.dims else file
        unpatched = {name: float(first[name].mean()) if name in first else None for name in ("clean", "corrupted")}
        metric = str(first["metric"].item()) if "metric" in first.coords else "effect"
        cells = first.effect.reset_coords(drop=True).to_series().replace([np.inf, -np.inf], np.nan)
        _check_cells(cells, run.results[result])
        site, direction = (str(file.attrs.get(name, "")) for name in ("site", "direction"))
        n = file.sizes.get("example", 0)
    return [RunEffects(run, result, metric, site, direction, n, unpatched, cells)]


def _check_cells(cells: pd.Series, path: Path) -> None:
    """RunError for cells that no sweep has, which cannot be put beside those of other runs."""
    numbers = {"layer", "head", "kv_head", "pos"}.intersection(cells.index.names)
    wrong = [name for name in sorted(numbers) if cells.index.get_level_values(name).dtype.kind not in "iu"]
    if cells.dtype.kind not in "fiu" or wrong or not cells.index.is_unique:
        what = f"{wrong[0]!r} in it is no number" if wrong else "a cell stands in it twice, or is no number"
        raise RunError(f"{path} cannot be read ({what}); repeat that run")


def overview(
    records: Sequence[Run], effects: Sequence[RunEffects], errors: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """A row for each run: what it differs in, what became of it, its headline numbers and its largest effect.

    Args:
        records: Of `collect`; those that failed too.
        effects: Of `read_effects`.
        errors: Run's name -> what is wrong with its files.
    """
    names, telling = differing(records), first_effects(effects)
    rows = []
    for run in records:
        error = run.error or (errors or {}).get(run.name)
        row: dict[str, Any] = {"run": run.name, "notebook": run.notebook, "status": run.status, "error": error}
        row |= {name: run.parameters.get(name) for name in names if name not in row}
        row |= {name: number for name, number in run.headline.items() if name not in row}
        if effect := telling.get(run.name):
            row |= {"largest_effect": effect.largest, "of": f"{effect.result}, {effect.metric}", "n": effect.n}
            row |= effect.unpatched
        row |= {"seconds": run.wall_time_s, "MB": run.peak_memory_mb}
        rows.append(row)
    last = ["largest_effect", "of", "clean", "corrupted", "n", "seconds", "MB"]
    table = pd.DataFrame(rows).dropna(axis="columns", how="all").round(4)
    if table.notebook.nunique() == 1:
        table = table.drop(columns="notebook")
    return table[[*(name for name in table if name not in last), *(name for name in last if name in table)]]


def first_effects(effects: Sequence[RunEffects]) -> dict[str, RunEffects]:
    """For each run's name the result that speaks for it: of most prompts, of a component rather than the stream."""
    ranked = sorted(effects, key=lambda effect: (effect.n, not effect.is_stream), reverse=True)  # stable
    return {effect.run.name: effect for effect in reversed(ranked)}


def compared(effects: Sequence[RunEffects]) -> list[Comparison]:
    """What goes together among the effects of runs, each of a notebook's results by itself."""
    comparisons = []
    usable = [effect for effect in effects if effect.cells.notna().any() and "pos" not in effect.cells.index.names]
    for (notebook, result), same in grouped(usable, lambda effect: (effect.run.notebook, effect.result)).items():
        kinds = grouped(same, lambda effect: effect.kind)
        for kind, alike in kinds.items():
            tables, left_out = {}, {}
            for model, group in grouped(alike, lambda effect: effect.run.model).items():
                cells = {effect.run.name: effect.cells for effect in group}
                runs = labelled([effect.run for effect in group])
                table = pd.DataFrame({label: cells[run.name] for label, run in runs})
                tables[model] = table.dropna()
                left_out[model] = len(table) - len(tables[model])
            title = ", ".join([result, *(filter(None, kind) if len(kinds) > 1 else ())])
            comparisons.append(Comparison(notebook, title, kind[0], alike[0].is_stream, tables, left_out))
    return comparisons


def headlines(records: Sequence[Run]) -> dict[tuple[str, str], dict[str, pd.Series]]:
    """Notebook and name of each headline number that several runs have -> model -> the number by run."""
    numbers: dict[tuple[str, str], dict[str, pd.Series]] = {}
    finished = [run for run in records if run.status == OK]
    for notebook, group in grouped(finished, lambda run: run.notebook).items():
        for name in dict.fromkeys(name for run in group for name in run.headline):
            having = [run for run in group if np.isfinite(run.headline.get(name, np.nan))]
            if len(having) > 1:
                numbers[notebook, name] = {
                    model: pd.Series({label: run.headline[name] for label, run in labelled(runs)})
                    for model, runs in grouped(having, lambda run: run.model).items()
                }
    return numbers


def differing(records: Sequence[Run]) -> list[str]:
    """Names of the parameters in which runs of one notebook differ; another may just have other defaults."""
    names: dict[str, None] = {}
    for runs in grouped(records, lambda run: run.notebook).values():
        table = pd.DataFrame([{name: repr(value) for name, value in run.parameters.items()} for run in runs])
        names |= {str(name): None for name in table if table[name].nunique() > 1}
    return list(names)


def labelled(runs: Sequence[Run]) -> list[tuple[str, Run]]:
    """Runs of one notebook under what sets each apart, in the order of that."""
    names = differing(runs)

    def place(run: Run) -> list[tuple[bool, Any]]:
        values = [run.parameters.get(name) for name in names]
        return [(False, value) if isinstance(value, int | float) else (True, str(value)) for value in values]

    ordered = sorted(runs, key=place)
    labels = [", ".join(f"{name}={run.parameters.get(name)}" for name in names) for run in ordered]
    if len(set(labels)) < len(labels) or not names:  # runs that differ in nothing that they say
        labels = [run.name for run in ordered]
    return list(zip(labels, ordered, strict=True))


def grouped(items: Iterable[T], key: Callable[[T], Any]) -> dict[Any, list[T]]:
    """Items by their key, both in the order that they come in."""
    groups: dict[Any, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
