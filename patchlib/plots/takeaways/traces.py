"""What causal traces say in words: beside another prompt's tokens, and with sublayers severed."""

import pandas as pd
import xarray as xr

from patchlib import stats
from patchlib._util import cell_dims
from patchlib.errors import SweepError
from patchlib.plots.wording import cell_names, check_corruptions, check_results, no_effect, with_interval


def of_corruptions(traced: xr.Dataset, swept: xr.Dataset, metric: str | None = None) -> str:
    """Where restoring finds the same with noise as with another prompt's tokens, and where it does not.

    Args:
        traced: From ``causal_trace``.
        swept: From ``sweep`` of the same cells and prompts, denoising.
        metric: Which metric; each result's first when None.

    Returns:
        Three sentences, or that there is no contrast. Intervals hold for all cells together.

    Raises:
        SweepError: Not these two, or not of the same cells, site and prompts.

    Example:
        >>> how = {"over": ("layer", "role"), "layers": [0, 15], "progress": False}
        >>> traced = patchlib.causal_trace(model, task, "S2", draws=2, **how)
        >>> print(patchlib.plots.takeaways.of_corruptions(traced, patchlib.sweep(model, task, **how)))
        Over 10 cells the effects with noise and with other tokens correlate by ... (Spearman). The largest is that of
        L15 at S2 with either. They differ most at L15 at S2: ...
    """
    check_corruptions(traced, swept)
    gap = stats.effect_difference(traced, swept, metric)
    dims = cell_dims(traced)
    effects = [stats.effect(stats.one_metric(result, metric)).isel(metric=0, drop=True) for result in (traced, swept)]
    columns = xr.Dataset({"noise": effects[0], "tokens": effects[1], **gap.data_vars}).reset_coords(drop=True)
    table = columns.to_dataframe(dim_order=dims).reset_index().dropna(subset=["noise", "tokens"], ignore_index=True)
    if table.empty:
        return next(no_effect(result) for result in (traced, swept) if stats.effect(result).isnull().all())
    names = cell_names(table[dims])
    top = [names[int(abs(table[kind]).argmax())] for kind in ("noise", "tokens")]
    largest = f"that of {top[0]} with either" if top[0] == top[1] else f"{top[0]} with noise, {top[1]} with tokens"
    at = int(abs(table.difference).argmax())
    row = table.iloc[at]
    ends = "" if pd.isna(row.low) else f" [{row.low:.2f}, {row.high:.2f}]"
    n_apart = int(((table.low > 0) | (table.high < 0)).sum())
    apart = "no cell can be told to differ" if not n_apart else f"{n_apart} of {len(table)} cells differ"
    varies = table.noise.nunique() > 1 and table.tokens.nunique() > 1
    alike = f"correlate by {table.noise.corr(table.tokens, method='spearman'):.2f} (Spearman)" if varies else "stand"
    return (
        f"Over {len(table)} cells the effects with noise and with other tokens {alike}. The largest is {largest}. "
        f"They differ most at {names[at]}: {row.noise:.2f} with noise, {row.tokens:.2f} with other tokens, a "
        f"difference of {row.difference:.2f}{ends}; {apart}."
    )


def of_severed(traced: xr.Dataset, severed: xr.Dataset, metric: str | None = None) -> str:
    """How much of a restored state's effect goes through the sublayers that were severed, where it is largest.

    Args:
        traced: From ``causal_trace``.
        severed: The same with ``severed=``.
        metric: Which metric; each result's first when None.

    Returns:
        One sentence, or that there is no contrast.

    Raises:
        SweepError: Nothing was severed in the second, or something in the first; other cells or prompts.

    Example:
        >>> how = {"over": ("layer",), "positions": "S2", "layers": [1], "draws": 2, "progress": False}
        >>> whole, cut = (patchlib.causal_trace(model, task, "S2", severed=which, **how) for which in (None, "mlp"))
        >>> print(patchlib.plots.takeaways.of_severed(whole, cut))
        The largest effect, that of L1 with ..., is ... with its MLPs severed: ...
    """
    check_results({"traced": traced, "severed": severed})
    if traced.attrs.get("severed") != "none" or severed.attrs.get("severed") not in ("mlp", "attn"):
        raise SweepError("Give a causal trace first, and second the same with severed='mlp' or 'attn'.")
    gap = stats.effect_difference(traced, severed, metric)
    table = stats.summary_table(traced, None, metric).dropna(subset="effect")
    if table.empty or gap.difference.isnull().all():
        return no_effect(traced)
    row = table.iloc[0]
    dims = cell_dims(traced)
    at = {dim: row["head_index" if dim == "head" else dim] for dim in dims}
    left = stats.effect(stats.one_metric(severed, metric)).isel(metric=0).sel(at).item()
    lost = gap.sel(at)
    low, high = lost.low.item(), lost.high.item()
    ends = "" if pd.isna(low) else f" [{low:.2f}, {high:.2f}]"
    what = {"mlp": "its MLPs", "attn": "its attention"}[severed.attrs["severed"]]
    return (
        f"The largest effect, that of {cell_names(table[:1])[0]} with {with_interval(row)}, is {left:.2f} with {what} "
        f"severed: {lost.difference.item():.2f}{ends} goes through them."
    )
