"""Do the two unpatched forwards differ enough, and the right way round, to divide by? Why not, where they do not?"""

import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import norm
from scipy.stats import t as student

from patchlib._util import check_kind
from patchlib.errors import SweepError
from patchlib.stats.intervals import mean_interval, ratio_intervals
from patchlib.stats.results import check_result, clusters_of

MIN_CONTRAST_OF_ONE = 0.1
"""Smallest contrast of one or two prompts, of which no spread is known: as a fraction of the larger of the two metrics.
And for those prompts that have a position: as a fraction of the contrast of all."""
MOST_AGAINST = 1 / 3
"""Of the prompts that differ at all, how many may differ the other way than their mean."""
HIGHER_IS_BETTER = ("logit_diff", "prob", "prob_diff", "accuracy")
"""Metrics in which the clean prompts have to come out above the corrupted ones; of others we do not know."""
GUESSING = {"logit_diff": 0.0, "prob_diff": 0.0, "accuracy": 0.5}
"""What a model has that does not know which of the two answers is right."""
REASONS = ("answers swapped", "the model cannot do the task", "no difference", "prompts disagree", "too few prompts")
"""Why a contrast is not usable, in the order in which they are looked for."""
COLUMNS = ["clean", "corrupted", "difference", "ci_low", "ci_high", "spread", "against", "n", "usable", "reason"]
OTHER_CORRUPTION = "choose a corruption that changes the answer (for IOI: corruption='swap_subject')"


def contrast(result: xr.Dataset) -> pd.DataFrame:
    """What the two unpatched forwards give, one row a metric, and whether their difference can be divided by.

    It can where it is precise (Student's interval leaves out 0, or else a ratio over it has none; asked of three
    prompts or more), where prompts agree on its sign (at most a third of them goes the other way), where the clean
    prompts are the better ones and where the model does better on them than by guessing. Swapping the names of IOI's
    first clause, for example, leaves the answer as it was: what remains is a preference for one order of names, small,
    and of either sign.

    Args:
        result: From ``sweep``, ``path_patch`` or ``baseline``.

    Returns:
        Columns ``clean``, ``corrupted`` (means over prompts), ``difference`` with its 95% interval ``ci_low`` and
        ``ci_high`` (``mean_interval``), ``spread`` (standard deviation of the difference over prompts), all in the
        metric's units and NaN where a single prompt has none; ``against`` (share of those prompts that differ at all
        whose difference has the other sign), ``n`` (prompts), ``usable``, and ``reason``, one of ``REASONS``, empty
        where it is usable. The metrics' names are the index.

    Raises:
        SweepError: This is no result.

    Example:
        Swapping the second subject changes the answer; swapping the order of the names does not:

        >>> for corruption in ("swap_subject", "swap_order"):
        ...     pairs = patchlib.IOIDataset(model, n_prompts=4, seed=0, corruption=corruption)
        ...     row = patchlib.contrast(patchlib.baseline(model, pairs)).loc["logit_diff"]
        ...     print(corruption, bool(row.usable), row.reason)
        swap_subject True
        swap_order False too few prompts
    """
    result = check_result(result)
    unpatched = result[["clean", "corrupted"]].astype("float64")  # of which rounding makes numbers that can be read
    by_prompt = (unpatched.clean - unpatched.corrupted).transpose("metric", "example").values
    n = by_prompt.shape[1]
    low, high = mean_interval(by_prompt, clusters=clusters_of(result))
    table = unpatched.mean("example").to_dataframe()[["clean", "corrupted"]]
    spread = by_prompt.std(axis=1, ddof=1) if n > 1 else np.nan
    table = table.assign(difference=by_prompt.mean(axis=1), ci_low=low, ci_high=high, spread=spread, n=n)
    is_share = table.index.isin(["prob", "accuracy"])  # shares differ by 1 at most, and differences of shares by 2
    table.loc[is_share, ["ci_low", "ci_high"]] = table.loc[is_share, ["ci_low", "ci_high"]].clip(-1, 1)
    is_difference = table.index == "prob_diff"
    table.loc[is_difference, ["ci_low", "ci_high"]] = table.loc[is_difference, ["ci_low", "ci_high"]].clip(-2, 2)
    # A mean that is precise enough to divide by is one under which a ratio has an interval.
    has_interval = np.isfinite(ratio_intervals(np.ones_like(by_prompt), by_prompt, clusters=clusters_of(result))[0])
    table["is_precise"] = has_interval | (n < 3)  # the spread of two says nothing
    n_against = (by_prompt * np.sign(table.difference.to_numpy())[:, None] < 0).sum(axis=1)
    table["against"] = n_against / np.maximum((by_prompt != 0).sum(axis=1), 1)
    table["reason"] = [_reason(str(metric), row) for metric, row in table.iterrows()]
    return table.assign(usable=table.reason == "")[COLUMNS]


def _reason(metric: str, row: pd.Series) -> str:
    """Why a contrast is not usable; empty where it is."""
    size, larger = abs(row.difference), max(abs(row.clean), abs(row.corrupted))
    is_known = metric in HIGHER_IS_BETTER
    is_tiny = not size > (1e-4 if row.n > 2 else MIN_CONTRAST_OF_ONE) * larger  # the former is float noise
    agrees = row.against <= MOST_AGAINST
    if is_known and row.difference < 0 and row.is_precise and agrees and not is_tiny:
        return "answers swapped"
    if row.clean <= GUESSING.get(metric, -np.inf):
        return "the model cannot do the task"
    if is_tiny:
        return "no difference"
    if not agrees:
        return "prompts disagree"
    return "" if row.is_precise and (row.difference > 0 or not is_known) else "too few prompts"


def why_unusable(table: pd.DataFrame) -> str:
    """Why contrasts are not usable, with the numbers that say so, and what would help.

    Args:
        table: From ``contrast``.

    Returns:
        One sentence for each metric whose contrast is not usable; empty where all are.

    Raises:
        SweepError: This is no such table.

    Example:
        >>> pairs = patchlib.IOIDataset(model, n_prompts=4, seed=0, corruption="swap_order")
        >>> print(patchlib.stats.why_unusable(patchlib.contrast(patchlib.baseline(model, pairs))))
        logit_diff gives no usable contrast (too few prompts): ...
    """
    check_kind("A contrast", table, pd.DataFrame, "give what patchlib.contrast returned")
    if not {*COLUMNS} <= {*table.columns}:
        raise SweepError("A table without a contrast's columns cannot be read: give what patchlib.contrast returned.")
    return "\n".join(_sentence(str(metric), row) for metric, row in table[~table.usable.astype(bool)].iterrows())


def _sentence(metric: str, row: pd.Series) -> str:
    interval = "" if np.isnan(row.ci_low) else f" [{row.ci_low:.2g}, {row.ci_high:.2g}], spread {row.spread:.2g}"
    return (
        f"{metric} gives no usable contrast ({row.reason}): {row.clean:.3g} on clean and {row.corrupted:.3g} on "
        f"corrupted prompts, a difference of {row.difference:.2g}{interval} (n = {row.n:.0f}). {_mend(metric, row)}"
    )


def _mend(metric: str, row: pd.Series) -> str:
    match row.reason:
        case "answers swapped":
            return "The corrupted prompts come out above the clean ones: are the right and the wrong answers swapped?"
        case "the model cannot do the task":
            return (
                f"On the clean prompts it does no better than by guessing ({GUESSING[metric]:g}): "
                "take a model that can, or an easier task."
            )
        case "no difference":
            return f"Clean and corrupted prompts give the same: {OTHER_CORRUPTION}."
        case "prompts disagree":
            return f"{row.against:.0%} of the prompts differ the other way: {OTHER_CORRUPTION}."
    return f"Of this size and spread a difference takes about {_enough(row)} prompts to be told from 0."


def _enough(row: pd.Series) -> int:
    """How many prompts a difference of this size and spread would take to be told from 0 by a t-test at 5%."""
    least = (norm.ppf(0.975) * row.spread / abs(row.difference)) ** 2  # where t is normal, which takes the fewest
    n = int(max(least, row.n)) + np.arange(20)
    return int(n[(np.sqrt(n) > student.ppf(0.975, n - 1) * row.spread / abs(row.difference)).argmax()])
