"""Tick heads in and out of a circuit, and see what is left of the behaviour."""

from __future__ import annotations

import pandas as pd

from patchlib._util import head_names
from patchlib.circuits.ablation import Ablation, Head
from patchlib.circuits.circuit import Circuit, faithfulness
from patchlib.plots.circuit_takeaways import of_faithfulness
from patchlib.widgets.drawing import Live, Shown, live
from patchlib.widgets.pickers import HeadTicks


def circuit_builder(ablation: Ablation, circuit: Circuit) -> Live:
    """Boxes to take heads or whole roles out of a circuit, and what is left beside the circuit as it was found.

    Args:
        ablation: The prompts, and what stands in for the heads that are knocked out; few prompts answer faster.
        circuit: What was found.

    Raises:
        SweepError: As ``faithfulness``.
    """
    whole = faithfulness(ablation, circuit)
    columns = ["n_heads", "circuit", "model", "floor", "faithfulness", "ci_low", "ci_high"]
    ticks = HeadTicks(circuit.roles)

    def draw(kept: dict[str, tuple[Head, ...]]) -> list[Shown]:
        left = Circuit(kept, circuit.positions)
        found = faithfulness(ablation, left) if kept != circuit.roles else whole
        table = pd.DataFrame({"as found": whole, "as ticked": found}).T[columns]
        gone = [
            f"{head_names([one])} ({role})" for role, heads in circuit.roles.items() for one in heads
            if one not in kept[role]
        ]  # fmt: skip
        return [
            f"Left out: {', '.join(gone) or 'nothing'}.",
            table.astype(float).round(2).astype({"n_heads": int}),
            of_faithfulness(found),
        ]

    return live(draw, {"kept": ticks}, ticks.rows)
