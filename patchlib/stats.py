"""From patched metrics to effects: ratio of means, its bootstrap interval, p-values, a table of the top cells."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from scipy.stats import bootstrap, false_discovery_control

from patchlib._util import cell_dims, check_choice, check_count, check_fraction, check_kind, check_seed, first_line
from patchlib.errors import SweepError

PerPrompt = Float[np.ndarray, " example"]
MIN_CONTRAST = 1.0
"""Smallest mean of clean minus corrupted that we divide by, in standard deviations of it over prompts."""
MIN_CONTRAST_OF_ONE = 0.1
"""The same for a single prompt, which has no spread: as a fraction of the larger of the two prompts' metrics.
And for those prompts that have a position: as a fraction of the contrast of all."""
HIGHER_IS_BETTER = ("logit_diff", "prob", "accuracy")
"""Metrics in which the clean prompts have to come out above the corrupted ones; of others we do not know."""
DIRECTIONS = ("denoise", "noise")
"""Clean into corrupted, or corrupted into clean."""
MOST_RESAMPLES = 1_000_000


def check_result(result: xr.Dataset, *variables: str) -> xr.Dataset:
    """The same result; SweepError where it is none, or lacks the two unpatched forwards or one of these variables."""
    mend = "give what patchlib.sweep, path_patch or baseline returned"
    checked = check_kind("A result", result, xr.Dataset, mend)
    for name in ("clean", "corrupted", *variables):
        if name not in checked or not {"metric", "example"} <= set(checked[name].dims) or not checked[name].size:
            raise SweepError(f"A result without {name!r} over metric and example cannot be read: {mend}.")
        if checked[name].dtype.kind not in "fiu":
            raise SweepError(f"A result whose {name!r} has no real numbers cannot be read: {mend}.")
    if variables:
        check_choice("direction", checked.attrs.get("direction"), DIRECTIONS)
    return checked


def contrast(result: xr.Dataset) -> pd.DataFrame:
    """What the two unpatched forwards give, one row a metric.

    A contrast is usable where the difference is at least ``MIN_CONTRAST`` times its own spread over prompts and
    the clean prompts are the better ones. Swapping the names of IOI's first clause, for example, leaves the answer as
    it was: what remains is a preference for one order of names, small, and of either sign.

    Args:
        result: From ``sweep``, ``path_patch`` or ``baseline``.

    Returns:
        Columns ``clean``, ``corrupted`` (means over prompts), ``difference``, ``spread`` (standard deviation
        of the difference over prompts; NaN for a single prompt), all in the metric's units, ``n`` (prompts) and
        ``usable``; the metrics' names are the index.

    Raises:
        SweepError: This is no result.

    Example:
        Swapping the second subject changes the answer; swapping the order of the names does not:

        >>> for corruption in ("swap_subject", "swap_order"):
        ...     pairs = patchlib.IOIDataset(model, n_prompts=4, seed=0, corruption=corruption)
        ...     print(corruption, bool(patchlib.contrast(patchlib.baseline(model, pairs)).usable.item()))
        swap_subject True
        swap_order False
    """
    result = check_result(result)
    unpatched = result[["clean", "corrupted"]].astype("float64")  # of which rounding makes numbers that can be read
    difference = unpatched.clean - unpatched.corrupted
    n = result.sizes["example"]
    spread = difference.std("example", ddof=1).values if n > 1 else np.nan
    table = unpatched.mean("example").to_dataframe()[["clean", "corrupted"]]
    table = table.assign(difference=difference.mean("example").values, spread=spread, n=n)
    gap = table.difference.where(table.index.isin(HIGHER_IS_BETTER), table.difference.abs())
    larger = np.maximum(table.clean.abs(), table.corrupted.abs())
    least = MIN_CONTRAST * table.spread if n > 1 else MIN_CONTRAST_OF_ONE * larger
    table["usable"] = (gap >= least) & (gap > 1e-4 * larger)  # the latter is float noise
    return table


def moved_and_possible(result: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """How far each patch moved each prompt's metric, and how far the two unpatched forwards are apart."""
    result = check_result(result, "patched")
    base, other = result.corrupted, result.clean
    if result.attrs["direction"] == "noise":
        base, other = other, base
    return result.patched - base, other - base


def effect(result: xr.Dataset) -> xr.DataArray:
    """How far each patch moves the behaviour from the base prompts to the other ones: ratio of means over prompts.

    ``mean(patched - base) / mean(other - base)``, where base are the prompts patched into: 0 means nothing moved,
    1 all of it, and below 0 the patch pushes the other way (negative heads). It is never clipped. A mean of
    per-prompt ratios would explode wherever one prompt's contrast happens to be near 0.

    Args:
        result: From ``sweep`` or ``path_patch``.

    Returns:
        A fraction, dims ``metric`` and the swept axes; NaN where the contrast is too small (``contrast``), where no
        prompt has the position, or where those that have it hold less than a tenth of the contrast of all.

    Raises:
        SweepError: This is no result with patched metrics.

    Example:
        Two prompts, patched from a logit difference of -2 or -1 to 0 or 1, of 3 or 2 that would be possible:

        >>> variables = {"patched": [[0.0, 1.0]], "clean": [[3.0, 2.0]], "corrupted": [[-2.0, -1.0]]}
        >>> variables = {name: (("metric", "example"), values) for name, values in variables.items()}
        >>> result = xr.Dataset(variables, {"metric": ["logit_diff"]}, {"direction": "denoise"})
        >>> patchlib.stats.effect(result).item()  # (2 + 2) / (5 + 3)
        0.5
    """
    moved, distance = moved_and_possible(result)
    # Prompts without the position count neither above nor below the line.
    possible = distance.where(moved.notnull())
    usable = xr.DataArray(contrast(result).usable.to_numpy(), dims="metric")
    enough = possible.mean("example") / distance.mean("example") >= MIN_CONTRAST_OF_ONE
    ratio: xr.DataArray = moved.mean("example") / possible.mean("example")
    return ratio.where(usable & enough).astype("float32")


def one_metric(result: xr.Dataset, metric: str | None) -> xr.Dataset:
    """A result with one of its metrics only.

    Args:
        result: From ``sweep``, ``path_patch`` or ``baseline``.
        metric: Which metric; the result's first when None.

    Returns:
        The same variables, with an axis ``metric`` of length 1.

    Raises:
        SweepError: The result does not have that metric.

    Example:
        >>> unpatched = patchlib.baseline(model, task, metric=["logit_diff", "prob"])
        >>> dict(patchlib.stats.one_metric(unpatched, "prob").sizes)
        {'metric': 1, 'example': 4}
    """
    names = [str(name) for name in check_result(result).metric.values]
    return result.sel(metric=[names[0] if metric is None else check_choice("metric", metric, names)])


def _numbers(name: str, values: object, n_dims: int) -> Float[np.ndarray, "*row example"]:
    """Values as an array with this many axes, the last of them prompts; SweepError for what is none."""
    try:
        numbers = np.asarray(values, dtype="float64")
    except (TypeError, ValueError, OverflowError) as error:
        raise SweepError(f"The {name} cannot be read as numbers ({first_line(error)}).") from error
    if numbers.ndim != n_dims or not numbers.size:
        axes = "a number for each prompt" if n_dims == 1 else "a row of numbers, one for each prompt, for each mean"
        raise SweepError(f"The {name} must be {axes}, but have shape {list(numbers.shape)}.")
    return numbers


def _ratio_of_means(moved: np.ndarray, possible: np.ndarray, axis: int) -> Any:
    return moved.mean(axis) / possible.mean(axis)


def _check_resampling(confidence: object, seed: object, n_resamples: object) -> None:
    check_fraction("confidence", confidence)
    check_seed(seed)
    check_count("n_resamples", n_resamples, most=MOST_RESAMPLES)


def _bootstrap(
    samples: Sequence[np.ndarray], statistic: Callable[..., Any], confidence: float, seed: int, n_resamples: int
) -> tuple[Any, Any]:
    """Percentile interval of a statistic over the last axis, prompts, resampled alike in all samples."""
    _check_resampling(confidence, seed, n_resamples)
    if samples[0].shape[-1] < 2:  # a single prompt says nothing of how far others would be from it
        return np.full(samples[0].shape[:-1], np.nan), np.full(samples[0].shape[:-1], np.nan)
    interval = bootstrap(
        samples,
        statistic,
        axis=-1,
        paired=len(samples) > 1,
        confidence_level=confidence,
        n_resamples=n_resamples,
        batch=100,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return interval.low, interval.high


def effect_interval(
    result: xr.Dataset, metric: str | None = None, confidence: float = 0.95, seed: int = 0, n_resamples: int = 1000
) -> xr.Dataset:
    """Percentile bootstrap interval of ``effect`` over prompts, the same resampled prompts above and below the line.

    The bootstrap is that of Efron and Tibshirani 1993, "An introduction to the bootstrap", chapter 13.

    Args:
        result: From ``sweep`` or ``path_patch``.
        metric: Which metric; the result's first when None.
        confidence: Coverage aimed at. With fewer than about 20 prompts the interval is too narrow.
        seed: Of the resampling.
        n_resamples: Number of bootstrap samples.

    Returns:
        Variables ``low`` and ``high`` over the swept axes; NaN with a single prompt (or a single one that has
        the position) or where the effect is NaN.

    Raises:
        SweepError: The result does not have that metric, ``confidence`` is no fraction, or ``n_resamples`` no count.

    Example:
        >>> result = patchlib.sweep(model, task, "z", ("layer", "head"), layers=[20], heads=[0], progress=False)
        >>> interval = patchlib.effect_interval(result)
        >>> bool(interval.low.item() < result.effect.item() < interval.high.item())
        True
        >>> bool(interval.low.item() > 0)  # a head whose effect is not one of chance
        True
    """
    _check_resampling(confidence, seed, n_resamples)
    result = one_metric(check_result(result, "patched"), metric)
    dims = cell_dims(result)
    moved, possible = (part.isel(metric=0) for part in moved_and_possible(result))
    moved = moved.transpose(*dims, "example")
    possible = possible.broadcast_like(moved).transpose(*dims, "example")
    point = effect(result).isel(metric=0, drop=True).transpose(*dims)
    low, high = (xr.full_like(point, np.nan) for _ in range(2))
    has_effect = point.notnull().values  # [*axes]
    has_position = moved.notnull().values  # [*axes example]
    # Cells that the same prompts have go together: a resample holds only prompts that have the position.
    for prompts in np.unique(has_position[has_effect], axis=0):
        cells = has_effect & (has_position == prompts).all(-1)
        samples = [part.values[cells][:, prompts].astype("float64") for part in (moved, possible)]  # [cell example]
        low.values[cells], high.values[cells] = _bootstrap(samples, _ratio_of_means, confidence, seed, n_resamples)
    return xr.Dataset({"low": low, "high": high}, attrs={"confidence": confidence, "seed": seed})


def mean_interval(
    values: Float[np.ndarray, "row example"], confidence: float = 0.95, seed: int = 0, n_resamples: int = 1000
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """Percentile bootstrap interval of each row's mean over prompts.

    Args:
        values: A number for each row and prompt, in any units.
        confidence, seed, n_resamples: As for ``effect_interval``.

    Returns:
        Its low and its high ends, in the units of the values; NaN for a single prompt.

    Raises:
        SweepError: Values that are no such numbers, ``confidence`` no fraction, ``n_resamples`` or ``seed`` no count.

    Example:
        >>> low, high = patchlib.stats.mean_interval(np.array([[1.0, 2.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0]]))
        >>> low.tolist(), high.tolist()
        ([1.25, 5.0], [2.75, 5.0])
    """
    values = _numbers("values", values, 2)
    return _bootstrap([values], np.mean, confidence, seed, n_resamples)


def ratio_interval(
    above: PerPrompt, below: PerPrompt, confidence: float = 0.95, seed: int = 0, n_resamples: int = 1000
) -> tuple[float, float]:
    """Percentile bootstrap interval of a ratio of means over the same prompts.

    Args:
        above: A number for each prompt, whose mean is above the line.
        below: And below it.
        confidence, seed, n_resamples: As for ``effect_interval``.

    Returns:
        The low and the high end; NaN for a single prompt.

    Raises:
        SweepError: As ``mean_interval``, or other numbers of prompts above and below the line.

    Example:
        Where each prompt has the same ratio, resampling does not change it:

        >>> patchlib.stats.ratio_interval(np.array([1.0, 2.0, 4.0]), np.array([2.0, 4.0, 8.0]))
        (0.5, 0.5)
    """
    above, below = _numbers("above", above, 1), _numbers("below", below, 1)
    if len(above) != len(below):
        raise SweepError(f"{len(above)} numbers above the line and {len(below)} below: give both for the same prompts.")
    low, high = _bootstrap([above, below], _ratio_of_means, confidence, seed, n_resamples)
    return float(low), float(high)


def p_values(result: xr.Dataset, metric: str | None = None, seed: int = 0) -> xr.DataArray:
    """Two-sided sign-flip permutation p-value that a patch moves the metric by 0 on average, for every cell.

    Not corrected for the number of cells: ``summary_table`` is. Prompts that mirror one another are not
    independent, and the test does not know that. The test is Fisher's (1935, "The design of experiments",
    section 21), as TransformerLens computes it.

    Args:
        result: From ``sweep`` or ``path_patch``.
        metric: Which metric; the result's first when None.
        seed: Of the sign flips, where prompts are too many to try all of them.

    Returns:
        A probability over the swept axes; NaN where some prompt lacks the position.

    Raises:
        SweepError: The result does not have that metric.

    Example:
        Four prompts that all move the same way: of the 16 ways to flip their signs 2 give as large a mean.

        >>> result = patchlib.sweep(model, task, "z", ("layer", "head"), layers=[20], heads=[0], progress=False)
        >>> patchlib.stats.p_values(result).values
        array([[0.125]])
    """
    # Here, and not at the head, because they bring torch, which nothing else of this module needs.
    import torch
    from transformer_lens.utilities.statistics import derive_generator, sign_flip_permutation_pvalue

    seed, result = check_seed(seed), one_metric(check_result(result, "patched"), metric)
    moved = moved_and_possible(result)[0].isel(metric=0).transpose(*cell_dims(result), "example")
    flat = torch.from_numpy(moved.values.reshape(-1, result.sizes["example"]).astype("float64"))  # [cell example]
    of_cells = [
        sign_flip_permutation_pvalue(part, generator=derive_generator(seed, "sign-flip"))
        for part in torch.split(flat, 256)  # the exact test takes 4096 x prompts numbers a cell
    ]
    values = torch.cat(of_cells).where(~flat.isnan().any(-1), torch.nan)  # [cell]
    return moved.isel(example=0, drop=True).copy(data=values.numpy().reshape(moved.shape[:-1]))


def summary_table(
    result: xr.Dataset, top_k: int | None = 10, metric: str | None = None, confidence: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """The cells with the largest absolute effect.

    Args:
        result: From ``sweep`` or ``path_patch``.
        top_k: How many rows; None for all.
        metric: Which metric; the result's first when None.
        confidence: Of the bootstrap interval.
        seed: Of bootstrap and permutations.

    Returns:
        Columns: the swept axes (``head`` is called ``head_index``, as ``head`` is a method of a DataFrame),
        ``effect``, ``ci_low``, ``ci_high`` (fractions, ``effect_interval``), ``n`` (prompts), ``p_value`` (sign-flip)
        and ``p_adjusted`` (Benjamini and Hochberg 1995, over all cells of the sweep), sorted by absolute effect.

    Raises:
        SweepError: The result does not have that metric, top_k is below 1, or ``confidence`` is no fraction.

    Example:
        >>> result = patchlib.sweep(model, task, "z", ("layer", "head"), layers=[20], progress=False)
        >>> table = patchlib.summary_table(result, top_k=2)
        >>> table[["layer", "head_index", "effect", "ci_low", "ci_high", "n"]].round(2)
           layer  head_index  effect  ci_low  ci_high  n
        0     20           0    0.36    0.24     0.46  4
        1     20           1    0.01   -0.01     0.04  4
    """
    if top_k is not None:
        check_count("top_k", top_k)
    result = one_metric(check_result(result, "patched"), metric)
    dims = cell_dims(result)
    interval = effect_interval(result, confidence=confidence, seed=seed)
    effects, n = effect(result).isel(metric=0, drop=True), result.patched.isel(metric=0, drop=True).count("example")
    estimates = {"effect": effects, "ci_low": interval.low, "ci_high": interval.high}
    columns = xr.Dataset({**estimates, "n": n, "p_value": p_values(result, seed=seed)})
    table = columns.reset_coords(drop=True).to_dataframe(dim_order=dims).reset_index()
    table = table.rename(columns={"head": "head_index"}).assign(p_adjusted=np.nan)
    tested = table.p_value.notna()
    table.loc[tested, "p_adjusted"] = false_discovery_control(table.p_value[tested])
    return table.sort_values("effect", key=abs, ascending=False, ignore_index=True)[:top_k]
