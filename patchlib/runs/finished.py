"""Which runs of a grid are there already, whole, and made by the same code and weights as the others will be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from patchlib.errors import RunError
from patchlib.runs.grid import Planned
from patchlib.runs.provenance import code_hash
from patchlib.runs.status import damage, models_of, read_status

_MEND = "take another folder, or --force"


def unfinished(runs: Sequence[Planned], folder: Path, force: bool = False) -> list[Planned]:
    """Those runs that are not there yet or not whole; with ``force``, also those made in another way.

    Raises:
        RunError: Without ``force``: finished runs in the folder do not go with these.
    """
    codes = {notebook: code_hash(notebook) for notebook in {run.notebook for run in runs}}
    done = {
        run.name: folder / "runs" / run.name
        for run in runs
        if _is_done(run, folder / "runs" / run.name, codes[run.notebook], force)
    }
    if force:
        mixed = _mixed(done.values()).keys()
        done = {name: place for name, place in done.items() if not mixed & models_of([place]).keys()}
    else:
        _check_others(folder, {run.name for run in runs}, {path.stem: code for path, code in codes.items()})
        check_models(folder.glob("runs/*"))
    return [run for run in runs if run.name not in done]


def check_models(folders: Iterable[Path]) -> None:
    """RunError if a model had other weights in some finished runs than in others."""
    for name, by in _mixed(sorted(folders)).items():
        raise RunError(f"{name} had other weights in {by[0]} than in {by[1]}, so that they do not compare; {_MEND}")


def _is_done(run: Planned, folder: Path, code: str, force: bool) -> bool:
    status = read_status(folder)
    if status.get("status") != "ok" or damage(folder):
        return False
    made = {"parameters": dict(run.parameters), "code_hash": code}
    other = [key for key, value in made.items() if status.get(key) != value]
    if other and not force:
        what = "other parameters" if "parameters" in other else "other code (patchlib's or the notebook's)"
        raise RunError(f"{run.name} in {folder.parents[1]} was made by {what}; {_MEND}")
    return not other


def _check_others(folder: Path, planned: set[str], codes: dict[str, str]) -> None:
    """Runs of an earlier grid in this folder stand in the same report: theirs has to be the same code too."""
    for place in sorted(folder.glob("runs/*")):
        status = read_status(place)
        if place.name in planned or status.get("status") != "ok":
            continue
        now = codes.get(str(status.get("notebook")), status.get("code_hash"))
        if (now, code_hash()) != (status.get("code_hash"), status.get("package_hash")):
            raise RunError(f"{place.name} of an earlier grid in {folder} was made by other code; {_MEND}")


def _mixed(folders: Iterable[Path]) -> dict[str, list[str]]:
    """Models that had several weights, each with a run that used the one and one that used the other."""
    return {name: list(hashes.values()) for name, hashes in models_of(folders).items() if len(hashes) > 1}
