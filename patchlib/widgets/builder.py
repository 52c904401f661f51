"""Tick heads in and out of a circuit, and see what is left of the behaviour."""

from __future__ import annotations

import ipywidgets
import pandas as pd

from patchlib.ablation import Ablation
from patchlib.circuit import Circuit, faithfulness
from patchlib.circuit_takeaways import of_faithfulness
from patchlib.labels import head_names
from patchlib.widgets.drawing import Shown, live, wide


def circuit_builder(ablation: Ablation, circuit: Circuit) -> ipywidgets.VBox:
    """A list for each role, from which heads can be left out, and the faithfulness of what is kept beside that of all.

    Args:
        ablation: The prompts, and what stands in for the heads that are knocked out; few prompts answer faster.
        circuit: What was found.

    Raises:
        SweepError: As ``faithfulness``.
    """
    whole = faithfulness(ablation, circuit)
    controls = {
        role: wide(
            ipywidgets.SelectMultiple, role, options=[(head_names([one]), one) for one in heads], value=list(heads),
            rows=max(2, len(heads)),
        )
        for role, heads in circuit.roles.items()
    }  # fmt: skip

    def draw(**kept: tuple[tuple[int, int], ...]) -> list[Shown]:
        left = Circuit(kept, circuit.positions)
        found = faithfulness(ablation, left)
        columns = ["n_heads", "circuit", "faithfulness", "ci_low", "ci_high", "floor"]
        table = pd.DataFrame({"as found": whole, "as ticked": found})[["as found", "as ticked"]].T[columns]
        gone = [one for one in circuit.heads if one not in left.heads]
        return [f"Left out: {head_names(gone) or 'nothing'}.", table.astype(float).round(2), of_faithfulness(found)]

    return live(draw, controls)
