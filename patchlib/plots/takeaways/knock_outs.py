"""What is lost without some heads, and who steps in, in words."""

import pandas as pd

from patchlib._util import head_name
from patchlib.errors import SweepError
from patchlib.plots.wording import METRIC_NAMES, check_table, interval


def of_backup(table: pd.DataFrame) -> str:
    """Which head writes more than before, and what all the others together make up for.

    Args:
        table: From ``backup_heads``.

    Returns:
        One sentence.

    Example:
        >>> table = patchlib.backup_heads(patchlib.Ablation(model, task), [(23, 3)])
        >>> print(patchlib.plots.takeaways.of_backup(table))
        Without L23H3, L29H0 writes +0.43 [0.06, 0.60] logits more of the answer than before; all other heads
        together +0.12.
    """
    check_table(table, "backup_heads", "before", "after", "change", "layer", "head_index", "knocked_out", "n")
    top = table.iloc[0]
    together = f"all other heads together {table.change.sum():+.2f}"
    if not top.ci_low > 0:
        return f"Without {top.knocked_out} no head's increase stands out; {together} logits."
    return (
        f"Without {top.knocked_out}, {head_name(top.layer, top.head_index)} writes {top.change:+.2f} "
        f"[{top.ci_low:.2f}, {top.ci_high:.2f}] logits more of the answer than before; {together}."
    )


def of_knock_out(table: pd.DataFrame) -> str:
    """What each named set's loss does, the range of the random sets, and how many of these do as much.

    Args:
        table: From ``knock_out`` or ``ablated_losses``.

    Returns:
        A sentence, and one more for each named set where random ones stand beside it.

    Example:
        >>> table = patchlib.knock_out(patchlib.Ablation(model, task), {"the writer": [(23, 3)]})
        >>> print(patchlib.plots.takeaways.of_knock_out(table))
        From 4.37: without the writer (L23H3) the logit difference changes by -2.18 [-2.63, -0.79]. n = 4.
    """
    check_table(table, "knock_out", "metric_mean", "change", "ci_low", "ci_high", "heads", "n", "metric")
    if "none" not in table.index:
        raise SweepError(
            "The table lacks the row 'none', with which the others are compared: give what knock_out returned."
        )
    metric = METRIC_NAMES.get(table.metric.iloc[0], table.metric.iloc[0])
    sets = table.drop(index="none")
    is_random = sets.index.str.startswith("random ")
    named = sets[~is_random]
    said = "; ".join(
        f"without {name} ({row['heads']}) the {metric} changes by {row.change:+.2f}{interval(row)}"
        for name, row in named.iterrows()
    )
    if is_random.any():
        change = sets.change[is_random]
        said += (
            f"; {len(change)} random sets of as many heads in the same layers change it by {change.min():+.2f} to "
            f"{change.max():+.2f}, mean {change.mean():+.2f}"
        )
    verdicts = "".join(_beside_random(str(name), row.change, sets.change[is_random]) for name, row in named.iterrows())
    return f"From {table.metric_mean['none']:.2f}: {said}. n = {table.n.iloc[0]}.{verdicts}"


def _beside_random(name: str, change: float, random: pd.Series) -> str:
    """How many random sets change the metric as much, in either direction; nothing where none was drawn."""
    n_alike = int((abs(random) >= abs(change)).sum())
    if not len(random):
        return ""
    if not n_alike:
        return f" No random set changes it as much as {name}."
    return f" {n_alike} of the random sets change it as much: nothing tells {name} from them."
