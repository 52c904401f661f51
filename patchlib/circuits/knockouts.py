"""What is lost when some heads are knocked out, and which heads step in for them."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import Head, check_count, check_heads, check_kind, check_seed, check_text, head_names
from patchlib.circuits.ablation import Ablation, check_ablation
from patchlib.circuits.circuit import HeadSet, everywhere
from patchlib.circuits.criteria import MOST_SETS
from patchlib.circuits.heads import direct_logit_attribution
from patchlib.circuits.losses import copy_losses, labelled_losses
from patchlib.errors import SweepError
from patchlib.models.check import check_model
from patchlib.stats import mean_interval


def knock_out(ablation: Ablation, sets: Mapping[str, Iterable[Head]]) -> pd.DataFrame:
    """The clean forward passes without some heads, a row for each named set.

    Args:
        ablation: The prompts, and what stands in for the heads that are knocked out.
        sets: Name -> (layer, head) pairs, at all positions.

    Returns:
        Index ``knocked_out``: the names, after ``"none"``. Columns ``metric_mean`` over prompts, ``change`` from none,
        its 95% interval ``ci_low`` and ``ci_high`` (``stats.mean_interval``), ``heads``, ``n``, ``metric`` and
        ``protocol``.

    Raises:
        SweepError: As ``Ablation.measure``.

    Example:
        >>> table = patchlib.knock_out(patchlib.Ablation(model, task), {"the main writer": [(23, 3)]})
        >>> table[["metric_mean", "change", "heads", "n"]].round(1)
                         metric_mean  change  heads  n
        knocked_out
        none                     4.4     0.0         4
        the main writer          2.2    -2.2  L23H3  4
    """
    named = _named(ablation, sets)
    values = ablation.measure([HeadSet(everywhere(heads), keep=False) for heads in named.values()])
    return change_table(values, named, ablation.pairs.clusters).assign(
        metric=ablation.metric, protocol=ablation.protocol
    )


def ablated_losses(ablation: Ablation, sets: Mapping[str, Iterable[Head]], copy: int) -> pd.DataFrame:
    """Loss on the first and on the second copy without some heads, a row for each named set.

    If the heads do nothing but induction, the first copy's loss stays as it is, since there is nothing yet to copy.

    Args:
        ablation: Of rows that come twice, such as ``Ablation(model, repeated_tokens(model))``.
        sets: Name -> (layer, head) pairs, at all positions.
        copy: As for ``copy_losses``.

    Returns:
        As ``knock_out``, of the second copy's loss in nats; and ``first_copy`` and ``first_copy_change``, of the first
        copy's.

    Raises:
        SweepError, TaskError: As ``Ablation.losses`` and ``copy_losses``.

    Example:
        >>> rows = patchlib.repeated_tokens(model, n_rows=2, seq_len=25)
        >>> heads = {"four induction heads": [(17, 3), (17, 4), (17, 5), (18, 6)]}
        >>> others = patchlib.repeated_tokens(model, n_rows=20, seq_len=25, seed=1).reversed()  # nothing comes twice
        >>> ablation = patchlib.Ablation(model, rows, reference=others)
        >>> table = patchlib.ablated_losses(ablation, heads, copy=26)
        >>> table[["metric_mean", "change", "first_copy_change"]].round(1)
                              metric_mean  change  first_copy_change
        knocked_out
        none                          2.8     0.0                0.0
        four induction heads          8.1     5.3                0.1
    """
    named = _named(ablation, sets)
    losses = ablation.losses([HeadSet(everywhere(heads), keep=False) for heads in named.values()])
    copies = [copy_losses(labelled_losses(of_set, ablation.pairs), copy) for of_set in losses]
    second = np.stack([of_set.second_copy.values for of_set in copies])  # [set example]
    first = np.array([of_set.first_copy.astype(np.float64).mean().item() for of_set in copies])  # [set]
    metric = "loss of the second copy"
    protocol = ablation.protocol.replace(ablation.metric, metric, 1)
    table = change_table(second, named, ablation.pairs.clusters).assign(metric=metric, protocol=protocol)
    return table.assign(first_copy=first, first_copy_change=first - first[0])


def _named(ablation: Ablation, sets: Mapping[str, Iterable[Head]]) -> dict[str, list[Head]]:
    """The heads of each set, by name, after the empty one that all are compared with."""
    check_ablation(ablation)
    check_kind("sets", sets, Mapping, "give {name: (layer, head) pairs}")
    if "none" in sets:
        raise SweepError("A set cannot be named 'none', as that is what all others are compared with: rename it.")
    return {"none": []} | {check_text("A set's name", name): check_heads(sets[name], least=0) for name in sets}


def change_table(
    values: Float[np.ndarray, "set example"], sets: Mapping[str, Iterable[Head]], clusters: Sequence[str]
) -> pd.DataFrame:
    """A row for each set: the mean over prompts, the change from the first set, its 95% interval, the heads, ``n``."""
    values = values.astype(np.float64)
    table = _changes(values - values[0], clusters).set_index(pd.Index(sets, name="knocked_out"))
    table.insert(0, "metric_mean", values.mean(axis=1))
    return table.assign(heads=[head_names(heads) for heads in sets.values()])


def _changes(change: Float[np.ndarray, "row example"], clusters: Sequence[str]) -> pd.DataFrame:
    low, high = mean_interval(change, clusters=clusters)
    return pd.DataFrame({"change": change.mean(axis=1), "ci_low": low, "ci_high": high, "n": change.shape[1]})


def random_like(
    model: TransformerBridge, layer_heads: Iterable[Head], n_sets: int, seed: int = 0, exclude: Iterable[Head] = ()
) -> dict[str, list[Head]]:
    """Random sets with as many heads in each layer as ``layer_heads`` has, none of them in it or in ``exclude``.

    Args:
        model: Whose heads are drawn.
        layer_heads: (layer, head) pairs.
        n_sets: How many sets; 0 for none.
        seed: Of the draw.
        exclude: (layer, head) pairs that are not drawn either.

    Returns:
        ``"random 0"``, ``"random 1"``, ... -> (layer, head) pairs.

    Raises:
        SweepError: A head that there is not, or a layer with too few other heads.

    Example:
        >>> patchlib.random_like(model, [(23, 3), (29, 1)], n_sets=2, seed=0)
        {'random 0': [(23, 7), (29, 7)], 'random 1': [(23, 0), (29, 5)]}
    """
    check_model(model)
    size = int(model.cfg.n_layers), int(model.cfg.n_heads)
    heads = check_heads(layer_heads, *size)
    check_count("n_sets", n_sets, least=0, most=MOST_SETS)
    draw, taken = random.Random(check_seed(seed)), {*heads, *check_heads(exclude, *size, least=0)}
    n_wanted = Counter(layer for layer, _ in heads)
    free = {layer: [(layer, h) for h in range(size[1]) if (layer, h) not in taken] for layer in n_wanted}
    for layer, count in n_wanted.items():
        if len(free[layer]) < count:
            raise SweepError(f"Layer {layer} has {len(free[layer])} other heads, and a random set takes {count}.")
    return {
        f"random {k}": [head for layer, count in n_wanted.items() for head in sorted(draw.sample(free[layer], count))]
        for k in range(n_sets)
    }


def backup_heads(ablation: Ablation, layer_heads: Iterable[Head]) -> pd.DataFrame:
    """Which heads write more of the answer once others are knocked out (Wang et al. 2022, section 3.4).

    Direct logit attribution of every head before and after the knock-out, each with the final norm's scale of its own
    forward pass. That scale alone changes all heads a little when a large writer is gone: a backup head's change stands
    out against the others', in its sign and its size (Rushing and Nanda 2024, "Explorations of self-repair").

    Args:
        ablation: As for ``knock_out``.
        layer_heads: The (layer, head) pairs that are knocked out, at all positions.

    Returns:
        A row for each other head: ``layer``, ``head_index``, ``before`` and ``after`` (logits, mean over prompts),
        ``change`` with its 95% interval ``ci_low`` and ``ci_high``, ``n``, largest change first; and, the
        same in each row, ``knocked_out`` and ``protocol``.

    Raises:
        SweepError: As ``Ablation.measure``, or no head at all.

    Example:
        >>> table = patchlib.backup_heads(patchlib.Ablation(model, task), [(23, 3)])
        >>> table[["layer", "head_index", "before", "after", "change"]].head(2).round(1)
           layer  head_index  before  after  change
        0     29           0    -0.9   -0.5     0.4
        1     24           4    -0.9   -0.6     0.3
    """
    check_ablation(ablation)
    gone = sorted(check_heads(layer_heads, ablation.n_layers, ablation.n_heads))
    before, after = written_with_and_without(ablation, HeadSet(everywhere(gone), keep=False))
    cells = {"layer": before.layer.values, "head_index": before["head"].values}
    means = {name: values.mean("example").values for name, values in (("before", before), ("after", after))}
    table = pd.DataFrame(cells | means).join(_changes((after - before).values, ablation.pairs.clusters))
    table = table.assign(knocked_out=head_names(gone), protocol=ablation.protocol)
    others = [cell not in gone for cell in before.cell.values]
    return table[others].sort_values("change", ascending=False, ignore_index=True)


def written_with_and_without(
    ablation: Ablation, without: HeadSet
) -> tuple[Float[xr.DataArray, "cell example"], Float[xr.DataArray, "cell example"]]:
    """Direct logit attribution of every head in the clean forward pass, and under the ablation."""
    before, after = (
        direct_logit_attribution(ablation.model, ablation.pairs, hooks).astype(np.float64).stack(cell=("layer", "head"))
        for hooks in (None, partial(ablation.hooks, [without]))
    )
    return before.transpose("cell", "example"), after.transpose("cell", "example")
