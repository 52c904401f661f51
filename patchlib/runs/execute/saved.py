"""Runs that were too long for a notebook's defaults: their tables come with the package, and the command too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from patchlib.runs.folder import RunFolder

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

FOLDER = Path(__file__).parents[1] / "saved_runs"


@dataclass(frozen=True)
class SavedRun:
    """A notebook's longer run on one model.

    Attributes:
        command: What made it.
        manifest: The run's manifest: parameters, versions, hardware, time.
        tables: Its tables by name, as the notebook saved them.

    Example:
        >>> patchlib.saved_run("03_ioi_circuit", model).command.split(" -p ")[0]
        'patchlib run 03_ioi_circuit'
    """

    command: str
    manifest: dict[str, Any]
    tables: dict[str, pd.DataFrame]


def saved_run(notebook: str, model: TransformerBridge) -> SavedRun | None:
    """The longer run of a notebook that comes with patchlib, if it was made with this very model; else None.

    Args:
        notebook: Its name without ending, such as ``"03_ioi_circuit"``.
        model: Its weights are compared with those of the run.

    Returns:
        The run's command, manifest and tables.

    Example:
        >>> run = patchlib.saved_run("03_ioi_circuit", model)
        >>> run.manifest["parameters"]["n_prompts"]
        16
        >>> "faithful" in run.tables
        True
        >>> patchlib.saved_run("no_such_notebook", model) is None
        True
    """
    from patchlib.models.load import weights_hash  # torch

    run = RunFolder(FOLDER / notebook, notebook)
    if weights_hash(model) not in [used["weights_hash"] for used in run.manifest.get("models", [])]:
        return None
    tables = {path.name.split(".")[-2]: pd.read_csv(path) for path in sorted(run.path.glob(f"{notebook}.*.csv"))}
    return SavedRun(run.manifest["repeat"], run.manifest, tables)
