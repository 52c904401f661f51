"""What patching a subspace says in words, and what it does not say."""

import xarray as xr

from patchlib import stats
from patchlib.errors import SweepError
from patchlib.patching.subspaces import PLACEBO, WHOLE
from patchlib.plots.wording import no_effect, with_interval

LITTLE = 0.1
"""Of the squared distance between two states: a subspace with less of it that has most of the effect is suspicious."""


def of_subspaces(result: xr.Dataset, metric: str | None = None) -> str:
    """What each subspace does beside the whole state and a random one, and with how much of the difference.

    Args:
        result: From ``patch_subspace``.
        metric: Which metric; the result's first when None.

    Returns:
        A sentence for each basis, and one on the illusion of Makelov et al. 2023; or that there is no contrast.

    Raises:
        SweepError: This is no such result, or it lacks the metric.

    Example:
        >>> basis = patchlib.fit_basis(model, task, layer=24, position="END", kind="pca", rank=2)
        >>> print(patchlib.plots.takeaways.of_subspaces(patchlib.patch_subspace(model, task, basis, 24, "END")))
        The whole state has an effect of 0.85 [...]. subspace (rank 2) has 0.44 [...] with 61% of the squared distance
        between the states, a random one as far 0.09. That the model uses a subspace does not follow (Makelov et al.
        2023): it may carry a difference that nothing reads into a direction in which prompts do not differ.
    """
    stats.check_result(result, "patched")
    if "basis" not in result.patched.dims or "share" not in result:
        raise SweepError("This needs a result of bases: give what patchlib.patch_subspace returned.")
    result = stats.one_metric(result, metric)
    table = stats.summary_table(result, None)
    if table.effect.isnull().all():
        return no_effect(result)
    rows = {str(row["basis"]): row for _, row in table.iterrows()}
    share = dict(zip(map(str, result["basis"].values), result.share.mean("example").values, strict=True))
    ranks = dict(zip(map(str, result["basis"].values), result["rank"].values, strict=True))
    said, is_suspicious = [], False
    if WHOLE in rows:
        said.append(f"The {WHOLE} has an effect of {with_interval(rows[WHOLE])}")
    for name in share:
        if name == WHOLE or name.endswith(PLACEBO):
            continue
        of_basis = f"{name} (rank {ranks[name]}) has {with_interval(rows[name])}"
        placebo = rows.get(name + PLACEBO)
        beside = "" if placebo is None else f", a random one as far {placebo.effect + 0:.2f}"
        said.append(f"{of_basis} with {share[name]:.0%} of the squared distance between the states{beside}")
        whole = rows[WHOLE].effect if WHOLE in rows else 1.0
        is_suspicious |= bool(share[name] < LITTLE and rows[name].effect > whole / 2)
    end = "it may carry a difference that nothing reads into a direction in which prompts do not differ"
    end += ", the more so where little of the distance has most of the effect, as here." if is_suspicious else "."
    return f"{'. '.join(said)}. That the model uses a subspace does not follow (Makelov et al. 2023): {end}"
