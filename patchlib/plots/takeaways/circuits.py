"""What the figures and tables of a circuit say in words, made from the data: true for any model and task."""

import math

import pandas as pd
import xarray as xr

from patchlib._util import check_kind, check_number, head_name
from patchlib.circuits.criteria import Faithfulness
from patchlib.circuits.discovery import Discovery
from patchlib.plots.wording import check_array, check_table, interval

HALF = 0.5
"""A circuit that keeps less of the behaviour explains less than it leaves out."""


def of_writers(attribution: xr.DataArray, attention: xr.DataArray) -> str:
    """Who writes most towards the answer and most against it, and where each of them looks.

    Args:
        attribution: From ``direct_logit_attribution``.
        attention: From ``attention_between``, of the same task.

    Returns:
        One sentence.

    Example:
        >>> attribution = patchlib.direct_logit_attribution(model, task)
        >>> print(patchlib.plots.takeaways.of_writers(attribution, patchlib.attention_between(model, task, "END")))
        L23H3 writes most towards the answer (+1.78 logits) and attends most to S2 (0.49); L29H0 writes most
        against it (-0.90 logits) and attends most to END (0.61).
    """
    check_array(attribution, "direct_logit_attribution", "layer", "head", "example")
    check_array(attention, "attention_between", "layer", "head", "role", "example")
    mean = attribution.mean("example").stack(cell=("layer", "head"))
    looks = attention.mean("example").stack(cell=("layer", "head"))
    said = []
    for direction, i in (("towards the answer", mean.values.argmax()), ("against it", mean.values.argmin())):
        layer, head = mean.cell.values[i]
        of_head = looks.sel(cell=(layer, head))  # [role]
        said.append(
            f"{head_name(layer, head)} writes most {direction} ({float(mean[i]):+.2f} logits) and attends most to "
            f"{of_head.role.values[of_head.values.argmax()]} ({float(of_head.max()):.2f})"
        )
    return "; ".join(said) + "."


def of_inputs(discovery: Discovery) -> str:
    """For each group of heads, which of their inputs matter, and which of these other heads write.

    Args:
        discovery: From ``discover``.

    Returns:
        A sentence for each group; empty where the search had one step.

    Example:
        >>> import pandas as pd
        >>> row = {"heads": "L23H3", "site": "q", "position": "END", "effect": 0.4, "through_heads": 0.3}
        >>> circuit, nothing = patchlib.Circuit({"subject suppressor": [(23, 3)]}, {}), pd.DataFrame()
        >>> search = patchlib.Discovery(circuit, nothing, pd.DataFrame([row]), {}, nothing, ("S2", "END"))
        >>> print(patchlib.plots.takeaways.of_inputs(search))
        L23H3: q at END (0.40, of which 0.30 through other heads).
    """
    check_kind("discovery", discovery, Discovery, "give what patchlib.discover returned")
    said = []
    for heads, rows in discovery.inputs.groupby("heads", sort=False):
        measured = rows.dropna(subset="through_heads").sort_values("effect", ascending=False)
        inputs = [
            f"{row['site']} at {row['position']} ({row['effect']:.2f}, of which {row['through_heads']:.2f} through "
            "other heads)"
            for row in measured.to_dict("records")
        ]
        said.append(f"{heads}: {', '.join(inputs) or 'no input stands out'}.")
    return " ".join(said)


def of_head_types(discovery: Discovery) -> str:
    """How many heads were found, and those of each type, in the order of the stream.

    Args:
        discovery: From ``discover``.

    Returns:
        One sentence.

    Example:
        >>> import pandas as pd
        >>> head_types = {"subject suppressor": [(23, 3)], "negative name mover": [(24, 4)]}
        >>> circuit, nothing = patchlib.Circuit(head_types, dict.fromkeys(head_types, "END")), pd.DataFrame()
        >>> types = pd.DataFrame({"head_type": list(head_types)})
        >>> search = patchlib.Discovery(circuit, nothing, nothing, {}, types, ("END",))
        >>> print(patchlib.plots.takeaways.of_head_types(search))
        2 heads: subject suppressor L23H3 at END; negative name mover L24H4 at END.
    """
    check_kind("discovery", discovery, Discovery, "give what patchlib.discover returned")
    table = discovery.circuit.table()
    named = [
        f"{name} {heads} at {positions}"
        for name, heads, positions in zip(table.index, table["heads"], table.positions, strict=True)
        if not str(name).startswith("unnamed")
    ]
    n_unnamed = int((discovery.head_types.head_type == "unnamed").sum())
    said = f"{len(discovery.circuit.heads)} heads: {'; '.join(named) or 'none with a name'}"
    return said + (f"; {n_unnamed} without a name." if n_unnamed else ".")


def of_faithfulness(result: Faithfulness) -> str:
    """The ratio with its interval, the floor, what to make of it, and the protocol that it depends on.

    Args:
        result: From ``faithfulness``.

    Returns:
        Three sentences.

    Example:
        >>> circuit = patchlib.Circuit({"writers": [(23, 3), (29, 1)]})
        >>> result = patchlib.faithfulness(patchlib.Ablation(model, task), circuit)
        >>> print(patchlib.plots.takeaways.of_faithfulness(result))
        2 heads alone give 3.54 of the model's 4.37: faithfulness 0.81 [-0.80, 1.40]; with no head at all
        0.66. Whether it keeps as much as half is open: take the names as candidates. Protocol: logit_diff, mean
        over n = 4 prompts of ...
    """
    check_kind("result", result, Faithfulness, "give what patchlib.faithfulness returned")
    return (
        f"{result.n_heads} heads alone give {result.circuit:.2f} of the model's {result.model:.2f}: "
        f"faithfulness {result.faithfulness:.2f}{interval(result)}; with no head at all {result.floor:.2f}. "
        f"{_verdict(result)} Protocol: {result.protocol}."
    )


def _verdict(result: Faithfulness) -> str:
    """What an interval of faithfulness allows to say of a circuit."""
    if result.circuit <= result.floor:
        return "The circuit does no better than no head at all: do not trust the names."
    if math.isnan(result.ci_low):
        return "These prompts do not say how much of it others would keep."
    if result.ci_high < HALF:
        return "The circuit keeps less than half, and other heads do the rest: do not trust the names."
    if result.ci_low < HALF:
        return "Whether it keeps as much as half is open: take the names as candidates."
    if result.ci_high < 1:
        return "It keeps more than half, and not all: there are heads outside it that matter."
    return "It keeps more than half, and may keep all."


def of_completeness(table: pd.DataFrame) -> str:
    """The set of heads without which circuit and model differ most.

    Args:
        table: From ``completeness``.

    Returns:
        One sentence.

    Example:
        >>> circuit = patchlib.Circuit({"writers": [(23, 3), (29, 1)]})
        >>> table = patchlib.completeness(patchlib.Ablation(model, task), circuit, n_random=1, n_greedy=0)
        >>> print(patchlib.plots.takeaways.of_completeness(table))
        Circuit and model differ most without L23H3, L29H1 (writers): 0.66 against 1.72, an incompleteness
        of 1.06; with nothing removed 0.83.
    """
    check_table(table, "completeness", "kind", "heads", "model", "circuit", "incompleteness")
    worst = table.iloc[table.incompleteness.argmax()]
    return (
        f"Circuit and model differ most without {worst['heads'] or 'nothing'} ({worst.kind}): {worst.circuit:.2f} "
        f"against {worst.model:.2f}, an incompleteness of {worst.incompleteness:.2f}; with nothing removed "
        f"{table.incompleteness.iloc[0]:.2f}."
    )


def of_minimality(table: pd.DataFrame, least: float = 0.01) -> str:
    """The head that adds most, and those that hardly add anything.

    Args:
        table: From ``minimality``.
        least: Share of the model's metric below which a head hardly adds anything.

    Returns:
        One sentence.

    Example:
        >>> circuit = patchlib.Circuit({"writers": [(23, 3), (29, 1)]})
        >>> table = patchlib.minimality(patchlib.Ablation(model, task), circuit)
        >>> print(patchlib.plots.takeaways.of_minimality(table))
        L23H3 adds most (65% of the model's metric); every head adds at least 16.3%.
    """
    check_table(table, "minimality", "head_name", "share")
    check_number("least", least)
    top, idle = table.iloc[0], table[table.share < least]
    said = f"{top.head_name} adds most ({top.share:.0%} of the model's metric)"
    if idle.empty:
        return f"{said}; every head adds at least {table.share.min():.1%}."
    return f"{said}; {', '.join(idle.head_name)} {'adds' if len(idle) == 1 else 'add'} less than {least:.0%}."
