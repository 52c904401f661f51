"""Naming heads by where they look, what they copy and what they do to the answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from patchlib.circuits.heads import attention_between, copying_scores
from patchlib.tasks.base import PatchingDataset, PromptPairs, as_pairs


def roles(
    model: TransformerBridge,
    task: PatchingDataset | PromptPairs,
    steps: pd.DataFrame,
    *,
    min_attention: float = 0.2,
    min_copying: float = 0.5,
) -> pd.DataFrame:
    """Name each found head by where it looks from its position and by what its OV circuit does to names.

    Of heads that write to the logits: a ``name mover`` attends from END to IO and copies it; a ``subject suppressor``
    attends to the subject and writes against it; a ``negative name mover`` attends to IO and writes against it, a
    ``subject mover`` copies the subject, both against the answer. Of the others: ``S-inhibition``
    attends from END to S2; ``duplicate token`` from S2 to S1; ``induction`` from S2 to S1+1; ``previous token`` from
    S1+1 to S1. The names but the second are those of Wang et al. 2022; a head that fits none is ``unnamed``.

    Args:
        model: In eval mode.
        task: The prompts of ``steps``.
        steps: ``Discovery.steps``.
        min_attention: Mean attention that a name takes: a fifth, where all tokens alike would get about a fifteenth.
        min_copying: Share of names that the OV circuit must copy (or suppress): a half; a random head has about 0.

    Returns:
        A row for each head and position: ``layer``, ``head``, ``at``, ``role``, ``direct`` (effect on the logits, NaN
        if none was found), ``effect`` (largest in any step), ``looks_at`` and ``attention`` (the role that it attends
        to most, and how much), ``copying``, ``suppressing``.
    """
    pairs = as_pairs(model, task)
    seen = steps.groupby(["layer", "head", "at"], sort=True)
    attention = {at: attention_between(model, pairs, at).mean("example") for at in sorted(set(steps["at"]))}
    writers = [(int(layer), int(head)) for layer, head, at in seen.groups if at == "END"]
    copying = copying_scores(model, pairs.answers.flatten().unique(), writers)
    rows = []
    for (layer, head, at), found in seen:
        looks = attention[at].sel(layer=layer, head=head)
        looks_at = str(looks.role.values[looks.values.argmax()])
        to_logits = found[found.to == "logits"]
        row = {
            "layer": layer, "head": head, "at": at,
            "direct": to_logits.effect.iloc[0] if len(to_logits) else np.nan,
            "effect": found.effect.loc[found.effect.abs().idxmax()],
            "looks_at": looks_at, "attention": float(looks.max()),
            **{name: float(copying[name].sel(layer=layer, head=head)) for name in ("copying", "suppressing")},
        }  # fmt: skip
        rows.append({**row, "role": role_of(row, min_attention, min_copying)})
    columns = ["layer", "head", "at", "role", "direct", "effect", "looks_at", "attention", "copying", "suppressing"]
    return pd.DataFrame(rows, columns=columns)


def role_of(row: dict[str, Any], min_attention: float, min_copying: float) -> str:
    """The name that a row of ``roles`` earns."""
    looks = row["looks_at"] if row["attention"] >= min_attention else ""
    subject = looks in ("S1", "S2")
    if np.isfinite(row["direct"]) and (looks == "IO" or subject):
        # Towards the answer is to copy IO or to suppress the subject; a negative head does the opposite.
        copies = (looks == "IO") == (row["direct"] > 0)
        if row["copying" if copies else "suppressing"] >= min_copying:
            if copies:
                return "name mover" if looks == "IO" else "subject mover"
            return "subject suppressor" if subject else "negative name mover"
    by_place = {
        ("END", "S2"): "S-inhibition",
        ("S2", "S1"): "duplicate token",
        ("S2", "S1+1"): "induction",
        ("S1+1", "S1"): "previous token",
    }
    return by_place.get((row["at"], looks), "unnamed")
