"""Notebooks through papermill, one after the other, in kernels of the interpreter that runs patchlib."""

import glob
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.engines import papermill_engines
from papermill.execute import raise_for_execution_errors, remove_error_markers
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from papermill.translators import PythonTranslator, papermill_translators
from papermill.utils import chdir

from patchlib._util import first_line
from patchlib.errors import RunError
from patchlib.runs.execute.manifest import RUNNING, new_manifest, repeat_command
from patchlib.runs.execute.notebooks import named_notebooks, notebook_folder
from patchlib.runs.execute.pages import write_index, write_page
from patchlib.runs.execute.parameters import declared_parameters, read_notebook, read_parameters
from patchlib.runs.execute.provenance import code_hash
from patchlib.runs.files import alone, prepare_folder, read_json, write_json
from patchlib.runs.folder import now

DIED = "DeadKernelError"


class Late(str):
    """The error of a run whose time was over."""


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
class Limits:
    """Seconds that a run, and each of its cells, may take; None for no limit."""

    run: float | None = None
    cell: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("timeout", self.run), ("cell_timeout", self.cell)):
            if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
                raise RunError(f"{name} takes seconds, more than 0, not {value!r}")


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


class ThisInterpreter(AsyncKernelManager):
    """Kernels of `sys.executable`, whatever is installed as "python3"; `notebook` is what they run."""

    notebook = ""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The kernel that ipykernel would install, without progress bars in its outputs."""
        env = {"TQDM_DISABLE": os.environ.get("TQDM_DISABLE", "1"), RUNNING: self.notebook}
        # Its warning about plain TCP would stand in the middle of papermill's progress bar, and where a run is
        # interrupted a traceback of its own.
        return KernelSpec(**get_kernel_dict(["--log-level=CRITICAL"]), env=env)


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


class _Exact(PythonTranslator):  # type: ignore[misc]  # papermill brings no types
    """Parameters as papermill writes them into a notebook, but tuples as tuples, and not as text."""

    @classmethod
    def translate(cls, val: Any) -> str:
        """Python for a value."""
        return f"tuple({cls.translate_list(val)})" if isinstance(val, tuple) else str(super().translate(val))


_LANGUAGE = "patchlib's Python"
papermill_translators.register(_LANGUAGE, _Exact)


def execute(
    path: Path,
    executed: Path,
    values: Mapping[str, Any],
    bar: dict[str, str] | bool = False,
    limits: Limits = Limits(),
    name: str | None = None,
) -> str | None:
    """Execute a notebook in a kernel of its own; return its error's first line, None if it ran through."""
    end = time.monotonic() + (limits.run or math.inf)

    def seconds_for(cell: Any) -> float | None:
        """What a cell may take; a little where the time is over, since nbclient takes none for no limit."""
        left = max(end - time.monotonic(), 0.001)
        return min(left, limits.cell or left) if limits.run or limits.cell else None

    try:
        nb, _ = read_notebook(path)
        declared = declared_parameters(path)
        executed.write_text(nbformat.writes(nb), encoding="utf-8")
        nb = remove_error_markers(load_notebook_node(str(executed)))  # with what papermill keeps in it
        if values:
            typed = {key: declared[key].typed(value) for key, value in values.items()}
            nb = parameterize_notebook(nb, typed, kernel_name="python3", language=_LANGUAGE)
        with chdir(str(path.parent)):
            nb = papermill_engines.execute_notebook_with_engine(
                None,
                nb,
                kernel_name="python3",
                output_path=str(executed),
                progress_bar=bar,
                timeout_func=seconds_for,
                kernel_manager_class=type("Kernels", (ThisInterpreter,), {"notebook": name or path.stem}),
            )
        if nb.metadata.papermill.get("exception"):  # and no error that a cell's tag asks for
            raise_for_execution_errors(nb, str(executed))
    except CellTimeoutError:
        over, where = (limits.run, "") if time.monotonic() >= end else (limits.cell, " in one cell")
        return Late(f"took longer than {over:g} s{where}")
    except Exception as error:  # a cell's error, a full disk: this run failed, but the next may not
        # nbclient has no name of its own for a kernel that died as it started
        if isinstance(error, DeadKernelError) or str(error).startswith("Kernel died"):
            return f"{DIED}: the kernel died; most often it ran out of memory"
        # of a cell's error, which papermill wraps, its own kind and message
        kind, message = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
        return ": ".join([kind, *message.strip().splitlines()[:1]])
    return None


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
