"""What makes up for heads that are knocked out: less suppression, backup, or the final norm."""

import copy
from collections.abc import Iterable

import numpy as np
import pandas as pd

from patchlib._util import Head, check_heads, head_names
from patchlib.circuits.ablation import Ablation, check_ablation
from patchlib.circuits.circuit import HeadSet, everywhere
from patchlib.circuits.knockouts import written_with_and_without
from patchlib.stats import mean_interval

PARTS = ("knocked-out heads", "less suppression", "backup", "norm", "rest")


def self_repair(ablation: Ablation, layer_heads: Iterable[Head]) -> pd.DataFrame:
    """What a knock-out changes in the logit difference, by who changes: an account that adds up.

    A head's direct effect is what it writes divided by the final norm's scale, and both change. What a head writes is
    therefore compared at the scale of the clean forward pass: ``less suppression`` is the change of all other heads
    that wrote against the answer (McDougall et al. 2023, arXiv:2310.04625, "Copy suppression": heads that suppress what
    earlier heads would say have less to suppress once these are gone), ``backup`` that of all that wrote towards it
    (Wang et al. 2022, section 3.4), each with its sign: below 0, they make the loss worse. ``norm`` is what the change
    of the scale alone does to all that heads write afterwards (Rushing and Nanda 2024, arXiv:2402.15390, "Explorations
    of self-repair in language models"). Heads are told apart by what they wrote before, on the same prompts, not by how
    they change, as the sum over those that happen to gain would be above 0 by chance.

    Args:
        ablation: As for ``knock_out``; its metric does not matter.
        layer_heads: The (layer, head) pairs that are knocked out, at all positions.

    Returns:
        A row for each ``part``, in logits, means over prompts: ``knocked-out heads``, ``less suppression``, ``backup``,
        ``norm``, ``rest`` (embedding, MLPs and biases, with their part of the norm's) and ``all``. ``before`` and
        ``after`` are what it wrote (at the clean scale; NaN for the norm), ``change`` the difference, with its 95%
        interval ``ci_low`` and ``ci_high``; ``heads`` are those that change most, up to three; ``n`` and ``protocol``.
        The changes of the five parts add up to that of ``all``, the metric's.

    Raises:
        SweepError: As ``backup_heads``.

    Example:
        >>> table = patchlib.self_repair(patchlib.Ablation(model, task), [(23, 3)])
        >>> table[["before", "after", "change"]].round(1)
                           before  after  change
        part
        knocked-out heads     1.8   -0.0    -1.8
        less suppression     -4.9   -4.1     0.8
        backup                5.5    4.9    -0.6
        norm                  NaN    NaN    -0.0
        rest                  2.0    1.5    -0.5
        all                   4.4    2.2    -2.2
    """
    check_ablation(ablation)
    gone = sorted(check_heads(layer_heads, ablation.n_layers, ablation.n_heads))
    sets = [HeadSet({}, keep=False), HeadSet(everywhere(gone), keep=False)]
    before, after = written_with_and_without(ablation, sets[1])
    cells = list(before.cell.values)
    wrote, writes = (before.values, after.values)
    at_clean_scale = writes * (before.norm_factor / after.norm_factor).values.astype(np.float64)  # [cell example]
    of_logits = copy.copy(ablation)
    of_logits.metric = "logit_diff"
    clean, knocked_out = of_logits.measure(sets).astype(np.float64)  # [example]

    is_gone = np.array([cell in gone for cell in cells])
    is_against = wrote.mean(1) < 0
    members = [is_gone, ~is_gone & is_against, ~is_gone & ~is_against]
    changes = [(at_clean_scale - wrote)[cell].sum(0) for cell in members]  # [part example]
    changes.append((writes - at_clean_scale).sum(0))
    changes.append(knocked_out - clean - sum(changes))
    changes.append(knocked_out - clean)
    low, high = mean_interval(np.stack(changes), clusters=ablation.pairs.clusters)
    written = [(wrote[cell].sum(0).mean(), at_clean_scale[cell].sum(0).mean()) for cell in members]
    rest = (clean - wrote.sum(0)).mean()
    written += [(np.nan, np.nan), (rest, rest + changes[4].mean()), (clean.mean(), knocked_out.mean())]
    by_size = np.argsort(-abs((at_clean_scale - wrote).mean(1)))
    largest = [head_names([cells[i] for i in by_size if cell[i]][:3]) for cell in members] + [""] * 3
    table = pd.DataFrame(written, index=pd.Index([*PARTS, "all"], name="part"), columns=["before", "after"])
    return table.assign(
        change=[change.mean() for change in changes],
        ci_low=low,
        ci_high=high,
        heads=largest,
        n=len(clean),
        protocol=of_logits.protocol,
    )
