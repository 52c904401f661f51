"""Notebooks one after the other, and what is written down of each: its page, its manifest, the index."""

import glob
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchlib._util import first_line
from patchlib.errors import RunError
from patchlib.runs.execute.kernel import Late, Limits, execute
from patchlib.runs.execute.manifest import new_manifest, repeat_command
from patchlib.runs.execute.notebooks import named_notebooks, notebook_folder
from patchlib.runs.execute.pages import write_index, write_page
from patchlib.runs.execute.parameters import declared_parameters, read_parameters
from patchlib.runs.execute.provenance import code_hash
from patchlib.runs.files import alone, prepare_folder, read_json, write_json
from patchlib.runs.folder import now


@dataclass(frozen=True)
class RunRecord:
    """What became of one notebook; times in seconds, memory in MB.

    `status` is "ok", "failed" or "timeout"; `notes` name what could not be written of a run, such as its page.

    Example:
        >>> import json
        >>> from nbformat.v4 import new_code_cell, new_notebook
        >>> _ = (tmp_path / "broken.ipynb").write_text(json.dumps(new_notebook(cells=[new_code_cell("1 / 0")])))
        >>> (record,) = patchlib.run([tmp_path / "broken.ipynb"], out_dir=tmp_path / "out", progress=False)
        >>> record.status, record.error
        ('failed', 'ZeroDivisionError: division by zero')
    """

    notebook: str
    status: str
    error: str | None
    wall_time_s: float
    peak_memory_mb: float | None
    executed: Path
    html: Path
    manifest: Path
    results: tuple[Path, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Job:
    """A notebook to execute, what its files are called, and the values that its cell has and that it is given."""

    name: str
    path: Path
    defaults: dict[str, Any]
    values: dict[str, Any]
    folder: Path

    def file(self, ending: str) -> Path:
        """One of those that the run leaves in its folder."""
        return self.folder / f"{self.name}.{ending}"

    @property
    def saved(self) -> Path:
        """The manifest that the notebook writes with `save_run`."""
        return Path(self.values.get("out_dir", self.folder)) / f"{self.name}.manifest.json"


def run(
    notebooks: Sequence[str | Path] | None = None,
    parameters: Mapping[str, Any] | None = None,
    out_dir: str | Path = "out",
    progress: bool = True,
    defaults: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    cell_timeout: float | None = None,
    code: bool = True,
) -> list[RunRecord]:
    """Execute notebooks headless; write each with its HTML, results and manifest, and index.html, to a folder.

    All is checked before anything runs. A notebook that fails leaves what it had done, and the others still run. Errors
    of cells tagged ``raises-exception`` are what their author expects.

    Args:
        notebooks: Paths, stems ("02_head_patching") or numbers ("02"); the package's own by default. Files of several
            that share a name are called after their folders too: "alice-ps1" and "bob-ps1".
        parameters: Values for every notebook asked for; text is read as the type the notebook declares.
        out_dir: Folder to write to; made if it is missing.
        progress: Show papermill's progress bar on stderr.
        defaults: Values that come before a notebook's own, for those notebooks that have such a parameter.
        timeout: Seconds that a notebook may take; its status is then "timeout", and the next is run.
        cell_timeout: Seconds that each of its cells may take.
        code: Whether the pages show it.

    Returns:
        One record a notebook, in order.

    Raises:
        RunError: Unknown notebook or parameter, wrong type, a notebook of another language, or a folder that cannot be
            written or in which another process runs the same notebook.

    Example:
        >>> import json
        >>> from nbformat.v4 import new_code_cell, new_notebook
        >>> cells = [new_code_cell("n: int = 1", metadata={"tags": ["parameters"]}), new_code_cell("print(n + 1)")]
        >>> _ = (tmp_path / "add.ipynb").write_text(json.dumps(new_notebook(cells=cells)))
        >>> (record,) = patchlib.run([tmp_path / "add.ipynb"], {"n": 4}, tmp_path / "out", progress=False)
        >>> record.status, record.html.name
        ('ok', 'add.html')
        >>> patchlib.run([tmp_path / "add.ipynb"], {"m": 4}, tmp_path / "out")
        Traceback (most recent call last):
            ...
        patchlib.errors.RunError: notebook add has no parameter 'm'. It takes: n
    """
    limits = Limits(timeout, cell_timeout)
    found = named_notebooks(notebooks)
    checked = {name: read_parameters(path, parameters or {}, defaults) for name, path in found.items()}
    folder = prepare_folder(out_dir)
    jobs = [_Job(name, path, *checked[name], folder) for name, path in found.items()]
    for job in jobs:
        if job.path.parent == folder:
            raise RunError(f"{job.path.name} lies in the output folder {folder}; choose another with -o")
        if "out_dir" in declared_parameters(job.path):
            # Absolute, because the notebook runs in its own folder and not in the caller's.
            job.values["out_dir"] = str(prepare_folder(job.values.get("out_dir") or folder))
    bars = [{"desc": f"{job.name} ({i} of {len(jobs)})"} for i, job in enumerate(jobs, start=1)]
    with ExitStack() as held:
        for place, name in sorted({(place, job.name) for job in jobs for place in (folder, job.saved.parent)}):
            held.enter_context(alone(place, name))
        return [_run(job, progress and bar, limits, code) for job, bar in zip(jobs, bars, strict=True)]


def _run(job: _Job, bar: dict[str, str] | bool, limits: Limits, code: bool) -> RunRecord:
    begin, interrupt = time.monotonic(), None
    manifest = new_manifest(job.name, job.defaults | job.values) | {"status": "running"}
    try:
        for place in (job.folder, job.saved.parent):
            prepare_folder(place)  # again, for a notebook before may have taken it away
        for stale in (job.file("ipynb"), job.file("html"), job.file("manifest.json"), job.saved):
            stale.unlink(missing_ok=True)
        for half in job.folder.glob(f".{glob.escape(job.name)}.*.tmp"):  # of a process that was killed
            half.unlink(missing_ok=True)
        manifest["code_hash"] = code_hash(job.path)
        write_json(job.file("manifest.json"), manifest)
        error = execute(job.path, job.file("ipynb"), job.values, bar, limits, job.name)
    except KeyboardInterrupt as caught:  # which ends all the runs, once this one is written down
        error, interrupt = "KeyboardInterrupt", caught
    except (OSError, RunError) as caught:  # a file that is in the way, a full disk
        error = f"{type(caught).__name__}: {first_line(caught)}"
    status = "timeout" if isinstance(error, Late) else "interrupted" if interrupt else "failed" if error else "ok"
    outcome = {"status": status, "error": error, "wall_time_s": round(time.monotonic() - begin, 2)}
    outcome |= {"code_hash": manifest["code_hash"], "finished_utc": now()}
    try:
        record = _keep(job, manifest, outcome, code)
    except KeyboardInterrupt as caught:  # as it was being written down: once more, and then the end
        interrupt, record = caught, _keep(job, manifest, outcome, code)
    if interrupt:
        raise interrupt
    return record


def _keep(job: _Job, manifest: dict[str, Any], outcome: dict[str, Any], code: bool) -> RunRecord:
    """Write the page, the manifest and the index of a run that ended, well or not; whatever happens to one of them."""
    notes: list[str] = []

    @contextmanager
    def noted(what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of many kinds: what was executed keeps its status, and the next notebook runs
            notes.append(f"no {what}: {first_line(error)}")

    executed, html, said = (job.file(ending) for ending in ("ipynb", "html", "manifest.json"))
    with noted("folder"):
        prepare_folder(job.folder)  # the notebook may have taken it away
    with noted("results"):
        saved = read_json(job.saved)  # by the notebook, with save_run, if it got as far
        for file in saved.get("files", []):
            file["name"] = Path(os.path.relpath(job.saved.parent / file["name"], job.folder)).as_posix()
        manifest |= saved
        manifest["parameters"] = job.defaults | manifest["parameters"] | job.values
    with noted("command"):
        name = job.path.stem if job.path.parent == notebook_folder() else str(job.path)
        manifest["repeat"] = repeat_command(name, manifest["parameters"], declared_parameters(job.path))
    with noted("page"):
        if executed.is_file():
            manifest["title"], manifest["description"] = write_page(executed, html, code=code)
    manifest |= outcome
    with noted("manifest"):
        write_json(said, manifest)
    with noted("index"):
        write_index(job.folder)
    numbers = {name: manifest[name] for name in ("status", "error", "wall_time_s", "peak_memory_mb")}
    results = tuple(job.folder / file["name"] for file in manifest["files"])
    paths: dict[str, Any] = {"executed": executed, "html": html, "manifest": said, "results": results}
    return RunRecord(job.name, **numbers, **paths, notes=tuple(notes))
