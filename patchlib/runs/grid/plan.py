"""Many runs from one file: which notebooks, with which parameters, and what each run's folder is called."""

import difflib
import functools
import glob
import hashlib
import itertools
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchlib._util import sha256_of
from patchlib.errors import RunError
from patchlib.runs.execute.notebooks import find_notebooks
from patchlib.runs.execute.parameters import read_parameters
from patchlib.runs.plain_yaml import read_yaml

KEYS = ("notebooks", "parameters", "grid", "runs")
LONGEST = 150
"""Bytes of a folder's name, of which file systems take 255."""
MOST = 100_000
"""Runs of a grid, each of which has a folder and a status to be looked at."""
LARGEST = 10**8
"""Characters of parameters in all runs of a grid, which are written out in names and statuses."""


@dataclass(frozen=True)
class Planned:
    """A run to come.

    Attributes:
        name: Of its folder: the notebook and what sets it apart, as "02_head_patching,model_name=gpt2,seed=1".
        notebook: Its path.
        parameters: All that differ from the notebook's own.
        data_hash: Of the contents of the files that a grid's ``files`` gave it; empty without.

    Example:
        >>> (tmp_path / "grid.yaml").write_text("{notebooks: [04], runs: [{notebook: 04, seed: 1}]}") > 0
        True
        >>> patchlib.read_grid(tmp_path / "grid.yaml")[1].name
        '04_induction_heads,seed=1'
    """

    name: str
    notebook: Path
    parameters: Mapping[str, Any]
    data_hash: str = ""


@dataclass(frozen=True)
class _DataFile:
    """A value of the grid that is a file: its path, and what a run's name calls it."""

    path: Path
    label: str


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

    In place of a list of values, ``{files: PATTERN}`` gives a parameter each file of a folder, in order. A run is
    called by its file's stem, or by the way to it where two have the same. A run whose file has changed since is not
    taken for finished::

        notebooks: [06_your_own_question]
        grid:
          data: {files: "prompts/*.csv"}

    Paths are relative to the file, wherever it is read from.

    Args:
        path: Of the file.
        defaults: Taken where the file has no value, for notebooks that have such a parameter; out_dir is left away.

    Raises:
        RunError: The file cannot be read, an unknown key, notebook or parameter, a wrong type, the same run twice,
            ``files`` that are not there, or more runs than 100,000.

    Returns:
        The runs, those of the grid first.

    Example:
        >>> plan = "{notebooks: [02_head_patching], parameters: {n_prompts: 2}, grid: {seed: [0, 1]}}"
        >>> _ = (tmp_path / "grid.yaml").write_text(plan)
        >>> for run in patchlib.read_grid(tmp_path / "grid.yaml"):
        ...     print(run.name, run.parameters)
        02_head_patching,seed=0 {'n_prompts': 2, 'seed': 0}
        02_head_patching,seed=1 {'n_prompts': 2, 'seed': 1}
    """
    plan, base = _read(path), Path(path).resolve().parent
    defaults = {name: value for name, value in (defaults or {}).items() if name != "out_dir"}
    fixed = _mapping(plan, "parameters")
    wanted = [*_combinations(plan, base), *_single_runs(plan, base)]
    find_notebooks([str(notebook) for notebook, _ in wanted])  # of one name each: a folder's results go by it
    content = functools.cache(_content)  # a file may be in many runs
    runs = []
    for notebook, own in wanted:
        files = [value.path for value in own.values() if isinstance(value, _DataFile)]
        given = {name: str(value.path) if isinstance(value, _DataFile) else value for name, value in own.items()}
        labels = {name: value.label if isinstance(value, _DataFile) else value for name, value in own.items()}
        parameters = read_parameters(notebook, fixed | given, defaults)[1]
        if "out_dir" in parameters:
            raise RunError("a grid gives each run a folder of its own: leave out_dir away, and say -o FOLDER")
        for name, value in parameters.items():
            if not _is_plain(value):
                mend = "take numbers, text in quotes, true, false, null, and lists and mappings of them"
                raise RunError(f"{name} = {value!r} of {notebook.stem} cannot be kept as JSON; {mend}")
        runs.append(Planned(run_name(notebook, labels), notebook, parameters, ",".join(map(content, files))))
    names = Counter(run.name.casefold() for run in runs)  # some disks take two that differ in case for one
    if twice := sorted(name for name, count in names.items() if count > 1):
        raise RunError(f"{path} asks for the same run twice: {twice[0]}; leave one of them out")
    return runs


def _combinations(plan: Mapping[str, Any], base: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each notebook with each combination of the grid's values; none where the file has single runs only."""
    notebooks, axes = plan.get("notebooks"), _mapping(plan, "grid")
    axes = {name: _files(name, values, base) if isinstance(values, dict) else values for name, values in axes.items()}
    for name, values in axes.items():
        if not isinstance(values, list) or not values:
            raise RunError(f"{name!r} of the grid needs a list of values, such as [{values}], not {values!r}")
    if notebooks is not None and not (isinstance(notebooks, list) and notebooks):
        raise RunError(f"'notebooks' is a list, such as [02_head_patching], not {notebooks!r}; without it all are run")
    if notebooks or axes or plan.get("runs") is None:
        found = find_notebooks(list(map(str, notebooks or [])), base)
        _check_number(len(found) * math.prod(map(len, axes.values())), plan, axes)  # or building them takes for ever
        for notebook in found:
            for values in itertools.product(*axes.values()):
                yield notebook, dict(zip(axes, values, strict=True))


def _files(name: str, values: Mapping[str, Any], base: Path) -> list[_DataFile]:
    """The files that ``{files: PATTERN}`` names, in order."""
    pattern = values.get("files")
    if len(values) != 1 or not isinstance(pattern, str) or not pattern:
        raise RunError(f'{name!r} of the grid takes a list of values, or {{files: "prompts/*.csv"}}, not {values!r}')
    wanted = str(Path(pattern, "*")) if (base / pattern).is_dir() else pattern
    paths = [
        path for found in glob.glob(wanted, root_dir=base, recursive=True) if (path := Path(base, found)).is_file()
    ]
    if not paths:
        raise RunError(f"{name!r} of the grid asks for the files {pattern!r}, but {base} has none")
    stems = Counter(path.stem.casefold() for path in paths)
    return [
        _DataFile(path, path.stem if stems[path.stem.casefold()] == 1 else os.path.relpath(path, base))
        for path in sorted(paths)
    ]


def _content(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror or type(error).__name__})") from error


def _single_runs(plan: Mapping[str, Any], base: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    runs = [] if plan.get("runs") is None else plan["runs"]
    if not isinstance(runs, list) or any(not isinstance(run, dict) or "notebook" not in run for run in runs):
        raise RunError("'runs' is a list of runs, each with its 'notebook', such as {notebook: 02, seed: 7}")
    _check_number(len(runs), plan, {})
    for run in runs:
        (notebook,) = find_notebooks([str(run["notebook"])], base)
        yield notebook, {name: value for name, value in run.items() if name != "notebook"}


def _check_number(n_runs: int, plan: Mapping[str, Any], axes: Mapping[str, list[Any]]) -> None:
    """RunError where the runs, or the parameters of all of them, are more than a folder of runs can hold."""
    if n_runs > MOST:
        said = f"{n_runs:,}" if n_runs < 10**15 else "more than 10^15"
        raise RunError(f"the grid asks for {said} runs, and {MOST:,} are the most: take fewer values, or several grids")
    longest = len(repr(plan.get("parameters"))) + sum(max(map(len, map(repr, values))) for values in axes.values())
    if n_runs * longest > LARGEST:
        raise RunError(f"the parameters of {n_runs:,} runs take more than {LARGEST:,} characters: take shorter ones")


def _is_plain(value: Any) -> bool:
    """Whether JSON, which brings parameters to the runs and keeps them, gives back the same."""
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def _read(path: str | Path) -> dict[str, Any]:
    plan = read_yaml(path, "the grid")
    if unknown := [key for key in plan if key not in KEYS]:
        close = difflib.get_close_matches(unknown[0], KEYS, n=1)
        mend = f"; did you mean {close[0]!r}? It takes" if close else "; it takes"
        raise RunError(f"the grid {path} has an unknown key {unknown[0]!r}{mend} {', '.join(KEYS)}")
    return plan


def _mapping(plan: Mapping[str, Any], key: str) -> dict[str, Any]:
    values = plan.get(key) or {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise RunError(f"{key!r} of a grid names parameters and their values, but is {values!r}")
    return values


def run_name(notebook: Path, parameters: Mapping[str, Any]) -> str:
    """A folder's name that says what is in it; with a short hash where that cannot be written out."""
    words = [notebook.stem, *(f"{name}={value}" for name, value in sorted(parameters.items()))]
    said = ",".join(words)
    safe = re.sub(r"[^\w=,.+-]+", "_", said).encode()[:LONGEST].decode(errors="ignore")
    if safe == said:
        return safe
    exact = json.dumps([notebook.stem, dict(parameters)], sort_keys=True, default=str)
    return f"{safe},{hashlib.sha256(exact.encode()).hexdigest()[:8]}"
