"""Finished cells on disk, so that a sweep that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from patchlib.errors import SweepError
from patchlib.patching.grid import Cell

if TYPE_CHECKING:  # which opens the checkpoint
    from patchlib.patching.experiment import Experiment


class Finished:
    """The patched metrics of cells that are done, in memory and in an SQLite file (or in none).

    Every ``add`` is one transaction, so that a process that is killed loses at most the batch in flight.
    """

    def __init__(self, database: sqlite3.Connection | None) -> None:
        self._database = database
        self._metrics: dict[tuple[tuple[int, ...], int], np.ndarray] = {}
        if database is not None:
            for key, values in database.execute("SELECT key, metrics FROM finished"):
                cells, examples = json.loads(key)
                table = np.frombuffer(values, np.float32).reshape(-1, len(cells), len(examples))
                for c, cell in enumerate(cells):
                    for e, example in enumerate(examples):
                        self._metrics[tuple(cell), example] = table[:, c, e]

    def get(self, cell: Cell, examples: Sequence[int]) -> Float[np.ndarray, "metric example"] | None:
        """The metrics of a cell, None unless all of these examples are done."""
        if any((cell.index, example) not in self._metrics for example in examples):
            return None
        return np.stack([self._metrics[cell.index, example] for example in examples], axis=1)  # [metric example]

    def add(
        self, cells: Sequence[Cell], examples: Sequence[int], values: Float[np.ndarray, "metric cell example"]
    ) -> None:
        """Keep a batch."""
        if self._database is not None:
            row = json.dumps([[cell.index for cell in cells], examples]), values.astype(np.float32).tobytes()
            with self._database:
                self._database.execute("INSERT INTO finished (key, metrics) VALUES (?, ?)", row)


@contextmanager
def open_checkpoint(path: str | Path | None, experiment: Experiment, result: xr.Dataset) -> Iterator[Finished]:
    """What an earlier, equal sweep has finished, and where this one adds to it.

    Args:
        path: The file; None for none.
        experiment: The sweep.
        result: Its coordinates and attributes.

    Raises:
        SweepError: The file is that of a sweep with other inputs, is no checkpoint, or cannot be written.
    """
    if path is None:
        yield Finished(None)
        return
    inputs = _inputs(experiment, result)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path)
    except (OSError, sqlite3.Error) as error:
        raise SweepError(f"The checkpoint {path} cannot be written ({error}); choose another file.") from error
    with closing(database):
        try:
            with database:
                database.execute("CREATE TABLE IF NOT EXISTS inputs (name TEXT PRIMARY KEY, value TEXT)")
                database.execute("CREATE TABLE IF NOT EXISTS finished (key TEXT, metrics BLOB)")
                saved = dict(database.execute("SELECT name, value FROM inputs"))
                if not saved:
                    database.executemany("INSERT INTO inputs VALUES (?, ?)", inputs.items())
        except sqlite3.Error as error:
            raise SweepError(
                f"{path} cannot be used as a checkpoint ({error}); choose another file, or remove this one."
            ) from error
        differing = [name for name in inputs if saved and saved.get(name) != inputs[name]]
        if differing:
            name = differing[0]
            raise SweepError(
                f"The checkpoint {path} is of another sweep: {', '.join(differing)} differ ({name} was "
                f"{saved.get(name)}, now it is {inputs[name]}). Choose another file, or remove it to start over."
            )
        yield Finished(database)


def _inputs(experiment: Experiment, result: xr.Dataset) -> dict[str, str]:
    """Everything that a sweep's numbers depend on, each as a short text."""
    pairs, donors = experiment.pairs, experiment.donors
    tokens = [row.tolist() for row in (*pairs.clean_tokens, *pairs.corrupted_tokens)]
    roles = {role: positions.tolist() for role, positions in pairs.roles.items()}
    axes = {str(axis): result[axis].values.tolist() for axis in result.patched.dims}
    about = {
        "prompts": _hash([tokens, pairs.answers.tolist(), roles]),
        "donors": _hash([[row.tolist() for row in donors.rows], donors.donor_of]),
        "metrics": json.dumps({name: _code(metric) for name, metric in experiment.metrics.items()}),
        "own metric": _code(pairs.compute_metric),
        "axes": json.dumps(axes) if len(json.dumps(axes)) < 200 else _hash(axes),
    }
    attributes = {name: str(value) for name, value in result.attrs.items() if not name.startswith("version_")}
    return about | attributes


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _code(function: Callable[..., Any] | None) -> str:
    """What tells two versions of a function apart."""
    code = getattr(function, "__code__", None)
    return "" if code is None else hashlib.sha256(code.co_code + repr(code.co_consts).encode()).hexdigest()[:16]
