"""How well estimates agree with what patching gives, cell by cell."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from patchlib._util import cell_dims, cell_name, check_count, check_kind
from patchlib.errors import SweepError
from patchlib.stats import check_result


def agreement(
    estimates: Mapping[str, xr.Dataset] | xr.Dataset, exact: xr.Dataset | None = None, top_k: int = 10
) -> pd.DataFrame:
    """Compare estimated effects with exact ones: in size, in order, and in which cells are the largest.

    No one number tells it: Pearson's correlation is made by a few large cells, Spearman's by the many small ones.

    Args:
        estimates: From ``attribute``; or several of the same cells by name, such as
            ``{"gradient": gradient, "five steps": integrated}``.
        exact: From ``sweep`` of the same cells; when None, each estimate is compared where it was checked
            (``check_top``).
        top_k: How many of the largest cells are compared.

    Returns:
        A row for each estimate: ``pearson``, ``spearman`` (of the effects, NaN where one of them does not vary),
        ``top_k_shared`` (how many of the ``top_k`` exact effects of the largest size are among as many estimated ones),
        ``top_k`` (fewer where there are fewer cells), ``largest_miss`` (of the effect, estimated minus exact),
        ``largest_miss_at`` (the cell's name) and ``n_cells``. All of the first metric.

    Raises:
        SweepError: No estimates, nothing exact to compare them with, or something exact of other cells.

    Example:
        >>> estimate = patchlib.attribute(model, task, "z", ("layer", "head"), check_top=10, progress=False)
        >>> table = patchlib.agreement(estimate, top_k=5)
        >>> int(table.top_k_shared.iloc[0]), int(table.n_cells.iloc[0]), bool(table.pearson.iloc[0] > 0.9)
        (5, 20, True)
    """
    check_count("top_k", top_k)
    rows = {name: _row(pairs, top_k) for name, pairs in paired_effects(estimates, exact).items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def paired_effects(
    estimates: Mapping[str, xr.Dataset] | xr.Dataset, exact: xr.Dataset | None = None
) -> dict[str, pd.DataFrame]:
    """For each estimate a row for each cell that has both: ``cell`` (its name), ``estimated`` and ``exact``."""
    named = {"estimate": estimates} if isinstance(estimates, xr.Dataset) else estimates
    mend = "give what patchlib.attribute returned, or {name: estimate}"
    check_kind("Estimates", named, Mapping, mend)
    if not named:
        raise SweepError(f"There is no estimate to compare: {mend}.")
    return {str(name): _pairs(check_result(result, "patched"), exact) for name, result in named.items()}


def _pairs(estimate: xr.Dataset, exact: xr.Dataset | None) -> pd.DataFrame:
    if exact is None:
        if "exact_effect" not in estimate:
            raise SweepError(
                "Nothing exact to compare with: give exact=, a sweep of the same cells, or attribute(..., check_top=)."
            )
        other = estimate.exact_effect
    else:
        other = check_result(exact, "patched").effect
        told = ("site", "direction", "positions", "source")
        differ = [name for name in told if exact.attrs.get(name) != estimate.attrs.get(name)]
        if differ or exact.metric.values[0] != estimate.metric.values[0]:
            raise SweepError(f"Estimate and sweep differ in {', '.join(differ) or 'metric'}: give those of one patch.")
    dims = cell_dims(estimate)
    own = estimate.effect.isel(metric=0, drop=True).reset_coords(drop=True)
    other = other.isel(metric=0, drop=True).reset_coords(drop=True)
    if set(own.dims) != set(other.dims) or any(list(own[dim].values) != list(other[dim].values) for dim in dims):
        raise SweepError("The estimate is of other cells than the sweep: give the same axes to both.")
    table = xr.Dataset({"estimated": own, "exact": other}).to_dataframe(dim_order=dims).reset_index().dropna()
    names = [cell_name({axis: row[axis] for axis in dims}) for row in table.to_dict("records")]
    return table[["estimated", "exact"]].assign(cell=names).reset_index(drop=True)


def _row(pairs: pd.DataFrame, top_k: int) -> dict[str, object]:
    k = min(top_k, len(pairs))
    largest = [set(abs(pairs[kind]).nlargest(k).index) for kind in ("estimated", "exact")]
    miss = pairs.estimated - pairs.exact
    varies = len(pairs) > 1 and pairs.estimated.nunique() > 1 and pairs.exact.nunique() > 1
    at = int(abs(miss).to_numpy().argmax()) if len(pairs) else None
    return {
        "pearson": pairs.estimated.corr(pairs.exact) if varies else np.nan,
        "spearman": pairs.estimated.corr(pairs.exact, method="spearman") if varies else np.nan,
        "top_k_shared": len(set.intersection(*largest)),
        "top_k": k,
        "largest_miss": np.nan if at is None else miss.iloc[at],
        "largest_miss_at": "" if at is None else pairs.cell.iloc[at],
        "n_cells": len(pairs),
    }
