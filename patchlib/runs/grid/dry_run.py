"""What a grid would do, and how long that may take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from patchlib.runs.files import read_json
from patchlib.runs.folder import OK, STATUS, RunFolder, duration
from patchlib.runs.grid.finished import unfinished
from patchlib.runs.grid.plan import Planned


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
