"""Notebooks through papermill, one after the other, in kernels of the interpreter that runs patchlib."""

from __future__ import annotations

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
from patchlib.runs.manifest import RUNNING, new_manifest, prepare_folder, read_json, repeat_command, write_json
from patchlib.runs.notebooks import find_notebooks, notebook_folder, one_line
from patchlib.runs.pages import write_index, write_page
from patchlib.runs.parameters import declared_parameters, read_parameters
from patchlib.runs.provenance import code_hash

DIED = "DeadKernelError"


@dataclass(frozen=True)
class RunRecord:
    """What became of one notebook: `status` is "ok" or "failed"; times in seconds, memory in MB."""

    notebook: str
    status: str
    error: str | None
    wall_time_s: float
    peak_memory_mb: float | None
    executed: Path
    html: Path
    manifest: Path
    results: tuple[Path, ...]


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
        notebooks: paths, stems ("02_head_patching") or numbers ("02"); the package's own by default.
        parameters: values for every notebook asked for; text is read as the type the notebook declares.
        out_dir: folder to write to; made if it is missing.
        progress: show papermill's progress bar on stderr.
        defaults: values that come before a notebook's own, for those notebooks that have such a parameter.

    Returns:
        One record a notebook, in order.

    Raises:
        RunError: unknown notebook or parameter, wrong type or value, or a folder that cannot be written.
    """
    jobs = [(path, *read_parameters(path, parameters or {}, defaults)) for path in find_notebooks(notebooks)]
    folder = prepare_folder(out_dir)
    for path, _, values in jobs:
        if path.parent == folder:
            raise RunError(f"{path.name} lies in the output folder {folder}; choose another with -o")
        if "out_dir" in declared_parameters(path):
            # Absolute, because the notebook runs in its own folder and not in the caller's.
            values["out_dir"] = str(prepare_folder(values.get("out_dir") or folder))
    bars = [{"desc": f"{path.stem} ({i} of {len(jobs)})"} for i, (path, *_) in enumerate(jobs, start=1)]
    try:
        return [_run_one(*job, folder, progress and bar) for job, bar in zip(jobs, bars, strict=True)]
    finally:
        write_index(folder)


def _run_one(
    path: Path, defaults: dict[str, Any], values: dict[str, Any], folder: Path, bar: dict[str, str] | bool
) -> RunRecord:
    executed, page, manifest_path = (folder / f"{path.stem}.{end}" for end in ("ipynb", "html", "manifest.json"))
    saved = Path(values.get("out_dir", folder)) / manifest_path.name
    for stale in (executed, page, manifest_path, saved):
        stale.unlink(missing_ok=True)
    status, started, code = "interrupted", time.monotonic(), code_hash(path)
    error: str | None = "KeyboardInterrupt"
    try:
        papermill.execute_notebook(
            # papermill fills {parameters} into paths, and a folder may have braces in its name.
            *(str(one).replace("{", "{{").replace("}", "}}") for one in (path, executed)),
            values,
            kernel_name="python3",
            language="python",
            progress_bar=bar,
            cwd=path.parent,
            kernel_manager_class=type("Kernels", (ThisInterpreter,), {"notebook": path.stem}),
        )
        status, error = "ok", None
    except Exception as caught:  # a cell's error, a full disk: this run failed, but the next may not
        status, error = "failed", one_line(caught)
        # nbclient has no name of its own for a kernel that died as it started
        if isinstance(caught, DeadKernelError) or str(caught).startswith("Kernel died"):
            error = f"{DIED}: the kernel died; most often it ran out of memory"
    finally:  # on Ctrl-C too, which then ends all the runs
        wall_time = round(time.monotonic() - started, 2)
        manifest = new_manifest(path.stem, defaults | values)
        if saved.is_file():  # by the notebook, with save_run
            manifest |= read_json(saved)
        manifest["parameters"] = defaults | manifest["parameters"] | values
        manifest["code_hash"] = code
        for file in manifest["files"]:
            file["name"] = Path(os.path.relpath(saved.parent / file["name"], folder)).as_posix()
        if executed.is_file():
            manifest["title"], manifest["description"] = write_page(executed, page)
        name = path.stem if path.parent == notebook_folder() else str(path)
        manifest["repeat"] = repeat_command(name, manifest["parameters"])
        write_json(manifest_path, manifest | {"status": status, "error": error, "wall_time_s": wall_time})
    peak, results = manifest["peak_memory_mb"], tuple(folder / file["name"] for file in manifest["files"])
    return RunRecord(path.stem, status, error, wall_time, peak, executed, page, manifest_path, results)
