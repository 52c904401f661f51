"""Naming heads by where they look, what they copy and what they do to the answer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_flag, check_heads, check_kind, check_number
from patchlib.circuits.attention import attention_between
from patchlib.circuits.attention_effects import EVIDENCE, moved_attention
from patchlib.circuits.copying import copying_scores
from patchlib.errors import SweepError
from patchlib.tasks.answer_sets import NO_ID
from patchlib.tasks.base import Task, as_pairs
from patchlib.tasks.pairs import PromptPairs
from patchlib.tasks.words import NAMES

BY_ATTENTION = {
    ("END", "S2"): "S-inhibition",
    ("S2", "S1"): "duplicate token",
    ("S2", "S1+1"): "induction",
    ("S1+1", "S1"): "previous token",
}
"""(the position of a head's output, the role that it attends to most) -> its type."""


def head_types(
    model: TransformerBridge,
    task: Task,
    steps: pd.DataFrame,
    *,
    min_attention: float = 0.2,
    min_copying: float = 0.5,
    evidence: bool = False,
    min_change: float = 0.02,
) -> pd.DataFrame:
    """Name each head of a search by where it looks from its position and by what its OV circuit does to names.

    Of heads that write to the logits: a ``name mover`` attends from END to IO and copies it; a ``subject suppressor``
    attends to the subject and writes against it; a ``negative name mover`` attends to IO and writes against it, a
    ``subject mover`` copies the subject, both against the answer. Of the others: ``S-inhibition``
    attends from END to S2; ``duplicate token`` from S2 to S1; ``induction`` from S2 to S1+1; ``previous token`` from
    S1+1 to S1. The names but the second are those of Wang et al. 2022; a head that fits none is ``unnamed``.

    A name of the second kind says where a head looks, not what it causes. So with ``evidence`` each head that ``steps``
    found to write to queries or keys is patched, its output taken from the corrupted prompts, and the attention of
    these receivers read (as ``attention_effects``): of a key, how much its role is looked at; of a query, how much the
    role that the head looks at most. There is ``evidence`` that it ``moves attention`` if that changes by more than
    chance, by more than with any of the random heads patched beside it (one of each layer or more, three at least), and
    by ``min_change`` or more; if by less, it ``moves little attention``, and otherwise ``moves no attention``.

    Args:
        model: In eval mode.
        task: The prompts of ``steps``.
        steps: ``Discovery.steps``.
        min_attention: Mean attention that a name takes: a fifth, where all tokens alike would get about a fifteenth.
        min_copying: Share of names that the OV circuit must copy (or suppress): a half; a random head has about 0.
        evidence: Patch the heads too, which takes about as long as the search did.
        min_change: Mean change of attention that counts as more than little: a fiftieth of all that a head gives.

    Returns:
        A row for each head and position: ``layer``, ``head_index``, ``position``, ``head_type``, ``direct`` (effect on
        the logits, NaN if none was found), ``effect`` (largest in any step), ``looks_at`` and ``attention`` (the role
        that it attends to most, and how much), ``copying``, ``suppressing`` (of heads at END, over all of patchlib's
        names that are one token where the answers are such names, else over the answers; each as the IO of one of the
        prompts, or alone where the task has no such role), ``margin`` (by how much the attention and the copying clear
        their bounds, whichever is nearer; below 0, what an unnamed head lacks of its
        nearest name; NaN if no name asks where it looks). With ``evidence``, of heads that write to queries or keys:
        ``receiver`` (the one that is moved most), ``attention_change`` with ``change_low`` and ``change_high`` (95%,
        corrected for the number of receivers), ``control_change`` (largest of the random heads') and ``evidence``,
        which is ``too few prompts`` for a single prompt and empty for all other heads.

    Raises:
        SweepError, TaskError: As ``attention_between`` and ``copying_scores``.

    Example:
        >>> import pandas as pd
        >>> step = {"receivers": "logits", "layer": 23, "head_index": 3, "position": "END", "effect": 0.65}
        >>> table = patchlib.head_types(model, task, pd.DataFrame([step]))
        >>> table[["layer", "head_index", "head_type", "looks_at"]]
           layer  head_index           head_type looks_at
        0     23           3  subject suppressor       S2
    """
    pairs = as_pairs(model, task)
    check_kind("steps", steps, pd.DataFrame, "give Discovery.steps")
    if lacking := {"receivers", "layer", "head_index", "position", "effect"} - set(steps):
        raise SweepError(f"steps lack the columns {', '.join(sorted(lacking))}: give Discovery.steps.")
    check_heads(
        {*zip(steps.layer, steps.head_index, strict=True)}, int(model.cfg.n_layers), int(model.cfg.n_heads), least=0
    )
    check_number("min_attention", min_attention, 0, 1)
    check_number("min_copying", min_copying, 0, 1)
    check_flag("evidence", evidence)
    check_number("min_change", min_change, 0, 1)
    by_head = steps.groupby(["layer", "head_index", "position"], sort=True)
    attention = {dest: attention_between(model, pairs, dest) for dest in sorted(set(steps.position))}
    at_end = steps.loc[steps.position == "END", ["layer", "head_index"]].itertuples(index=False, name=None)
    inside = pairs if "IO" in pairs.roles else None
    copying = copying_scores(model, names_to_copy(model, pairs), set(at_end), task=inside)
    causes = moved_attention(model, pairs, steps, attention, min_change) if evidence else {}
    rows = []
    for (layer, head, position), of_head in by_head:
        looks = attention[position].sel(layer=layer, head=head).mean("example")  # [role]
        to_logits = of_head.effect[of_head.receivers == "logits"]
        found: dict[str, Any] = {
            "direct": to_logits.iloc[0] if len(to_logits) else np.nan,
            "effect": max(of_head.effect, key=abs),
            "looks_at": str(looks.role.values[looks.values.argmax()]),
            "attention": float(looks.max()),
            **{str(name): float(score.sel(layer=layer, head=head)) for name, score in copying.items()},
        }
        head_type, margin = type_and_margin(str(position), found, min_attention, min_copying)
        found |= {"margin": margin} | causes.get((int(str(layer)), int(str(head)), str(position)), {"evidence": ""})
        rows.append({"layer": layer, "head_index": head, "position": position, "head_type": head_type, **found})
    columns = [
        "direct",
        "effect",
        "looks_at",
        "attention",
        "copying",
        "suppressing",
        "margin",
        *(EVIDENCE if evidence else ()),
    ]
    return pd.DataFrame(rows, columns=["layer", "head_index", "position", "head_type", *columns])


def names_to_copy(model: TransformerBridge, pairs: PromptPairs) -> list[int]:
    """The tokens over which copying is counted: all names of patchlib's tasks, where the answers are such."""
    answers = set(pairs.answer_ids().flatten().tolist()) - {NO_ID}
    if model.tokenizer is None:
        return sorted(answers)
    rows = [model.tokenizer.encode(f" {name}", add_special_tokens=False) for name in NAMES]
    names = {row[0] for row in rows if len(row) == 1}
    return sorted(names if answers <= names else answers)


def type_and_margin(
    position: str, evidence: Mapping[str, Any], min_attention: float, min_copying: float
) -> tuple[str, float]:
    """The name that a head earns at a position, by its row of ``head_types``, and how far it is from losing it."""
    looks_at, margin = evidence["looks_at"], evidence["attention"] - min_attention
    at_subject = looks_at in ("S1", "S2")
    names: list[tuple[str, float]] = []
    if np.isfinite(evidence["direct"]) and (looks_at == "IO" or at_subject):
        # Towards the answer is to copy IO or to suppress the subject; a negative head does the opposite.
        copies = (looks_at == "IO") == (evidence["direct"] > 0)
        if copies:
            name = "subject mover" if at_subject else "name mover"
        else:
            name = "subject suppressor" if at_subject else "negative name mover"
        names.append((name, min(margin, evidence["copying" if copies else "suppressing"] - min_copying)))
    if (position, looks_at) in BY_ATTENTION:
        names.append((BY_ATTENTION[position, looks_at], margin))
    earned = [(name, clears) for name, clears in names if clears >= 0]
    return earned[0] if earned else ("unnamed", max((clears for _, clears in names), default=np.nan))
