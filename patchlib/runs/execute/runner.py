"""Notebooks through papermill, one after the other, in kernels of the interpreter that runs patchlib."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError

from patchlib.errors import RunError
from patchlib.runs.execute.manifest import RUNNING, new_manifest, repeat_command
from patchlib.runs.execute.notebooks import find_notebooks, notebook_folder
from patchlib.runs.execute.pages import write_index, write_page
from patchlib.runs.execute.parameters import declared_parameters, read_parameters
from patchlib.runs.execute.provenance import code_hash
from patchlib.runs.files import prepare_folder, read_json, write_json

DIED = "DeadKernelError"


@dataclass(frozen=True)
class RunRecord:
    """What became of one notebook: `status` is "ok" or "failed"; times in seconds, memory in MB.

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


@dataclass(frozen=True)
class _Job:
    """A notebook to execute, with the values that its cell has and those that it is given."""

    path: Path
    defaults: dict[str, Any]
    values: dict[str, Any]
    folder: Path

    def file(self, ending: str) -> Path:
        """One of those that the run leaves in its folder."""
        return self.folder / f"{self.path.stem}.{ending}"


class ThisInterpreter(AsyncKernelManager):
    """Kernels of `sys.executable`, whatever is installed as "python3"; `notebook` is what they run."""

    notebook = ""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The kernel that ipykernel would install, without progress bars in its outputs."""
        env = {"TQDM_DISABLE": os.environ.get("TQDM_DISABLE", "1"), RUNNING: self.notebook}
        # Errors only, or its warning about plain TCP would stand in the middle of papermill's progress bar.
        return KernelSpec(**get_kernel_dict(["--log-level=ERROR"]), env=env)


def run(
    notebooks: Sequence[str | Path] | None = None,
    parameters: Mapping[str, Any] | None = None,
    out_dir: str | Path = "out",
    progress: bool = True,
    defaults: Mapping[str, Any] | None = None,
) -> list[RunRecord]:
    """Execute notebooks headless; write each with its HTML, results and manifest, and index.html, to a folder.

    All is checked before anything runs. A notebook that fails leaves what it had done, and the others still run.

    Args:
        notebooks: Paths, stems ("02_head_patching") or numbers ("02"); the package's own by default.
        parameters: Values for every notebook asked for; text is read as the type the notebook declares.
        out_dir: Folder to write to; made if it is missing.
        progress: Show papermill's progress bar on stderr.
        defaults: Values that come before a notebook's own, for those notebooks that have such a parameter.

    Returns:
        One record a notebook, in order.

    Raises:
        RunError: Unknown notebook or parameter, wrong type, or a folder that cannot be written.

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
    folder = Path(out_dir).resolve()
    paths = find_notebooks(notebooks)
    jobs = [_Job(path, *read_parameters(path, parameters or {}, defaults), folder) for path in paths]
    prepare_folder(folder)
    for job in jobs:
        if job.path.parent == folder:
            raise RunError(f"{job.path.name} lies in the output folder {folder}; choose another with -o")
        if "out_dir" in declared_parameters(job.path):
            # Absolute, because the notebook runs in its own folder and not in the caller's.
            job.values["out_dir"] = str(prepare_folder(job.values.get("out_dir") or folder))
    bars = [{"desc": f"{job.path.stem} ({i} of {len(jobs)})"} for i, job in enumerate(jobs, start=1)]
    return [_run(job, progress and bar) for job, bar in zip(jobs, bars, strict=True)]


def _run(job: _Job, bar: dict[str, str] | bool) -> RunRecord:
    saved = Path(job.values.get("out_dir", job.folder)) / job.file("manifest.json").name
    for stale in (job.file("ipynb"), job.file("html"), job.file("manifest.json"), saved):
        stale.unlink(missing_ok=True)
    begin, code = time.monotonic(), code_hash(job.path)
    interrupt = None
    try:
        error = execute(job.path, job.file("ipynb"), job.values, bar)
    except KeyboardInterrupt as caught:  # which ends all the runs, once this one is written down
        error, interrupt = "KeyboardInterrupt", caught
    status = "interrupted" if interrupt else "failed" if error else "ok"
    outcome = {"status": status, "error": error, "wall_time_s": round(time.monotonic() - begin, 2), "code_hash": code}
    record = _keep(job, saved, outcome)
    if interrupt:
        raise interrupt
    return record


def execute(path: Path, executed: Path, values: Mapping[str, Any], bar: dict[str, str] | bool = False) -> str | None:
    """Execute a notebook in a kernel of its own; return its error's first line, None if it ran through."""
    try:
        papermill.execute_notebook(
            # papermill fills {parameters} into paths, and a folder may have braces in its name.
            *(str(place).replace("{", "{{").replace("}", "}}") for place in (path, executed)),
            values,
            kernel_name="python3",
            language="python",
            progress_bar=bar,
            cwd=path.parent,
            kernel_manager_class=type("Kernels", (ThisInterpreter,), {"notebook": path.stem}),
        )
    except Exception as error:  # a cell's error, a full disk: this run failed, but the next may not
        # nbclient has no name of its own for a kernel that died as it started
        if isinstance(error, DeadKernelError) or str(error).startswith("Kernel died"):
            return f"{DIED}: the kernel died; most often it ran out of memory"
        # of a cell's error, which papermill wraps, its own kind and message
        kind, message = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
        return ": ".join([kind, *message.strip().splitlines()[:1]])
    return None


def _keep(job: _Job, saved: Path, outcome: dict[str, Any]) -> RunRecord:
    """Write the page, the manifest and the index of a run that ended, well or not."""
    manifest = new_manifest(job.path.stem, job.defaults | job.values)
    manifest |= read_json(saved)  # by the notebook, with save_run, if it got as far
    manifest["parameters"] = job.defaults | manifest["parameters"] | job.values
    for file in manifest["files"]:
        file["name"] = Path(os.path.relpath(saved.parent / file["name"], job.folder)).as_posix()
    if job.file("ipynb").is_file():
        manifest["title"], manifest["description"] = write_page(job.file("ipynb"), job.file("html"))
    name = job.path.stem if job.path.parent == notebook_folder() else str(job.path)
    manifest["repeat"] = repeat_command(name, manifest["parameters"])
    manifest |= outcome
    write_json(job.file("manifest.json"), manifest)
    write_index(job.folder)
    numbers = {name: manifest[name] for name in ("status", "error", "wall_time_s", "peak_memory_mb")}
    executed, html, said = (job.file(ending) for ending in ("ipynb", "html", "manifest.json"))
    results = tuple(job.folder / file["name"] for file in manifest["files"])
    return RunRecord(job.path.stem, **numbers, executed=executed, html=html, manifest=said, results=results)
