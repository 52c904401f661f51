"""What heads cause, who makes up for them, and what a circuit's number depends on, in words made from the data."""

import pandas as pd

from patchlib._util import head_name
from patchlib.plots.wording import check_table, interval


def of_causes(head_types: pd.DataFrame) -> str:
    """For each head that writes to queries or keys, what it looks like and whether it moves attention.

    Args:
        head_types: From ``head_types`` with ``evidence``.

    Returns:
        One sentence; that there is no such head where a search had one step.

    Example:
        >>> step = {"receivers": "L23H3", "site": "q", "layer": 20, "head_index": 0, "position": "END", "effect": 0.05}
        >>> writer = {"receivers": "logits", "site": "logits", "layer": 23, "head_index": 3, "position": "END"}
        >>> table = patchlib.head_types(model, task, pd.DataFrame([step, writer | {"effect": 0.6}]), evidence=True)
        >>> print(patchlib.plots.takeaways.of_causes(table))
        L20H0 at END looks like S-inhibition, moves no attention (of L23H3 by +0.031 [-0.030, +0.134]). Random heads
        patched beside them move it by -0.001 at most.
    """
    check_table(head_types, "head_types", "layer", "head_index", "position", "head_type", "evidence", "receiver")
    asked = head_types[head_types.evidence != ""]
    if asked.empty:
        return "No head was found to write to queries or keys, so that none was asked whether it moves attention."
    said = []
    for row in asked.to_dict("records"):
        name = "has no name" if row["head_type"] == "unnamed" else f"looks like {row['head_type']}"
        ends = f"[{row['change_low']:+.3f}, {row['change_high']:+.3f}]"
        moved = f"of {row['receiver']} by {row['attention_change']:+.3f} {ends}"
        head = head_name(row["layer"], row["head_index"])
        said.append(f"{head} at {row['position']} {name}, {row['evidence']} ({moved})")
    control = max(asked.control_change.dropna(), key=abs, default=None)
    beside = "" if control is None else f" Random heads patched beside them move it by {control:+.3f} at most."
    return f"{'; '.join(said)}.{beside}"


def of_self_repair(table: pd.DataFrame) -> str:
    """What the knocked-out heads wrote, what was lost, and who makes up for the rest.

    Args:
        table: From ``self_repair``.

    Returns:
        Two sentences.

    Example:
        >>> table = patchlib.self_repair(patchlib.Ablation(model, task), [(23, 3)])
        >>> print(patchlib.plots.takeaways.of_self_repair(table))
        L23H3 wrote +1.78 logits and now writes -0.03, a change of -1.81; the logit difference changes by -2.18
        [-2.63, -0.79]. Heads that wrote against the answer: +0.77 [0.10, 1.87], less suppression (first L24H4, L24H5,
        L29H0); all others that wrote towards it: -0.64 [-0.92, -0.24], no backup; the final norm's scale: -0.00
        [-0.16, 0.46]; MLPs and the rest: -0.49 [-0.86, 0.37]. n = 4.
    """
    check_table(table, "self_repair", "before", "after", "change", "ci_low", "ci_high", "heads", "n")
    change = {part: f"{row.change:+.2f}{interval(row)}" for part, row in table.iterrows()}
    gone, against = table.loc["knocked-out heads"], table.loc["less suppression"]
    suppression = _told(table, "less suppression", "less suppression", "more suppression")
    backup = _told(table, "backup", "backup", "no backup")
    write = "write" if "," in gone["heads"] else "writes"
    return (
        f"{gone['heads']} wrote {gone.before:+.2f} logits and now {write} {gone.after:+.2f}, a change of "
        f"{gone.change:+.2f}; the logit difference changes by {change['all']}. Heads that wrote against the answer: "
        f"{change['less suppression']}, {suppression} (first {against['heads']}); all others that wrote towards it: "
        f"{change['backup']}, {backup}; the final norm's scale: {change['norm']}; MLPs and the rest: {change['rest']}. "
        f"n = {table.n.iloc[0]}."
    )


def _told(table: pd.DataFrame, part: str, above: str, below: str) -> str:
    """What a part's change is called, if its interval leaves out 0."""
    return above if table.ci_low[part] > 0 else below if table.ci_high[part] < 0 else "not to be told from chance"


def of_protocols(table: pd.DataFrame) -> str:
    """How far faithfulness depends on the protocol, and whether complement and random circuits do as well.

    Args:
        table: From ``faithfulness_by_protocol``.

    Returns:
        Three sentences.

    Example:
        >>> ablations = {"zero": patchlib.Ablation(model, task, source="zero")}
        >>> table = patchlib.faithfulness_by_protocol(ablations, patchlib.Circuit({"writers": [(23, 3)]}), n_random=1)
        >>> print(patchlib.plots.takeaways.of_protocols(table))
        m(C) / m(M) goes from 0.06 (zero, the circuit's positions) to 0.06 (zero, the circuit's positions); with the
        floor subtracted, from 0.01 (zero, the circuit's positions) to 0.01 (zero, the circuit's positions). The
        circuit keeps more than every random one by 2 of 2 protocols, and more than its complement by 0.
    """
    columns = ("replaced_by", "positions", "circuit", "complement", "random_max", "faithfulness", "above_floor")
    check_table(table, "faithfulness_by_protocol", *columns)
    ranges = []
    for column in ("faithfulness", "above_floor"):
        ends = [table.iloc[i] for i in (table[column].argmin(), table[column].argmax())]
        ranges.append(" to ".join(f"{row[column]:.2f} ({row.replaced_by}, {row.positions} positions)" for row in ends))
    n, above = len(table), int((table.circuit > table.random_max).sum())
    beats = int((table.circuit > table.complement).sum())
    return (
        f"m(C) / m(M) goes from {ranges[0]}; with the floor subtracted, from {ranges[1]}. The circuit keeps more than "
        f"every random one by {above} of {n} protocols, and more than its complement by {beats}."
    )
