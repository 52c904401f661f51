"""What two directions of patching, two groups of prompts, or two sets of them say in words."""

import numpy as np
import pandas as pd
import xarray as xr

from patchlib import stats
from patchlib._util import cell_dims, check_count, check_fraction
from patchlib.errors import SweepError
from patchlib.plots.wording import cell_names, check_table, interval, no_effect

NAMED = 4
"""How many cells a sentence names; of more it has the number."""


def of_directions(denoised: xr.Dataset, noised: xr.Dataset, metric: str | None = None, least: float = 0.9) -> str:
    """By how much denoising and noising differ, and which cells are sufficient and which are necessary.

    Args:
        denoised: From ``sweep`` or ``path_patch``, clean into corrupted.
        noised: The same cells, corrupted into clean.
        metric: Which metric; each result's first when None.
        least: The effect above which a cell is called sufficient (denoising) or necessary (noising).

    Returns:
        A sentence, or that there is no contrast.

    Raises:
        SweepError: Results of other cells, or in other directions; or as ``of_cells``.

    Example:
        Two heads of which one is enough:

        >>> toy = patchlib.toys.or_gate()
        >>> both = [
        ...     patchlib.sweep(toy.model, toy.task, "z", ("layer", "head"), direction, progress=False)
        ...     for direction in ("denoise", "noise")
        ... ]
        >>> print(patchlib.plots.takeaways.of_directions(*both))
        The two differ by ... at most (L...H...: denoising ..., noising 0.00) and by 0.2... on average. Sufficient,
        above 0.9 in denoising: L0H1, L1H2. Necessary, above 0.9 in noising: no cell of 8.
    """
    check_fraction("least", least)
    denoised, noised = (
        stats.one_metric(stats.check_result(result, "patched"), metric) for result in (denoised, noised)
    )
    if (denoised.attrs["direction"], noised.attrs["direction"]) != ("denoise", "noise"):
        raise SweepError("The first result must be of direction 'denoise' and the second of direction 'noise'.")
    stats.check_same_cells(denoised, noised)
    dims = cell_dims(denoised)
    effects = {"denoising": stats.effect(denoised), "noising": stats.effect(noised)}
    table = xr.Dataset(effects).isel(metric=0).reset_coords(drop=True).to_dataframe(dim_order=dims).reset_index()
    table = table.dropna(subset=list(effects), ignore_index=True)
    if table.empty:
        return no_effect(denoised)
    table["cell"] = cell_names(table[dims])
    gap = abs(table.denoising - table.noising)
    at = table.iloc[int(gap.argmax())]
    above = [_listed(table.cell[table[name] > least].to_list(), len(table)) for name in effects]
    where = f"{at.cell}: denoising {_rounded(at.denoising)}, noising {_rounded(at.noising)}"
    return (
        f"The two differ by {gap.max():.2f} at most ({where}) and by {gap.mean():.2g} on average. "
        f"Sufficient, above {least} in denoising: {above[0]}. Necessary, above {least} in noising: {above[1]}."
    )


def _listed(cells: list[str], n: int) -> str:
    """The names of few cells, the number of many."""
    if not cells:
        return f"no cell of {n}"
    return ", ".join(cells) if len(cells) <= NAMED else f"{len(cells)} of {n} cells"


def _rounded(effect: float) -> str:
    """Two decimals, without a minus before 0."""
    return f"{round(effect, 2) + 0:.2f}"


def of_groups(table: pd.DataFrame, what: str = "group") -> str:
    """Which cells have another effect in one group of prompts than in the other.

    Args:
        table: From ``stats.effects_by_group``, or some of its rows.
        what: What tells the groups apart, such as "template order".

    Returns:
        A sentence: those cells whose interval of the difference leaves out 0.

    Example:
        >>> columns = pd.MultiIndex.from_product([["ABBA", "BABA", "difference"], ["effect", "ci_low", "ci_high", "n"]])
        >>> differs = [0.3, 0.2, 0.4, 8, 0.1, 0, 0.2, 8, 0.2, 0.1, 0.3, 16]
        >>> alike = [0.2, 0, 0.4, 8, 0.2, 0, 0.3, 8, 0, -1, 1, 16]
        >>> table = pd.DataFrame([differs, alike], ["L17H4", "L20H0"], columns)
        >>> print(patchlib.plots.takeaways.of_groups(table, "order"))
        By order 1 of 2 cells differs: L17H4 has 0.30 in ABBA and 0.10 in BABA, a difference of 0.20 [0.10, 0.30].
    """
    check_table(table, "stats.effects_by_group", "difference")
    first, second = (name for name in table.columns.unique(level=0) if name != "difference")
    differs = table[(table["difference"].ci_low > 0) | (table["difference"].ci_high < 0)]
    if differs.empty:
        return f"By {what} none of {len(table)} cells can be told to differ."
    each = [
        f"{cell} has {row[first].effect:.2f} in {first} and {row[second].effect:.2f} in {second}, a difference of "
        f"{row['difference'].effect:.2f}{interval(row['difference'])}"
        for cell, row in differs.iterrows()
    ]
    count = f"{len(differs)} of {len(table)} cells {'differs' if len(differs) == 1 else 'differ'}"
    return f"By {what} {count}: {'; '.join(each)}."


def of_null(table: pd.DataFrame, most: int = NAMED) -> str:
    """How many effects are larger than anything that patches do which should do nothing.

    Args:
        table: From ``stats.beside_null``.
        most: How many cells are named.

    Returns:
        Two sentences.

    Raises:
        SweepError: Another table, or ``most`` below 1.

    Example:
        >>> columns = {"layer": [3, 9], "effect": [0.9, 0.02], "ci_low": [0.8, -0.1], "ci_high": [1.0, 0.1]}
        >>> table = pd.DataFrame({**columns, "null_effect": [0.01, -0.04], "exceeds": [True, False]})
        >>> print(patchlib.plots.takeaways.of_null(table))
        Between prompts with the same answer a patch moves the metric by up to 0.04 of the contrast (L9). Of 2 cells 1
        does more and is told from 0: L3 (0.90).
    """
    check_table(table, "stats.beside_null", "effect", "ci_low", "ci_high", "null_effect", "exceeds")
    check_count("most", most)
    names = cell_names(table)
    if table.null_effect.isna().all():
        return "The null set has none of these cells."
    at = int(abs(table.null_effect).argmax())
    said = (
        f"Between prompts with the same answer a patch moves the metric by up to {abs(table.null_effect).max():.2f} of "
        f"the contrast ({names[at]})."
    )
    exceeding = [i for i, exceeds in enumerate(table.exceeds) if exceeds]
    if not exceeding:
        return f"{said} None of {len(table)} cells does more and is told from 0."
    first = ", ".join(f"{names[i]} ({table.effect.iloc[i]:.2f})" for i in exceeding[:most])
    more = f" and {len(exceeding) - most} more" if len(exceeding) > most else ""
    verb = "does more and is" if len(exceeding) == 1 else "do more and are"
    return f"{said} Of {len(table)} cells {len(exceeding)} {verb} told from 0: {first}{more}."


def of_replication(table: pd.DataFrame) -> str:
    """Which of the largest cells other prompts confirm, and how much smaller they are there.

    Args:
        table: From ``stats.replicated``.

    Returns:
        Two sentences.

    Raises:
        SweepError: Another table.

    Example:
        >>> columns = {"layer": [3, 9], "first": [0.9, 0.3], "second": [0.8, 0.1], "ci_low": [0.7, -0.1]}
        >>> table = pd.DataFrame({**columns, "ci_high": [0.9, 0.3], "n": 8, "holds": [True, False]})
        >>> print(patchlib.plots.takeaways.of_replication(table))
        Other prompts confirm 1 of the 2 largest: L3 (0.80 [0.70, 0.90]). Not confirmed: L9 (0.30 here, 0.10 [-0.10,
        0.30] there). In the mean they are 0.45 there for 0.60 here. n = 8.
    """
    check_table(table, "stats.replicated", "first", "second", "ci_low", "ci_high", "n", "holds")
    names = cell_names(table)
    rows = list(zip(names, table.itertuples(), strict=True))
    held = [f"{name} ({row.second:.2f}{interval(row)})" for name, row in rows if row.holds]
    lost = [
        f"{name} ({row.first:.2f} here, {row.second:.2f}{interval(row)} there)" for name, row in rows if not row.holds
    ]
    said = f"Other prompts confirm {len(held) or 'none'} of the {len(table)} largest"
    said += f": {', '.join(held)}." if held else "."
    if lost:
        said += f" Not confirmed: {', '.join(lost)}."
    sizes = f"{(table.second * np.sign(table['first'])).mean():.2f} there for {abs(table['first']).mean():.2f} here"
    return f"{said} In the mean they are {sizes}. n = {int(table.n.max())}."
