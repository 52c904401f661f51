"""Many runs from one file: which notebooks, with which parameters, and what each run's folder is called."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchlib.errors import RunError
from patchlib.runs.notebooks import find_notebooks
from patchlib.runs.parameters import read_parameters, read_yaml

KEYS = ("notebooks", "parameters", "grid", "runs")
LONGEST = 150
"""Bytes of a folder's name, of which file systems take 255."""


@dataclass(frozen=True)
class Planned:
    """A run to come.

    Attributes:
        name: Of its folder: the notebook and what sets it apart, as "02_head_patching,model_name=gpt2,seed=1".
        notebook: Its path.
        parameters: All that differ from the notebook's own.
    """

    name: str
    notebook: Path
    parameters: Mapping[str, Any]


def read_grid(path: str | Path, defaults: Mapping[str, Any] | None = None) -> list[Planned]:
    """The runs that a file asks for, checked against the notebooks' parameters.

    The file has ``notebooks`` (paths, names or numbers; all of patchlib's when missing), ``parameters`` (for every
    run), ``grid`` (name -> list of values; every combination is run) and ``runs`` (a list of single runs, each with
    its ``notebook`` and what it differs in)::

        notebooks: [02_head_patching]
        parameters: {n_prompts: 8}
        grid:
          model_name: [gpt2, EleutherAI/pythia-70m]
          seed: [0, 1, 2]

    Paths are relative to the file, wherever it is read from.

    Args:
        path: Of the file.
        defaults: Taken where the file has no value, for notebooks that have such a parameter; out_dir is left away.

    Raises:
        RunError: The file cannot be read, an unknown key, notebook or parameter, a wrong type, or the same run twice.
    """
    plan, base = _read(Path(path)), Path(path).resolve().parent
    ours = {name: value for name, value in (defaults or {}).items() if name != "out_dir"}
    fixed, axes = _mapping(plan, "parameters"), _mapping(plan, "grid")
    for name, values in axes.items():
        if not isinstance(values, list) or not values:
            raise RunError(f"{name!r} of the grid needs a list of values, such as [{values}], not {values!r}")
    single = [] if plan.get("runs") is None else plan["runs"]
    if not isinstance(single, list) or any(not isinstance(one, dict) or "notebook" not in one for one in single):
        raise RunError("'runs' is a list of runs, each with its 'notebook', such as {notebook: 02, seed: 7}")
    notebooks = plan.get("notebooks")
    if notebooks is not None and not (isinstance(notebooks, list) and notebooks):
        raise RunError(f"'notebooks' is a list, such as [02_head_patching], not {notebooks!r}; without it all are run")
    asked: list[tuple[Path, dict[str, Any]]] = []
    if notebooks or axes or plan.get("runs") is None:
        paths = find_notebooks([str(one) for one in notebooks or []], base)
        asked += [
            (notebook, dict(zip(axes, values, strict=True)))
            for notebook in paths
            for values in itertools.product(*axes.values())
        ]
    for one in single:
        (notebook,) = find_notebooks([str(one["notebook"])], base)
        asked.append((notebook, {name: value for name, value in one.items() if name != "notebook"}))
    find_notebooks([str(notebook) for notebook, _ in asked])  # of one name each: a folder's results go by it
    runs = []
    for notebook, own in asked:
        parameters = read_parameters(notebook, fixed | own, ours)[1]
        if "out_dir" in parameters:
            raise RunError("a grid gives each run a folder of its own: leave out_dir away, and say -o FOLDER")
        for name, value in parameters.items():
            if not _is_plain(value):
                mend = "take numbers, text in quotes, true, false, null, and lists and mappings of them"
                raise RunError(f"{name} = {value!r} of {notebook.stem} cannot be kept as JSON; {mend}")
        runs.append(Planned(run_name(notebook, own), notebook, parameters))
    names = Counter(run.name.casefold() for run in runs)  # some disks take two that differ in case for one
    if twice := sorted(name for name, count in names.items() if count > 1):
        raise RunError(f"{path} asks for the same run twice: {twice[0]}; leave one of them out")
    return runs


def _is_plain(value: Any) -> bool:
    """Whether JSON, which brings parameters to the runs and keeps them, gives back the same."""
    try:
        return json.loads(json.dumps(value)) == value
    except (TypeError, ValueError):
        return False


def _read(path: Path) -> dict[str, Any]:
    plan = read_yaml(path, "the grid")
    if unknown := [key for key in plan if key not in KEYS]:
        close = difflib.get_close_matches(unknown[0], KEYS, n=1)
        mend = f"; did you mean {close[0]!r}? It takes" if close else "; it takes"
        raise RunError(f"the grid {path} has an unknown key {unknown[0]!r}{mend} {', '.join(KEYS)}")
    return plan


def _mapping(plan: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = plan.get(key) or {}
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise RunError(f"{key!r} of a grid names parameters and their values, but is {found!r}")
    return found


def run_name(notebook: Path, parameters: Mapping[str, Any]) -> str:
    """A folder's name that says what is in it; with a short hash where that cannot be written out."""
    words = [notebook.stem, *(f"{name}={value}" for name, value in sorted(parameters.items()))]
    said = ",".join(words)
    safe = re.sub(r"[^\w=,.+-]+", "_", said).encode()[:LONGEST].decode(errors="ignore")
    if safe == said:
        return safe
    exact = json.dumps([notebook.stem, dict(parameters)], sort_keys=True, default=str)
    return f"{safe},{hashlib.sha256(exact.encode()).hexdigest()[:8]}"
