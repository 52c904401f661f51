"""Runs that were too long for a notebook's defaults: their tables come with the package, and the command too."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from patchlib.models.load import weights_hash

FOLDER = Path(__file__).parent / "saved_runs"


@dataclass(frozen=True)
class SavedRun:
    """A notebook's longer run on one model.

    Attributes:
        command: What made it.
        manifest: The run's manifest: parameters, versions, hardware, time.
        tables: Its tables by name, as the notebook saved them.
    """

    command: str
    manifest: dict[str, Any]
    tables: dict[str, pd.DataFrame]


def saved_run(notebook: str, model: TransformerBridge) -> SavedRun | None:
    """The longer run of a notebook that comes with patchlib, if it was made with this very model; else None.

    Args:
        notebook: Its name without ending, such as ``"03_ioi_circuit"``.
        model: Its weights are compared with those of the run.
    """
    found = sorted((FOLDER / notebook).glob("*.manifest.json"))
    for path in found:
        manifest = json.loads(path.read_text())
        if weights_hash(model) in [one["weights_hash"] for one in manifest["models"]]:
            start = f"{notebook}."
            tables = {
                one.name.removeprefix(start).removesuffix(".csv"): pd.read_csv(one)
                for one in sorted(path.parent.glob(f"{start}*.csv"))
            }
            return SavedRun(manifest["repeat"], manifest, tables)
    return None
