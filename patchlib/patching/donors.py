"""What is written into the run that is patched, where it is not the other run: zeros, a mean, another prompt."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib.errors import SweepError
from patchlib.tasks.base import PatchingDataset, PromptPairs, as_pairs

ABLATIONS = ("zero", "mean", "resample")
SOURCES = ("other", *ABLATIONS)


@dataclass(frozen=True)
class Donors:
    """The prompts that activations are taken from.

    Attributes:
        source: One of ``SOURCES``.
        rows: The tokens of each donor prompt, for ``"mean"`` and ``"resample"``.
        chosen: Which of them each example takes, for ``"resample"``.
        name: The task that they are from.
        seed: Of the choice.
    """

    source: str = "other"
    rows: tuple[Int[Tensor, " pos"], ...] = ()
    chosen: list[int] = field(default_factory=list)
    name: str = ""
    seed: int = 0

    def of(self, examples: Sequence[int], n_pos: int) -> Int[Tensor, "donor pos"] | None:
        """Donors for some examples of one length: a row for each to resample, all of that length for a mean."""
        if self.source == "resample":
            return torch.stack([self.rows[self.chosen[i]] for i in examples])
        if self.source == "mean":
            return torch.stack([row for row in self.rows if len(row) == n_pos])
        return None

    def attributes(self, direction: str) -> dict[str, str | int]:
        """What a result records."""
        if self.source == "other":
            return {"source": "clean" if direction == "denoise" else "corrupted"}
        about: dict[str, str | int] = {"source": self.source}
        if self.rows:
            about |= {"reference": self.name, "n_reference": len(self.rows)}
        return about | ({"source_seed": self.seed} if self.source == "resample" else {})


def resolve_donors(
    model: TransformerBridge,
    pairs: PromptPairs,
    source: str,
    reference: PatchingDataset | PromptPairs | None,
    seed: int,
) -> Donors:
    """What ``sweep`` was asked to patch in.

    Raises:
        SweepError: Unknown source, a reference that would not be used, or no donor of a prompt's length.
    """
    if source not in SOURCES:
        raise SweepError(f"Unknown source {source!r}: choose {', '.join(map(repr, SOURCES))}.")
    if source in ("other", "zero"):
        if reference is not None:
            raise SweepError(f"source={source!r} takes nothing from a reference: use source='mean' or 'resample'.")
        return Donors(source)
    task = pairs if reference is None else as_pairs(model, reference)
    draw = random.Random(seed)
    chosen = []
    for i, row in enumerate(pairs.clean_tokens):
        alike = [j for j, donor in enumerate(task.clean_tokens) if len(donor) == len(row)]
        if source == "resample":  # another prompt, or nothing would be ablated
            alike = [j for j in alike if not torch.equal(task.clean_tokens[j], row)]
        if not alike:
            raise SweepError(
                f"{task.name!r} has no {'other ' * (source == 'resample')}prompt of {len(row)} tokens, as prompt {i} "
                "has: give a reference with prompts of every length, such as the same task with more of them."
            )
        chosen.append(draw.choice(alike))
    return Donors(source, task.clean_tokens, chosen, task.name, seed)
