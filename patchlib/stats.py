"""From patched metrics to effects: ratio of means, its bootstrap interval, p-values, a table of the top cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from scipy.stats import bootstrap, false_discovery_control
from transformer_lens.utilities.statistics import derive_generator, sign_flip_permutation_pvalue

from patchlib._util import cell_dims
from patchlib.errors import SweepError

MIN_CONTRAST = 1.0
"""Smallest mean of clean minus corrupted that we divide by, in standard deviations of it over prompts."""
MIN_CONTRAST_OF_ONE = 0.1
"""The same for a single prompt, which has no spread: as a fraction of the larger of the two runs' metrics.
And for those prompts that have a position: as a fraction of the contrast of all."""
HIGHER_IS_BETTER = ("logit_diff", "prob", "accuracy")
"""Metrics in which the clean run has to come out above the corrupted one; of others we do not know."""


def _base_and_other(result: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """(the run patched into, the run patched from)."""
    runs = result.corrupted, result.clean
    return runs if result.attrs["direction"] == "denoise" else runs[::-1]


def contrast(result: xr.Dataset) -> pd.DataFrame:
    """What the two unpatched runs give, one row a metric.

    A contrast is usable where the difference is at least ``MIN_CONTRAST`` times its own spread over prompts and
    the clean run is the better one. Swapping the names of IOI's first clause, for example, leaves the answer as
    it was: what remains is a preference for one order of names, small, and of either sign.

    Returns:
        Columns ``clean``, ``corrupted`` (means over prompts), ``difference``, ``spread`` (standard deviation
        of the difference over prompts; NaN for a single prompt), ``n`` and ``usable``.
    """
    runs = result[["clean", "corrupted"]].astype("float64")  # of which rounding makes numbers that can be read
    difference = runs.clean - runs.corrupted
    n = result.sizes["example"]
    clean, corrupted = (runs[run].mean("example").values for run in ("clean", "corrupted"))
    table = pd.DataFrame(
        {
            "clean": clean,
            "corrupted": corrupted,
            "difference": difference.mean("example").values,
            "spread": difference.std("example", ddof=1).values if n > 1 else np.nan,
            "n": n,
        },
        index=pd.Index(result.metric.values, name="metric"),
    )
    size = table.difference.where(table.index.isin(HIGHER_IS_BETTER), table.difference.abs())
    larger = np.maximum(table.clean.abs(), table.corrupted.abs())
    least = MIN_CONTRAST * table.spread if n > 1 else MIN_CONTRAST_OF_ONE * larger
    table["usable"] = (size >= least) & (size > 1e-4 * larger)  # the latter is float noise
    return table


def effect(result: xr.Dataset) -> xr.DataArray:
    """How far each patch moves the behaviour from the base run to the other: ratio of means over prompts.

    ``mean(patched - base) / mean(other - base)``, where base is the run patched into: 0 means nothing moved,
    1 all of it, and below 0 the patch pushes the other way (negative heads). It is never clipped. A mean of
    per-prompt ratios would explode wherever one prompt's contrast happens to be near 0.

    Returns:
        Dims ``metric`` and the swept axes; NaN where the contrast is too small (``contrast``), where no
        prompt has the position, or where those that have it hold less than a tenth of the contrast of all.
    """
    base, other = _base_and_other(result)
    moved = result.patched - base
    # Prompts without the position count neither above nor below the line.
    possible = (other - base).where(moved.notnull())
    usable = xr.DataArray(contrast(result).usable.to_numpy(), dims="metric")
    enough = possible.mean("example") / (other - base).mean("example") >= MIN_CONTRAST_OF_ONE
    return (moved.mean("example") / possible.mean("example")).where(usable & enough).astype("float32")


def one_metric(result: xr.Dataset, metric: str | None) -> xr.Dataset:
    """The result with one metric only (the first when None), its axis kept; SweepError for one that it lacks."""
    names = list(result.metric.values)
    if metric is not None and metric not in names:
        raise SweepError(f"This result has no metric {metric!r}; it has {', '.join(map(str, names))}.")
    return result.sel(metric=[names[0] if metric is None else metric])


def _ratio_of_means(moved: np.ndarray, possible: np.ndarray, axis: int) -> np.ndarray:
    return moved.mean(axis) / possible.mean(axis)


def _bootstrap(
    parts: Sequence[np.ndarray], statistic: Callable, confidence: float, seed: int, n_resamples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of a statistic over the last axis, prompts, resampled alike in all parts."""
    found = bootstrap(
        parts, statistic, axis=-1, paired=len(parts) > 1, confidence_level=confidence, n_resamples=n_resamples,
        batch=100, method="percentile", rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return found.low, found.high


def effect_interval(
    result: xr.Dataset, metric: str | None = None, confidence: float = 0.95, seed: int = 0, n_resamples: int = 1000
) -> xr.Dataset:
    """Percentile bootstrap interval of ``effect`` over prompts, the same resampled prompts above and below the line.

    Args:
        result: From ``sweep``.
        metric: Which metric; the result's first when None.
        confidence: Coverage aimed at. With fewer than about 20 prompts the interval is too narrow.
        seed: Of the resampling.
        n_resamples: Number of bootstrap samples.

    Returns:
        Variables ``low`` and ``high`` over the swept axes; NaN with a single prompt (or a single one that has
        the position) or where the effect is NaN.

    Raises:
        SweepError: The result does not have that metric, or ``confidence`` is no fraction.
    """
    if not 0 < confidence < 1:
        raise SweepError(f"confidence must lie between 0 and 1, such as 0.95, not {confidence}.")
    result = one_metric(result, metric)
    base, other = _base_and_other(result)
    dims = cell_dims(result)
    moved = (result.patched - base).isel(metric=0).transpose(*dims, "example")
    possible = (other - base).isel(metric=0).broadcast_like(moved).transpose(*dims, "example")
    point = effect(result).isel(metric=0, drop=True).transpose(*dims)
    low, high = (xr.full_like(point, np.nan) for _ in range(2))
    known = point.notnull().values
    here = moved.notnull().values
    # Cells that the same prompts have go together: a resample holds only prompts that have the position.
    for some in np.unique(here[known], axis=0):
        cells = known & (here == some).all(-1)
        if some.sum() < 2:
            continue
        parts = [part.values[cells][:, some].astype("float64") for part in (moved, possible)]
        low.values[cells], high.values[cells] = _bootstrap(parts, _ratio_of_means, confidence, seed, n_resamples)
    return xr.Dataset({"low": low, "high": high}, attrs={"confidence": confidence, "seed": seed})


def mean_interval(
    values: Float[np.ndarray, "row example"], confidence: float = 0.95, seed: int = 0, n_resamples: int = 1000
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """Percentile bootstrap interval of each row's mean over prompts; NaN for a single prompt."""
    if values.shape[1] < 2:
        return np.full(len(values), np.nan), np.full(len(values), np.nan)
    return _bootstrap([values], np.mean, confidence, seed, n_resamples)


def ratio_interval(
    above: Float[np.ndarray, " example"],
    below: Float[np.ndarray, " example"],
    confidence: float = 0.95,
    seed: int = 0,
    n_resamples: int = 1000,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a ratio of means over the same prompts; NaN for a single prompt."""
    if len(above) < 2:
        return np.nan, np.nan
    low, high = _bootstrap([above, below], _ratio_of_means, confidence, seed, n_resamples)
    return float(low), float(high)


def p_values(result: xr.Dataset, metric: str | None = None, seed: int = 0) -> xr.DataArray:
    """Two-sided sign-flip permutation p-value that a patch moves the metric by 0 on average, for every cell.

    Not corrected for the number of cells: ``summary_table`` is. Prompts that mirror one another are not
    independent, and the test does not know that.

    Returns:
        Over the swept axes; NaN where some prompt lacks the position.
    """
    result = one_metric(result, metric)
    dims = cell_dims(result)
    moved = (result.patched - _base_and_other(result)[0]).isel(metric=0).transpose(*dims, "example")
    flat = torch.from_numpy(moved.values.reshape(-1, result.sizes["example"]).astype("float64"))
    found = [
        sign_flip_permutation_pvalue(part, generator=derive_generator(seed, "sign-flip"))
        for part in flat.split(256)  # the exact test takes 4096 x prompts numbers a cell
    ]
    values = torch.cat(found).where(~flat.isnan().any(-1), torch.nan)
    return moved.isel(example=0, drop=True).copy(data=values.numpy().reshape(moved.shape[:-1]))


def summary_table(
    result: xr.Dataset, top_k: int | None = 10, metric: str | None = None, confidence: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """The cells with the largest absolute effect.

    Args:
        result: From ``sweep``.
        top_k: How many rows; None for all.
        metric: Which metric; the result's first when None.
        confidence: Of the bootstrap interval.
        seed: Of bootstrap and permutations.

    Returns:
        Columns: the swept axes, ``effect``, ``ci_low``, ``ci_high``, ``n`` (prompts), ``p_value`` (sign-flip)
        and ``p_adjusted`` (Benjamini-Hochberg over all cells of the sweep), sorted by absolute effect.

    Raises:
        SweepError: The result does not have that metric, or top_k is below 1.
    """
    if top_k is not None and top_k < 1:
        raise SweepError(f"top_k must be at least 1, not {top_k}.")
    dims = cell_dims(result)
    interval = effect_interval(result, metric, confidence, seed)
    columns = xr.Dataset(
        {
            "effect": effect(one_metric(result, metric)).isel(metric=0, drop=True),
            "ci_low": interval.low,
            "ci_high": interval.high,
            "n": one_metric(result, metric).patched.isel(metric=0, drop=True).count("example"),
            "p_value": p_values(result, metric, seed),
        }
    )
    columns = columns.drop_vars([name for name in columns.coords if name not in dims])
    table = columns.to_dataframe(dim_order=dims).reset_index()
    known = table.p_value.notna()
    table["p_adjusted"] = np.nan
    if known.any():
        table.loc[known, "p_adjusted"] = false_discovery_control(table.p_value[known])
    order = table.effect.abs().sort_values(ascending=False, na_position="last").index
    return table.loc[order].head(top_k if top_k is not None else len(table)).reset_index(drop=True)
