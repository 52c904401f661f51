"""What estimates, their gaps, edges and curves say in words."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from patchlib._util import check_count, check_fraction, check_kind
from patchlib.circuits.curves import FaithfulnessCurve
from patchlib.errors import SweepError
from patchlib.patching.attribution.agreement import agreement, paired_effects
from patchlib.patching.attribution.edge_table import edge_table
from patchlib.plots.wording import interval


def of_estimates(
    estimates: Mapping[str, xr.Dataset] | xr.Dataset, exact: xr.Dataset | None = None, top_k: int = 10
) -> str:
    """For each estimate both correlations, how many of the largest cells it finds, and its largest miss.

    Args:
        estimates: From ``attribute``; or several of the same cells by name.
        exact: From ``sweep`` of the same cells; when None, each estimate's own checked cells.
        top_k: How many of the largest cells are compared.

    Returns:
        A sentence for each estimate.

    Raises:
        SweepError: As ``agreement``.

    Example:
        >>> estimate = patchlib.attribute(model, task, "mlp_out", ("layer",), check_top=30, progress=False)
        >>> print(patchlib.plots.takeaways.of_estimates({"gradient": estimate}))
        gradient: Pearson ..., Spearman ..., ... of the ten largest of 30 cells; it misses L0 most, ...
    """
    paired = paired_effects(estimates, exact)
    sentences = []
    for name, row in zip(paired, agreement(estimates, exact, top_k).to_dict("records"), strict=True):
        if not row["n_cells"]:
            sentences.append(f"{name}: no cell has an effect to compare.")
            continue
        missed = paired[name][paired[name].cell == row["largest_miss_at"]].iloc[0]
        largest = "ten" if row["top_k"] == 10 else str(row["top_k"])
        sentences.append(
            f"{name}: Pearson {_correlation(row['pearson'])}, Spearman {_correlation(row['spearman'])}, "
            f"{row['top_k_shared']} of the {largest} largest of {row['n_cells']} cells; it misses {missed.cell} most, "
            f"{missed.estimated:.2f} for {missed.exact:.2f}."
        )
    return " ".join(sentences)


def _correlation(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:.2f}"


def of_gap(estimate: xr.Dataset) -> str:
    """How far the scores of an integrated estimate are from summing to what they should, in the mean and at worst.

    Args:
        estimate: From ``attribute(..., method="integrated")``.

    Returns:
        One sentence.

    Raises:
        SweepError: The estimate has no gap: it is not an integrated one.

    Example:
        >>> how = {"method": "integrated", "steps": 20, "progress": False}
        >>> estimate = patchlib.attribute(model, task, "z", ("layer", "head"), layers=[20], **how)
        >>> print(patchlib.plots.takeaways.of_gap(estimate))
        Scores of the whole way sum to 7.4... of 7.4... in the mean; a prompt's sum is off by 0% to ...% of it.
    """
    check_kind("An estimate", estimate, xr.Dataset, "give what patchlib.attribute returned")
    if "gap" not in estimate:
        raise SweepError("This estimate has no gap: give what attribute(..., method='integrated') returned.")
    first = estimate.isel(metric=0)
    gap = first.gap if "layer" not in first.gap.dims else first.gap.isel(layer=abs(first.gap).mean("example").argmax())
    whole = (first.clean - first.corrupted) * (1 if estimate.attrs["direction"] == "denoise" else -1)
    off = abs(gap / whole)
    spread = f"a prompt's sum is off by {float(off.min()):.0%} to {float(off.max()):.0%} of it"
    return (
        f"Scores of the whole way sum to {float((whole + gap).mean()):.2f} of {float(whole.mean()):.2f} in the mean; "
        f"{spread}."
    )


def of_edges(scores: xr.Dataset, top_k: int = 3) -> str:
    """The edges with the largest scores, and how few of them hold half of all.

    Args:
        scores: From ``attribute_edges``.
        top_k: How many are named.

    Returns:
        One sentence.

    Raises:
        SweepError: These are no scores of edges; ``top_k`` below 1.

    Example:
        >>> scores = patchlib.attribute_edges(model, task, progress=False)
        >>> print(patchlib.plots.takeaways.of_edges(scores, top_k=1))
        Largest edge: ...; ... of ... edges hold half of the size of all scores.
    """
    check_count("top_k", top_k)
    table = edge_table(scores, None)
    size = abs(table.score).cumsum()
    n_half = int((size < size.iloc[-1] / 2).sum()) + 1
    place = [name for name in ("role", "pos") if name in table]
    named = [
        f"{row.sender} to {row.receiver}{''.join(f' at {getattr(row, name)}' for name in place)} ({row.share:+.2f})"
        for row in table.head(top_k).itertuples()
    ]
    return (
        f"Largest edge{'s' if len(named) > 1 else ''}: {', '.join(named)}; {n_half} of {len(table)} edges hold half of "
        "the size of all scores."
    )


def of_curve(curve: FaithfulnessCurve, least: float = 0.8) -> str:
    """The least share from which on each kind of circuit is faithful, the two areas, and random circuits beside them.

    Args:
        curve: From ``faithfulness_curve``.
        least: What counts as faithful: within as much of 1 on either side.

    Returns:
        For each ablation a sentence for edges and one for nodes where there are any, and one for the first one's random
        circuits.

    Raises:
        SweepError: Not such a curve, or ``least`` is no fraction.

    Example:
        >>> scores = patchlib.attribute_edges(model, task, progress=False)
        >>> ablation = patchlib.EdgeAblation(model, task)
        >>> curve = patchlib.faithfulness_curve(ablation, scores, shares=[0.05, 0.5, 1], nodes=False)
        >>> print(patchlib.plots.takeaways.of_curve(curve))
        Edges by size ... CPR ... CMD ...
    """
    check_kind("A curve", curve, FaithfulnessCurve, "give what patchlib.faithfulness_curve returned")
    check_fraction("least", least)
    areas, table = curve.areas.set_index(["source", "of", "ranking"]), curve.table
    sentences, sources = [], curve.areas.source.unique()
    for source, of in curve.areas[["source", "of"]].drop_duplicates().itertuples(index=False):
        rows = table[(table.source == source) & (table.of == of) & (table.ranking == "magnitude")]
        cmd, cpr = areas.cmd[source, of, "magnitude"], areas.cpr[source, of, "signed"]
        named = f"{of.capitalize()} by size" + f" ({source})" * (len(sources) > 1)
        sentences.append(f"{named} {_faithful_from(rows, least)}; CMD {cmd:.2f} (by size), CPR {cpr:.2f} (by sign).")
    drawn = curve.areas[curve.areas.ranking.str.startswith("random") & (curve.areas.source == sources[0])]
    if len(drawn):
        said = "Random edges" if len(drawn) == 1 else f"Random edges, mean of {len(drawn)} draws"
        sentences.append(f"{said}: CMD {drawn.cmd.mean():.2f}, CPR {drawn.cpr.mean():.2f}.")
        if areas.cmd[sources[0], "edges", "magnitude"] >= drawn.cmd.min():
            sentences.append("Edges by size are no closer to 1 than random ones: these scores find no circuit.")
    return " ".join(sentences)


def _faithful_from(rows: pd.DataFrame, least: float) -> str:
    """From which share on all larger circuits are faithful."""
    rows = rows.reset_index(drop=True)
    faithful = (abs(rows.faithfulness - 1) <= 1 - least + 1e-9).to_numpy()
    first = 0 if faithful.all() else int(np.flatnonzero(~faithful)[-1]) + 1
    if first == len(rows):
        return f"are never within {1 - least:.1f} of 1"
    row = rows.iloc[first]
    return (
        f"are within {1 - least:.1f} of 1 from {row.share:.2%} on ({row.n_edges} edges, {row.faithfulness:.2f}"
        f"{interval(row)}, n = {row.n})"
    ).replace(".00%", "%")
