"""What the commands about runs do and print: `patchlib run`, `grid`, `parameters` and `verify`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

from patchlib.errors import RunError
from patchlib.runs.finished import unfinished
from patchlib.runs.grid import Planned, read_grid
from patchlib.runs.manifest import read_json
from patchlib.runs.notebooks import find_notebooks
from patchlib.runs.parameters import declared_parameters, from_environment, given_parameters, variable
from patchlib.runs.schedule import check_settings, run_grid
from patchlib.runs.status import STATUS, duration, read_status


def run(arguments: argparse.Namespace) -> int:
    """Run notebooks one after the other, and say where the page is."""
    from patchlib.runs.execute import run as run_notebooks  # papermill and nbconvert, which no other command needs

    page = (Path(arguments.out_dir) / "index.html").resolve()
    given = given_parameters(arguments.parameters, arguments.file)
    try:
        records = run_notebooks(arguments.notebooks, given, arguments.out_dir, defaults=from_environment())
    except KeyboardInterrupt:
        if page.is_file():
            print(f"The page so far: {page.as_uri()}")
        raise
    for record in records:
        memory = f"{record.peak_memory_mb:,.0f} MB" if record.peak_memory_mb else ""
        head = f"{record.status:<8}{record.notebook:<28}{record.wall_time_s:>8.1f} s"
        print(f"{head}  {record.error or memory}")
    print(f"Open the page: {page.as_uri()}")
    return int(any(record.status != "ok" for record in records))


def parameters(arguments: argparse.Namespace) -> int:
    """List what notebooks take, as their cells declare it."""
    environment = from_environment()
    for path in find_notebooks(arguments.notebooks):
        print(path.stem)
        rows = []
        for one in declared_parameters(path).values():
            kind = f": {one.kind}" if one.kind else ""
            more = [one.comment, one.takes and f"({one.takes})"]
            if one.name in environment:
                more.append(f"[now {environment[one.name]!r}, from {variable(one.name)}]")
            rows.append((f"{one.name}{kind} = {one.default!r}", " ".join(filter(None, more))))
        width = max((len(head) for head, _ in rows), default=0)
        print("\n".join(f"  {head:<{width}}  {more}".rstrip() for head, more in rows) or "  takes no parameters")
    return 0


def grid(arguments: argparse.Namespace) -> int:
    """Run a grid, or say what it would run."""
    runs = read_grid(arguments.grid, from_environment())
    settings = {name: getattr(arguments, name) for name in ("workers", "threads", "retries", "timeout")}
    check_settings(**settings)
    if arguments.dry_run:
        return _dry_run(runs, Path(arguments.out_dir).resolve(), arguments.workers, arguments.force)
    with _executor(arguments.scheduler) as executor, _end_by_signal():
        statuses = run_grid(runs, arguments.out_dir, executor, told=say, force=arguments.force, **settings)
    counts = Counter(status["status"] for status in statuses)
    _print(", ".join(f"{count} {status}" for status, count in counts.items()))
    from patchlib.runs.report import write_report  # not before: the driver of a night does without plotly

    _print(f"Open the page: {write_report(arguments.out_dir).as_uri()}")
    return int(counts["ok"] < len(statuses))


@contextmanager
def _end_by_signal() -> Iterator[None]:
    """What a batch system or a closed terminal sends ends a grid as Ctrl-C does."""
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))}
    ours = [one for one, handler in before.items() if handler is signal.SIG_DFL]  # nohup ignores one of them
    if threading.current_thread() is not threading.main_thread():
        ours = []
    for one in ours:
        signal.signal(one, signal.default_int_handler)
    try:
        yield
    finally:
        for one in ours:
            signal.signal(one, before[one])


def _print(text: str) -> None:
    """A line; where it cannot be written, as when `| head` has seen enough, the runs go on without."""
    try:
        print(text, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is in its buffer goes there too


@contextmanager
def _executor(address: str | None) -> Iterator[Executor | None]:
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


def say(status: dict[str, Any]) -> None:
    """A line about a run that ended."""
    seconds = f"{status['wall_time_s']:.1f} s" if status.get("wall_time_s") is not None else ""  # lost with its worker
    memory = f"{status['peak_memory_mb']:,.0f} MB" if status.get("peak_memory_mb") else ""
    _print(f"{status['status']:<12}{seconds:>10}  {status['name']}  {status['error'] or memory}".rstrip())


def _dry_run(runs: Sequence[Planned], folder: Path, workers: int, force: bool) -> int:
    todo, known = unfinished(runs, folder, force), _known_times(folder)
    left = {run.name for run in todo}
    for run in runs:
        found = read_status(folder / "runs" / run.name).get("status", "new")
        print(f"{'repeat' if run.name in left and found == 'ok' else found:<12}{run.name}")
    stored = {notebook: _stored_time(notebook) for notebook in {run.notebook for run in todo}}
    times = {run.name: known.get(run.notebook.stem) or stored[run.notebook] for run in todo}
    seconds = sum(mean(one) for one in times.values() if one) / min(workers, max(1, len(todo)))
    guessed = sorted({run.notebook.stem for run in todo if times[run.name] and run.notebook.stem not in known})
    unknown = sorted({run.notebook.stem for run in todo if not times[run.name]})
    print(f"{len(runs)} runs, {len(todo)} to do", end="")
    print(f": about {duration(seconds)} with {workers} at a time" if seconds else "", end="")
    print(f"; by its default parameters, as it is stored: {', '.join(guessed)}" if guessed else "", end="")
    print(f"; nothing is known of the time of {', '.join(unknown)}" if unknown else "")
    return 0


def _stored_time(notebook: Path) -> list[float]:
    """Seconds that a notebook took when it was stored, if it says so, as patchlib's do."""
    took = read_json(notebook).get("metadata", {}).get("patchlib", {})
    return [took["seconds"]] if "seconds" in took else []


def _known_times(folder: Path) -> dict[str, list[float]]:
    """Seconds that finished runs of each notebook took here, in this grid or another, or by `patchlib run`."""
    known: dict[str, list[float]] = {}
    for path in (*folder.glob("runs/*/status.json"), *folder.glob("*.manifest.json")):
        found = read_status(path.parent) if path.name == STATUS else read_json(path)
        if found.get("status") == "ok" and found.get("wall_time_s") is not None:
            known.setdefault(found["notebook"], []).append(found["wall_time_s"])
    return known


def verify(arguments: argparse.Namespace) -> int:
    """Run a sample again and print how far its numbers are from those on disk."""
    from patchlib.runs.verify import verify as verify_runs  # xarray, which no other command needs

    def say(row: dict[str, Any]) -> None:
        head = f"{'same' if row['same'] else 'DIFFERS':<9}{row['values']:>9,}{row['largest']:>11.2g}"
        print(f"{head}  {row['run']}  {row['file']}  {row['note']}".rstrip(), flush=True)

    bounds = {name: getattr(arguments, name) for name in ("atol", "rtol") if getattr(arguments, name) is not None}
    print(f"{'':<9}{'values':>9}{'largest':>11}  run, file")
    table = verify_runs(arguments.folder, arguments.sample, arguments.seed, **bounds, told=say)
    print(f"{table.run.nunique()} runs again: {table.same.sum()} of {len(table)} files have the same numbers")
    return int(not table.same.all())
