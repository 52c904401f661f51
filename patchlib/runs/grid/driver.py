"""What the command `patchlib grid` needs around a grid: an executor, signals, lines that are printed, a dry run."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

from patchlib.errors import RunError
from patchlib.runs.files import read_json
from patchlib.runs.folder import OK, STATUS, RunFolder, duration
from patchlib.runs.grid.finished import unfinished
from patchlib.runs.grid.plan import Planned


@contextmanager
def dask_executor(address: str | None) -> Iterator[Executor | None]:
    """An executor of the Dask scheduler at an address; None without one."""
    if address is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise RunError("--scheduler needs Dask: pip install distributed") from error
    try:
        client = Client(address, set_as_default=False)
    except (OSError, ValueError) as error:
        raise RunError(f"there is no Dask scheduler at {address} ({error})") from error
    with client:
        # A lost worker's runs are given to another by Dask, which counts how often (its allowed-failures).
        yield client.get_executor(pure=False)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """What a batch system or a closed terminal sends ends a grid as Ctrl-C does."""
    before = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
    }
    ours = [number for number, handler in before.items() if handler is signal.SIG_DFL]  # nohup ignores one of them
    if threading.current_thread() is not threading.main_thread():
        ours = []
    for number in ours:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


def print_line(text: str) -> None:
    """A line; where it cannot be written, as when `| head` has seen enough, the runs go on without."""
    try:
        print(text, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is in its buffer goes there too


def say(status: dict[str, Any]) -> None:
    """A line about a run that ended."""
    seconds = f"{status['wall_time_s']:.1f} s" if status.get("wall_time_s") is not None else ""  # lost with its worker
    memory = f"{status['peak_memory_mb']:,.0f} MB" if status.get("peak_memory_mb") else ""
    print_line(f"{status['status']:<12}{seconds:>10}  {status['name']}  {status['error'] or memory}".rstrip())


def dry_run(runs: Sequence[Planned], folder: Path, workers: int, force: bool) -> str:
    """The runs of a grid, what would be done with each, and what is known of the time that takes."""
    todo, known = unfinished(runs, folder, force), _known_times(folder)
    left = {run.name for run in todo}
    lines = []
    for run in runs:
        state = RunFolder(folder / "runs" / run.name).status.get("status", "new")
        lines.append(f"{'repeat' if run.name in left and state == OK else state:<12}{run.name}")
    stored = {notebook: _stored_time(notebook) for notebook in {run.notebook for run in todo}}
    times = {run.name: known.get(run.notebook.stem) or stored[run.notebook] for run in todo}
    seconds = sum(mean(time) for time in times.values() if time) / min(workers, max(1, len(todo)))
    guessed = sorted({run.notebook.stem for run in todo if times[run.name] and run.notebook.stem not in known})
    unknown = sorted({run.notebook.stem for run in todo if not times[run.name]})
    total = f"{len(runs)} runs, {len(todo)} to do"
    total += f": about {duration(seconds)} with {workers} at a time" if seconds else ""
    total += f"; by its default parameters, as it is stored: {', '.join(guessed)}" if guessed else ""
    total += f"; nothing is known of the time of {', '.join(unknown)}" if unknown else ""
    return "\n".join([*lines, total])


def _stored_time(notebook: Path) -> list[float]:
    """Seconds that a notebook took when it was stored, if it says so, as patchlib's do."""
    took = read_json(notebook).get("metadata", {}).get("patchlib", {})
    return [took["seconds"]] if "seconds" in took else []


def _known_times(folder: Path) -> dict[str, list[float]]:
    """Seconds that finished runs of each notebook took here, in this grid or another, or by `patchlib run`."""
    known: dict[str, list[float]] = {}
    for path in (*folder.glob(f"runs/*/{STATUS}"), *folder.glob("*.manifest.json")):
        record = read_json(path)
        if record.get("status") == OK and record.get("wall_time_s") is not None:
            known.setdefault(record["notebook"], []).append(record["wall_time_s"])
    return known
