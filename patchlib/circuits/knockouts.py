"""What is lost when some heads are knocked out, and which heads step in for them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import head_names
from patchlib.circuits.ablation import Ablation, Head, HeadSet
from patchlib.circuits.heads import direct_logit_attribution
from patchlib.errors import SweepError
from patchlib.stats import mean_interval


def everywhere(heads: Iterable[Head]) -> dict[Head, tuple[None]]:
    """Heads at all positions."""
    return {(int(layer), int(head)): (None,) for layer, head in heads}


def knock_out(ablation: Ablation, sets: Mapping[str, Iterable[Head]]) -> pd.DataFrame:
    """The clean runs without some heads, a row for each named set.

    Args:
        ablation: The prompts, and what stands in for the heads that are knocked out.
        sets: Name -> heads, at all positions.

    Returns:
        Index: the names, after ``"none"``. Columns ``mean`` of the metric over prompts, ``change`` from none, its 95%
        bootstrap interval ``ci_low`` and ``ci_high``, ``heads`` and ``n``. ``attrs["protocol"]`` says how.

    Raises:
        SweepError: As ``Ablation.run``.
    """
    named: dict[str, list[Head]] = {"none": [], **{name: list(heads) for name, heads in sets.items()}}
    values = ablation.run([HeadSet(everywhere(heads), keep=False) for heads in named.values()]).astype(np.float64)
    change = values - values[0]
    low, high = mean_interval(change)
    table = pd.DataFrame(
        {
            "mean": values.mean(1), "change": change.mean(1), "ci_low": low, "ci_high": high,
            "heads": [head_names(heads) for heads in named.values()], "n": values.shape[1],
        },
        index=pd.Index(named, name="knocked out"),
    )  # fmt: skip
    table.attrs |= {"protocol": ablation.protocol, "metric": ablation.metric}
    return table


def random_like(
    model: TransformerBridge, heads: Sequence[Head], n_sets: int, seed: int = 0, exclude: Iterable[Head] = ()
) -> dict[str, list[Head]]:
    """Random sets with as many heads in each layer as ``heads`` has, none of them in it or in ``exclude``.

    Raises:
        SweepError: A layer has too few other heads.
    """
    draw, taken = random.Random(seed), {*heads, *exclude}
    per_layer: dict[int, int] = defaultdict(int)
    for layer, _ in heads:
        per_layer[layer] += 1
    free = {i: [(i, h) for h in range(int(model.cfg.n_heads)) if (i, h) not in taken] for i in per_layer}
    for layer, count in per_layer.items():
        if len(free[layer]) < count:
            raise SweepError(f"Layer {layer} has {len(free[layer])} other heads, and a random set takes {count}.")
    return {
        f"random {k}": [one for layer, count in per_layer.items() for one in sorted(draw.sample(free[layer], count))]
        for k in range(n_sets)
    }


def backup_heads(ablation: Ablation, heads: Iterable[Head]) -> pd.DataFrame:
    """Which heads write more of the answer once others are knocked out (Wang et al. 2022, section 3.4).

    Direct logit attribution of every head before and after the knock-out, each with the final norm's scale of its own
    run. That scale alone changes all heads a little when a large writer is gone: a backup head's change stands out
    against the others', in its sign and its size (Rushing and Nanda 2024, "Explorations of self-repair").

    Args:
        ablation: As for ``knock_out``.
        heads: What is knocked out, at all positions.

    Returns:
        A row for each other head: ``layer``, ``head``, ``before`` and ``after`` (logits, mean over prompts),
        ``change`` with its 95% bootstrap interval ``ci_low`` and ``ci_high``, ``n``, largest change first.
        ``attrs["protocol"]`` says how, ``attrs["knocked_out"]`` what.

    Raises:
        SweepError: As ``Ablation.run``.
    """
    gone = sorted((int(layer), int(head)) for layer, head in heads)
    without = [HeadSet(everywhere(gone), keep=False)]
    ablation.check(without)
    before = direct_logit_attribution(ablation.model, ablation.pairs)
    after = direct_logit_attribution(ablation.model, ablation.pairs, partial(ablation.hooks, without))
    values = [one.stack(cell=("layer", "head")).transpose("cell", "example").values for one in (before, after)]
    before_values, after_values = (one.astype(np.float64) for one in values)
    change = after_values - before_values
    low, high = mean_interval(change)
    cells = [(layer, head) for layer in range(ablation.n_layers) for head in range(ablation.n_heads)]
    table = pd.DataFrame(cells, columns=["layer", "head"]).assign(
        before=before_values.mean(1), after=after_values.mean(1), change=change.mean(1), ci_low=low, ci_high=high,
        n=change.shape[1],
    )  # fmt: skip
    table = table[[cell not in gone for cell in cells]].sort_values("change", ascending=False, ignore_index=True)
    table.attrs |= {"protocol": ablation.protocol, "knocked_out": head_names(gone)}
    return table
