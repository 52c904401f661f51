"""One notebook through papermill, in a kernel of the interpreter that runs patchlib, within limits of time."""

import math
import os
import time
from collections.abc import Mapping
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

from patchlib.errors import RunError
from patchlib.runs.execute.manifest import RUNNING
from patchlib.runs.execute.notebooks import stand_alone
from patchlib.runs.execute.parameters import declared_parameters, read_notebook

DIED = "DeadKernelError"


class Late(str):
    """The error of a run whose time was over."""


@dataclass(frozen=True)
class Limits:
    """Seconds that a run, and each of its cells, may take; None for no limit."""

    run: float | None = None
    cell: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("timeout", self.run), ("cell_timeout", self.cell)):
            if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
                raise RunError(f"{name} takes seconds, more than 0, not {value!r}")


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
        executed.write_text(stand_alone(nbformat.writes(nb), path.parent), encoding="utf-8")
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
