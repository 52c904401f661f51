"""What `patchlib grid` prints."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from patchlib.errors import RunError
from patchlib.runs.grid import Planned, read_grid
from patchlib.runs.schedule import run_grid
from patchlib.runs.status import read_status


def grid(arguments: argparse.Namespace) -> int:
    """Run a grid, or say what it would run."""
    runs = read_grid(arguments.grid)
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
