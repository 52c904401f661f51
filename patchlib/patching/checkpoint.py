"""Finished cells on disk, so that a sweep that was stopped goes on where it was."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from patchlib._util import first_line, user_level
from patchlib.errors import SweepError
from patchlib.patching.grid import CellIndex
from patchlib.patching.identity import identity, model_state
from patchlib.patching.metrics import task_metric

if TYPE_CHECKING:  # which opens the checkpoint
    from patchlib.patching.experiment import Experiment

FORMAT = "2"
LONGEST_NAME = 200  # characters
TABLES = {"inputs": "name TEXT PRIMARY KEY, value TEXT", "finished": "key TEXT, metrics BLOB, sha256 TEXT"}
MENDS = {
    "full": "free some space on its disk",
    "locked": "wait for the other process that uses it",
    "readonly": "make it and its folder writable",
    "attempt to write": "make it and its folder writable",
}
"""What helps, by a word of what SQLite says."""


class Finished:
    """The patched metrics of cells that are done, in memory and in an SQLite file.

    Every ``add`` is one transaction, so that a process that is killed loses at most the batch in flight. Every row has
    a sha256 of the sweep's inputs and of itself; a row that does not fit to it is computed again.

    Args:
        path: The file, made where there is none; None for none.
        inputs: Everything that the sweep's numbers depend on, each as a short text.
    """

    def __init__(self, path: Path | None, inputs: Mapping[str, str]) -> None:
        self._path, self._inputs, self._seal = path, inputs, _hash(dict(inputs))
        self._rows: dict[str, bytes] = {}
        self._metrics: dict[tuple[CellIndex, int], np.ndarray] = {}
        if path is not None:
            self._open()

    def get(self, index: CellIndex, examples: Sequence[int]) -> Float[np.ndarray, "metric example"] | None:
        """The metrics of a cell, None unless all of these examples are done."""
        if any((index, example) not in self._metrics for example in examples):
            return None
        return np.stack([self._metrics[index, example] for example in examples], axis=1)  # [metric example]

    def add(
        self, cells: Sequence[CellIndex], examples: Sequence[int], values: Float[np.ndarray, "metric cell example"]
    ) -> None:
        """Keep a batch; SweepError where it cannot be written, and what was written before stays."""
        if self._path is None:
            return
        key, metrics = json.dumps([cells, examples]), values.astype(np.float32).tobytes()
        self._rows[key] = metrics
        if self._is_there():
            self._write({key: metrics})
        else:  # somebody has removed or replaced the file, to which SQLite would go on writing unseen
            self.close()
            self._open()

    def close(self) -> None:
        """Let go of the file."""
        if self._path is not None:
            self._database.close()

    def _open(self) -> None:
        """Read what an equal sweep has left in the file, and write into it what this one has already."""
        with self._clear_errors(opening=True):
            assert self._path is not None
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            self._database = sqlite3.connect(self._path)
            self._database.text_factory = lambda text: text.decode(errors="replace")  # a row may be damaged
            names = {name for (name,) in self._database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if names - TABLES.keys():
                raise sqlite3.DatabaseError(f"it is a database of another program, with tables {', '.join(names)}")
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                for name, columns in TABLES.items():
                    self._database.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns})")
                self._database.execute(f"PRAGMA user_version = {FORMAT}")  # fails now, and not after an hour
                saved = dict(self._database.execute("SELECT name, value FROM inputs"))
                if not saved:
                    self._database.executemany("INSERT INTO inputs VALUES (?, ?)", self._inputs.items())
            self._file = os.stat(self._path).st_ino
        differing = [name for name in self._inputs if saved and saved.get(name) != self._inputs[name]]
        if differing:
            self.close()
            name = differing[0]
            raise SweepError(
                f"The checkpoint {self._path} is of another sweep: {', '.join(differing)} differ ({name} was "
                f"{saved.get(name)}, now it is {self._inputs[name]}). Choose another file, or remove it to start over."
            )
        with self._clear_errors(opening=True):
            read = self._read()
        self._write({key: metrics for key, metrics in self._rows.items() if key not in read})

    def _read(self) -> set[str]:
        """Take the rows that are whole, and give their keys."""
        damaged, read = [], set()
        for row, key, metrics, sha256 in self._database.execute("SELECT rowid, key, metrics, sha256 FROM finished"):
            if self._sha256(key, metrics) != sha256:
                damaged.append(row)
                continue
            self._rows[key] = metrics
            read.add(key)
            cells, examples = json.loads(key)
            table = np.frombuffer(metrics, np.float32).reshape(-1, len(cells), len(examples))
            for c, cell in enumerate(cells):
                for e, example in enumerate(examples):
                    self._metrics[tuple(cell), example] = table[:, c, e]
        if damaged:
            with self._database:
                self._database.executemany("DELETE FROM finished WHERE rowid = ?", [(row,) for row in damaged])
            warnings.warn(
                f"Damaged rows of the checkpoint {self._name()}: {len(damaged)}. Their cells are computed again.",
                stacklevel=user_level(),
            )
        return read

    def _write(self, rows: Mapping[str, bytes]) -> None:
        with self._clear_errors(), self._database:
            signed = [(key, metrics, self._sha256(key, metrics)) for key, metrics in rows.items()]
            self._database.executemany("INSERT INTO finished (key, metrics, sha256) VALUES (?, ?, ?)", signed)

    def _is_there(self) -> bool:
        assert self._path is not None
        return self._path.exists() and os.stat(self._path).st_ino == self._file

    def _sha256(self, key: object, metrics: object) -> str:
        # With the inputs, so that no row of another sweep is ever taken for one of this.
        return _hash([self._seal, str(key), metrics.hex() if isinstance(metrics, bytes) else repr(metrics)])

    def _name(self) -> str:
        """The file's, as long as it can be read in an error."""
        name = str(self._path)
        return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME // 2]}...{name[-LONGEST_NAME // 2 :]}"

    @contextmanager
    def _clear_errors(self, opening: bool = False) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            said = error.strerror or type(error).__name__ if isinstance(error, OSError) else first_line(error)
            mend = next((mend for word, mend in MENDS.items() if word in said), None)
            if opening:
                mend = f"{mend or 'choose another file, or remove this one'}."
                raise SweepError(f"{self._name()} cannot be used as a checkpoint ({said}): {mend}") from error
            raise SweepError(
                f"The checkpoint {self._name()} cannot be written ({said}): {mend or 'look at its disk'}. What was "
                "finished before is kept in it, and the same call goes on from there."
            ) from error


@contextmanager
def open_checkpoint(path: str | Path | None, experiment: Experiment, result: xr.Dataset) -> Iterator[Finished]:
    """What an earlier, equal sweep has finished, and where this one adds to it.

    Args:
        path: The file; None for none.
        experiment: The sweep.
        result: Its coordinates and attributes.

    Raises:
        SweepError: The file is that of a sweep with other inputs, is no checkpoint, or cannot be written; or a metric
            holds something of which nobody can tell whether it is the same next time.
    """
    file = _as_file(path)
    finished = Finished(file, {} if file is None else _inputs(experiment, result))
    try:
        yield finished
    finally:
        finished.close()


def _as_file(path: Any) -> Path | None:
    if path is None:
        return None
    if not isinstance(path, str | os.PathLike) or not str(path).strip() or "\0" in str(path) or "://" in str(path):
        raise SweepError(f"checkpoint must be the path of a file on this machine, not {path!r}.")
    return Path(path).expanduser().absolute()


def _inputs(experiment: Experiment, result: xr.Dataset) -> dict[str, str]:
    """Everything that a sweep's numbers depend on, each as a short text."""
    pairs, donors, metrics = experiment.pairs, experiment.donors, experiment.metrics
    tokens = [row.tolist() for row in (*pairs.clean_tokens, *pairs.corrupted_tokens)]
    roles = {role: positions.tolist() for role, positions in pairs.roles.items()}
    many = [pairs.spans, pairs.answer_sets, pairs.continuations]
    axes = {str(axis): result[axis].values.tolist() for axis in result.patched.dims}
    about = {
        "format": FORMAT,
        "prompts": _hash([tokens, pairs.answers.tolist(), roles, many]),
        "donors": _hash([[row.tolist() for row in donors.rows], donors.donor_of]),
        "metrics": json.dumps({name: identity(metric, f"metric {name!r}") for name, metric in metrics.items()}),
        "own metric": identity(pairs.compute_metric, "compute_metric") if task_metric in metrics.values() else "",
        "axes": json.dumps(axes) if len(json.dumps(axes)) < 200 else _hash(axes),
        "model state": model_state(experiment.model),
    }
    attributes = {name: str(value) for name, value in result.attrs.items() if not name.startswith("version_")}
    return about | attributes


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
