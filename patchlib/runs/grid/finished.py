"""Which runs of a grid are there already, whole, and made by the same code and weights as the others will be.

And by that, what a grid would do, and how long that may take.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean

from patchlib.errors import RunError
from patchlib.runs.execute.provenance import code_hash
from patchlib.runs.files import read_json
from patchlib.runs.folder import OK, STATUS, RunFolder, duration
from patchlib.runs.grid.plan import Planned
from patchlib.runs.records import Manifest, read_record

_MEND = "take another folder, or --force"
OTHER = {
    "parameters": "other parameters",
    "data_hash": "another content of its file",
    "code_hash": "other code (patchlib's or the notebook's)",
}
"""What may have made a finished run another one, by its key in the status."""


def run_folders(folder: Path) -> list[RunFolder]:
    """Those of a grid's folder, as they are now."""
    return [RunFolder(path) for path in sorted(folder.glob("runs/*"))]


def unfinished(runs: Sequence[Planned], folder: Path, force: bool = False) -> list[Planned]:
    """Those runs that are not there yet or not whole; with ``force``, also those made in another way.

    Raises:
        RunError: Without ``force``: finished runs in the folder do not go with these.
    """
    codes = {notebook: code_hash(notebook) for notebook in {run.notebook for run in runs}}
    folders = {run.name: RunFolder(folder / "runs" / run.name) for run in runs}
    done = {run.name for run in runs if _is_done(run, folders[run.name], codes[run.notebook], force)}
    if force:
        mixed = _mixed(folders[name] for name in done).keys()
        done = {name for name in done if not mixed & _weights(folders[name]).keys()}
    else:
        others = [other for other in run_folders(folder) if other.path.name not in folders]
        _check_others(others, {path.stem: code for path, code in codes.items()})
        check_models([*others, *folders.values()])
    return [run for run in runs if run.name not in done]


def check_models(folders: Iterable[RunFolder]) -> None:
    """RunError if a model had other weights in some finished runs than in others."""
    for name, runs in _mixed(folders).items():
        raise RunError(f"{name} had other weights in {runs[0]} than in {runs[1]}, so that they do not compare; {_MEND}")


def _is_done(run: Planned, folder: RunFolder, code: str, force: bool) -> bool:
    if not folder.is_ok or folder.damage():
        return False
    made = {"parameters": dict(run.parameters), "data_hash": run.data_hash, "code_hash": code}
    other = [key for key, value in made.items() if folder.status.get(key, "") != value]
    if other and not force:
        what = OTHER[other[0]]
        raise RunError(f"{run.name} in {folder.path.parents[1]} was made by {what}; {_MEND}")
    return not other


def _check_others(others: Iterable[RunFolder], codes: dict[str, str]) -> None:
    """Runs of an earlier grid in this folder stand in the same report: theirs has to be the same code too."""
    for other in others:
        made = other.status.get("code_hash"), other.status.get("package_hash")
        if other.is_ok and made != (codes.get(other.notebook, made[0]), code_hash()):
            where = f"{other.path.name} of an earlier grid in {other.path.parents[1]}"
            raise RunError(f"{where} was made by other code; {_MEND}")


def _weights(folder: RunFolder) -> dict[str, str]:
    """The models of a finished run -> the hash of their weights."""
    models = folder.manifest.get("models", []) if folder.is_ok else []
    return {str(model["name"]): str(model["weights_hash"]) for model in models}


def _mixed(folders: Iterable[RunFolder]) -> dict[str, list[str]]:
    """Models that had several weights, each with a run that used the one and one that used the other."""
    users: dict[str, dict[str, str]] = {}
    for folder in sorted(folders, key=lambda folder: folder.path):
        for name, weights in _weights(folder).items():
            users.setdefault(name, {}).setdefault(weights, folder.path.name)
    return {name: list(runs.values()) for name, runs in users.items() if len(runs) > 1}


def dry_run(runs: Sequence[Planned], folder: Path, workers: int, force: bool) -> str:
    """The runs of a grid, what would be done with each, and what is known of the time that takes."""
    todo, known = unfinished(runs, folder, force), _known_times(folder)
    left = {run.name for run in todo}
    lines = []
    for run in runs:
        state = RunFolder(folder / "runs" / run.name).status.get("status", "new")
        lines.append(f"{'repeat' if run.name in left and state == OK else state:<12}{run.name}")
    notebooks = {run.notebook for run in todo}
    times = {notebook: known.get(notebook.stem) or _stored_time(notebook) for notebook in notebooks}
    seconds = sum(mean(times[run.notebook] or [0]) for run in todo) / min(workers, max(1, len(todo)))
    guessed = sorted(notebook.stem for notebook, time in times.items() if time and notebook.stem not in known)
    unknown = sorted(notebook.stem for notebook, time in times.items() if not time)
    total = f"{len(runs)} runs, {len(todo)} to do"
    total += f": about {duration(seconds)} with {workers} at a time" if seconds else ""
    total += f"; by its default parameters, as it is stored: {', '.join(guessed)}" if guessed else ""
    total += f"; nothing is known of the time of {', '.join(unknown)}" if unknown else ""
    return "\n".join([*lines, total])


def _stored_time(notebook: Path) -> list[float]:
    """Seconds that a notebook took when it was stored, if it says so, as patchlib's do."""
    match read_json(notebook).get("metadata"):
        case {"patchlib": {"seconds": int() | float() as seconds}}:
            return [seconds]
    return []


def _known_times(folder: Path) -> dict[str, list[float]]:
    """Seconds that finished runs of each notebook took here, in this grid or another, or by `patchlib run`."""
    known: dict[str, list[float]] = {}
    records = [RunFolder(path.parent).status for path in folder.glob(f"runs/*/{STATUS}")]
    records += [read_record(path, Manifest) for path in folder.glob("*.manifest.json")]
    for record in records:
        if record.get("status") == OK and record.get("wall_time_s") is not None:
            known.setdefault(str(record.get("notebook")), []).append(record["wall_time_s"])
    return known
