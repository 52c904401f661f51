"""Tick heads in and out of a circuit, and see what is left of the behaviour."""

import pandas as pd

from patchlib._util import Head, head_name
from patchlib.circuits.ablation import Ablation
from patchlib.circuits.circuit import Circuit
from patchlib.circuits.criteria import faithfulness
from patchlib.plots.takeaways import of_faithfulness
from patchlib.widgets.drawing import Live, Shown, live
from patchlib.widgets.pickers import HeadTicks


def circuit_builder(ablation: Ablation, circuit: Circuit) -> Live:
    """Boxes to take heads or whole types out of a circuit, and what is left beside the circuit as it was found.

    Args:
        ablation: The prompts, and what stands in for the heads that are knocked out; few prompts answer faster.
        circuit: What was found.

    Returns:
        Boxes above, and below them the heads left out, a table, and the sentence of ``of_faithfulness``.

    Raises:
        SweepError: As ``faithfulness``.

    Example:
        >>> circuit = patchlib.Circuit({"writers": [(23, 3), (29, 1)]})
        >>> ablation = patchlib.Ablation(model, task).select([0])
        >>> builder = patchlib.widgets.circuit_builder(ablation, circuit)
        >>> [box.description for box in builder.children[0].children]  # untick one, and the rest is measured again
        ['writers', 'L23H3', 'L29H1']
    """
    whole = faithfulness(ablation, circuit)
    columns = ["n_heads", "circuit", "model", "floor", "faithfulness", "ci_low", "ci_high"]
    ticks = HeadTicks(circuit.head_types)

    def draw(kept: dict[str, tuple[Head, ...]]) -> list[Shown]:
        left = faithfulness(ablation, Circuit(kept, circuit.positions)) if kept != circuit.head_types else whole
        table = pd.DataFrame([whole, left], index=["as found", "as ticked"])[columns]
        gone = [
            f"{head_name(*head)} ({head_type})"
            for head_type, heads in circuit.head_types.items()
            for head in heads
            if head not in kept[head_type]
        ]
        return [f"Left out: {', '.join(gone) or 'nothing'}.", table.round(2), of_faithfulness(left)]

    return live(draw, {"kept": ticks}, ticks.rows)
