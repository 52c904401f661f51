"""Effects of two groups of prompts side by side: a mean over both can hide that they differ."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Shaped

from patchlib._util import cell_dims, cell_name, check_fraction, shown
from patchlib.errors import SweepError
from patchlib.stats.effects import effect
from patchlib.stats.intervals import mean_interval, numbered
from patchlib.stats.results import check_result, clusters_of, moved_and_possible, one_metric
from patchlib.stats.tables import effect_interval


def effects_by_group(
    result: xr.Dataset,
    labels: Sequence[str] | Shaped[np.ndarray, " example"],
    metric: str | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Each cell's effect in two groups of prompts, and the difference, with intervals.

    The difference of two ratios of means has no interval of Fieller's: it is linearised (delta method), so that each
    prompt adds its own error to it, and these have the interval of ``mean_interval``. A wording that is in both groups
    is one cluster, and what it adds to both cancels.

    Args:
        result: From ``sweep`` or ``path_patch``.
        labels: A group for each prompt, of two; such as ``[group.split(":")[0] for group in pairs.groups]``, which is
            the order of the names of each prompt of ``IOIDataset``, ABBA or BABA.
        metric: Which metric; the result's first when None.
        confidence: Coverage aimed at, of each interval by itself.

    Returns:
        A row for each cell, by its name (``L17H4``), those first whose effect over all prompts is largest in size.
        Columns: the two groups in the order of their first prompts, then ``difference`` (first minus second), and of
        each ``effect``, ``ci_low``, ``ci_high`` (fractions) and ``n`` (prompts). NaN where a group has no usable
        contrast; the difference has no interval where some prompt lacks the position.

    Raises:
        SweepError: Labels that are none, of other than two groups, or too few prompts in one of them (two are needed);
            or as ``summary_table``.

    Example:
        >>> result = patchlib.sweep(model, task, "z", ("layer", "head"), layers=[20], heads=[0], progress=False)
        >>> order = [group.split(":")[0] for group in task.to_pairs(model).groups]
        >>> table = patchlib.stats.effects_by_group(result, order)
        >>> table.xs("effect", axis=1, level=1).columns.to_list()
        ['ABBA', 'BABA', 'difference']
    """
    check_fraction("confidence", confidence)
    result = one_metric(check_result(result, "patched"), metric)
    groups = _two_groups(labels, result.sizes["example"])
    dims, n = cell_dims(result), result.sizes["example"]
    moved, possible = (part.isel(metric=0).transpose(..., "example") for part in moved_and_possible(result))
    parts: dict[str, xr.Dataset] = {}
    ratios, errors = [], []
    for name, examples in groups.items():
        picked = result.isel(example=examples)
        interval, ratio = effect_interval(picked, confidence=confidence), effect(picked).isel(metric=0, drop=True)
        n_group = picked.patched.isel(metric=0, drop=True).count("example")
        parts[name] = xr.Dataset({"effect": ratio, "ci_low": interval.low, "ci_high": interval.high, "n": n_group})
        # How far each prompt is from its group's ratio, so that their mean over all n prompts is the group's error;
        # the root makes the variance the unbiased one of this group alone.
        scale = n / len(examples) * np.sqrt(len(examples) / (len(examples) - 1) * (n - 1) / n)
        from_ratio = (moved - ratio * possible).isel(example=examples) / possible.isel(example=examples).mean("example")
        errors.append((from_ratio * scale).reindex(example=result.example, fill_value=0.0))
        ratios.append(ratio)
    difference = ratios[0] - ratios[1]
    values = (difference + errors[0] - errors[1]).transpose(*dims, "example")
    rows = values.values.reshape(-1, n).astype("float64")
    ends = mean_interval(rows, confidence, clusters_of(result))
    low, high = (difference.transpose(*dims).copy(data=end.reshape(values.shape[:-1])) for end in ends)
    parts["difference"] = xr.Dataset({"effect": difference, "ci_low": low, "ci_high": high, "n": n})
    tables = {name: part.reset_coords(drop=True).to_dataframe(dim_order=dims) for name, part in parts.items()}
    table = pd.concat(tables, axis=1)
    whole = effect(result).isel(metric=0, drop=True).transpose(*dims).to_series()
    table = table.loc[whole.sort_values(key=abs, ascending=False).index]
    cells = table.index.to_frame(index=False)
    names = [cell_name(dict(zip(dims, cell, strict=True))) for cell in cells.itertuples(index=False, name=None)]
    return table.set_axis(pd.Index(names, name="cell"), axis=0)


def _two_groups(labels: object, n: int) -> dict[str, np.ndarray]:
    """The numbers of each group's prompts; SweepError for what are no labels of two groups."""
    mend = "give one of two labels for each prompt"
    group_of, different = numbered("labels of groups", labels, mend)
    if len(group_of) != n:
        raise SweepError(f"{len(group_of)} labels of groups for {n} prompts: {mend}.")
    if len(different) != 2 or len({*map(str, different), "difference"}) != 3:
        raise SweepError(f"The labels name {len(different)} groups ({shown(list(different))}): {mend}.")
    groups = {str(name): np.flatnonzero(group_of == i) for i, name in enumerate(different)}
    for name, examples in groups.items():
        if len(examples) < 2:
            raise SweepError(f"The group {name} has a single prompt, which has no interval: give more prompts.")
    return groups
