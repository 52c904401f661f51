"""One notebook through papermill, in a kernel of the interpreter that runs patchlib."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import papermill
import zmq
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from papermill.log import logger as papermill_log
from traitlets import default


class ThisInterpreter(AsyncKernelManager):
    """Start kernels with `sys.executable`, whatever kernels are installed under whatever name."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The kernel that ipykernel would install for this interpreter."""
        return KernelSpec(**get_kernel_dict())

    @default("transport_encryption")
    def _encrypt(self) -> str:
        # Without it the kernel warns on stderr, in the middle of the progress bar.
        return "auto" if zmq.has("curve") else "disabled"


@dataclass(frozen=True)
class Outcome:
    """How an execution ended: "ok", "failed" or "interrupted", with the error in one line."""

    status: str
    error: str | None = None
    interrupt: KeyboardInterrupt | None = None


def execute(
    notebook: Path, executed: Path, parameters: dict[str, Any], bar: dict[str, str] | bool
) -> Outcome:
    """Execute `notebook` in its own folder; papermill keeps `executed` up to date after every cell."""
    level = papermill_log.level
    # It warns of parameters that its own reading of the cell missed; ours were checked (see _notebooks).
    papermill_log.setLevel(logging.ERROR)
    try:
        papermill.execute_notebook(
            _literal(notebook),
            _literal(executed),
            parameters,
            kernel_name="python3",
            language="python",
            progress_bar=bar,
            cwd=notebook.parent,
            kernel_manager_class=ThisInterpreter,
        )
    except KeyboardInterrupt as interrupt:
        return Outcome("interrupted", "KeyboardInterrupt", interrupt)
    except DeadKernelError:
        return Outcome("failed", "DeadKernelError: the kernel died; most often it ran out of memory")
    except PapermillExecutionError as error:
        return Outcome("failed", _first_line(error.ename, error.evalue))
    except Exception as error:  # a timeout, a full disk: this run failed, but the next may not
        return Outcome("failed", _first_line(type(error).__name__, str(error)))
    finally:
        papermill_log.setLevel(level)
    return Outcome("ok")


def _literal(path: Path) -> str:
    # papermill fills {parameters} into paths; a folder may have braces in its name.
    return str(path).replace("{", "{{").replace("}", "}}")


def _first_line(name: str, message: str) -> str:
    lines = message.strip().splitlines()
    return f"{name}: {lines[0]}" if lines else name
