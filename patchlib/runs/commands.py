"""What the commands about runs do and print: `patchlib run`, `grid` and `parameters`."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from patchlib.errors import RunError
from patchlib.runs.grid import Planned, read_grid
from patchlib.runs.notebooks import find_notebooks
from patchlib.runs.parameters import declared_parameters, from_environment, given_parameters, variable
from patchlib.runs.schedule import run_grid
from patchlib.runs.status import read_status


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
    for name in ("workers", "threads"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise RunError(f"--{name} takes 1 or more, not {value}")
    if arguments.dry_run:
        return _dry_run(runs, Path(arguments.out_dir), arguments.workers)
    settings = {name: getattr(arguments, name) for name in ("workers", "threads", "retries", "timeout", "force")}
    statuses = run_grid(runs, arguments.out_dir, _executor(arguments.scheduler), told=_say, **settings)
    counts = Counter(status["status"] for status in statuses)
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    return int(counts["ok"] < len(statuses))


def _executor(address: str | None) -> Any:
    if address is None:
        return None
    try:
        from distributed import Client
    except ImportError as error:
        raise RunError("--scheduler needs Dask; install patchlib[cluster]") from error
    try:
        # A worker that is lost takes its runs with it; Dask gives them to another, and Dask counts how often.
        return Client(address, set_as_default=False).get_executor(pure=False, retries=2)
    except OSError as error:
        raise RunError(f"there is no Dask scheduler at {address} ({error})") from error


def _say(status: dict[str, Any]) -> None:
    memory = f"{status['peak_memory_mb']:,.0f} MB" if status.get("peak_memory_mb") else ""
    print(
        f"{status['status']:<12}{status['wall_time_s']:>8.1f} s  {status['name']}  {status['error'] or memory}",
        flush=True,
    )


def _dry_run(runs: Sequence[Planned], folder: Path, workers: int) -> int:
    known: dict[str, list[float]] = {}
    for path in folder.glob("runs/*/status.json"):
        status = read_status(path.parent)
        if status.get("status") == "ok":
            known.setdefault(status["notebook"], []).append(status["wall_time_s"])
    left = []
    for run in runs:
        status = read_status(folder / "runs" / run.name).get("status", "new")
        print(f"{status:<12}{run.name}")
        if status != "ok":
            left.append(run.notebook.stem)
    unknown = sorted({stem for stem in left if stem not in known})
    seconds = sum(mean(known[stem]) for stem in left if stem in known) / workers
    print(f"{len(runs)} runs, {len(left)} to do: about {seconds:,.0f} s by the runs that are there", end="")
    print(f", and those of {', '.join(unknown)}, of which none is known" if unknown else "")
    return 0
