"""What cells do together, in words."""

import numpy as np
import pandas as pd
import xarray as xr

from patchlib.plots.wording import NO_CONTRAST, check_interactions, check_table

ALIKE, TOGETHER = "less together than the sum of the two alone", "more together than the sum of the two alone"


def of_interactions(pairs: xr.Dataset) -> str:
    """The strongest interaction of each sign, and how many can be told from 0.

    Args:
        pairs: From ``interactions``.

    Returns:
        A sentence or two, or that there is no contrast.

    Raises:
        SweepError: These are no interactions.

    Example:
        >>> pairs = patchlib.interactions(model, task, [(20, 0), (20, 1), (23, 3)], progress=False)
        >>> print(patchlib.plots.takeaways.of_interactions(pairs))
        Of 3 pairs 1 does more together than the sum of the two alone, ...
    """
    check_interactions(pairs)
    values, low, high = (pairs[name].transpose("cell", "other").values for name in ("interaction", "low", "high"))
    rows, columns = np.triu_indices(len(values), 1)
    by_pair, low, high = values[rows, columns], low[rows, columns], high[rows, columns]
    if np.isnan(by_pair).all():
        return NO_CONTRAST
    together, n = pairs.together.transpose("cell", "other").values[rows, columns], len(by_pair)
    names, alone = [str(cell) for cell in pairs.cell.values], pairs.alone.values

    def named(i: int) -> str:
        ends = "" if np.isnan(low[i]) else f" [{low[i]:.2f}, {high[i]:.2f}]"
        singly = f"{alone[rows[i]]:.2f} and {alone[columns[i]]:.2f} alone"
        pair = f"{names[rows[i]]} with {names[columns[i]]}"
        return f"{pair} by {by_pair[i]:+.2f}{ends}: {singly}, {together[i]:.2f} together"

    said = []
    for is_apart, sign, what in ((low > 0, 1, TOGETHER), (high < 0, -1, ALIKE)):
        if count := int(is_apart.sum()):
            most = int(np.where(is_apart, sign * by_pair, -np.inf).argmax())
            said.append(f"{count} {'does' if count == 1 else 'do'} {what}, most {named(most)}")
    if not said:
        furthest = named(int(np.nanargmax(abs(by_pair))))
        return f"Of {n} pairs none can be told from the sum of the two alone; furthest is {furthest}."
    return f"Of {n} pairs {'; '.join(said)}."


def of_growth(table: pd.DataFrame) -> str:
    """How far a set that was grown comes with each cell, and how much of that is left on other prompts.

    Args:
        table: From ``grow_set``.

    Returns:
        Two sentences.

    Example:
        >>> table = patchlib.grow_set(model, task, [(20, 0), (20, 1), (23, 3)], n_steps=2, progress=False)
        >>> print(patchlib.plots.takeaways.of_growth(table))
        L20H0 +0.36, L23H3 +0.58: 2 cells reach 0.94 [..., ...], the best of 5 sets tested, n = 4. They were chosen on
        these prompts; how much is left on others was not measured.
    """
    check_table(table, "grow_set", "cell", "effect", "ci_low", "ci_high", "gain", "n_tested", "n")
    last = table.iloc[-1]
    ends = "" if pd.isna(last.ci_low) else f" [{last.ci_low:.2f}, {last.ci_high:.2f}]"
    steps = ", ".join(f"{row.cell} {row.gain:+.2f}" for row in table.itertuples())
    cells = "1 cell reaches" if len(table) == 1 else f"{len(table)} cells reach"
    elsewhere = "how much is left on others was not measured."
    if "held_out_effect" in table:
        others = "" if pd.isna(last.held_out_low) else f" [{last.held_out_low:.2f}, {last.held_out_high:.2f}]"
        elsewhere = f"on others they reach {last.held_out_effect:.2f}{others}."
    return (
        f"{steps}: {cells} {last.effect:.2f}{ends}, the best of {int(table.n_tested.sum())} sets tested, "
        f"n = {int(last.n)}. They were chosen on these prompts; {elsewhere}"
    )
