"""What is written into the base prompts' forward: activations of the other prompts, zeros, a mean, another prompt's.

Example:
    The sources that ``sweep(source=)`` can take activations from:

    >>> patchlib.SOURCES
    ('other', 'zero', 'mean', 'resample')
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_choice, check_seed
from patchlib.errors import SweepError
from patchlib.stats import DIRECTIONS
from patchlib.tasks.base import PatchingDataset, as_pairs
from patchlib.tasks.pairs import PromptPairs

ABLATIONS = ("zero", "mean", "resample")
SOURCES = ("other", *ABLATIONS)


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of one length that are patched together.

    Attributes:
        base: What is patched into.
        other: What it is compared with, and what activations are taken from by default.
        source: ``"other"``, or ``"zero"``, or what is taken from the donors: their ``"mean"``, or each example's
            own donor's (``"resample"``).
        donors: Prompts of the same length; one for each example to resample.
        noise: What is added to the base prompts' embeddings, if anything.
    """

    base: Int[Tensor, "example pos"]
    other: Int[Tensor, "example pos"]
    source: str = "other"
    donors: Int[Tensor, "donor pos"] | None = None
    noise: Float[Tensor, "example pos d_model"] | None = None


@dataclass(frozen=True)
class Donors:
    """What is written in, and into which of the two prompts.

    Attributes:
        direction: One of ``DIRECTIONS``.
        source: One of ``SOURCES``.
        rows: The tokens of each donor prompt, for ``"mean"`` and ``"resample"``.
        donor_of: Which of them each example takes, for ``"resample"``.
        name: The task that they are from.
        seed: Of the choice.
    """

    direction: str
    source: str = "other"
    rows: tuple[Int[Tensor, " pos"], ...] = ()
    donor_of: list[int] = field(default_factory=list)
    name: str = ""
    seed: int = 0

    @property
    def base_and_other(self) -> tuple[str, str]:
        """Which prompts are patched into, and which they are compared with."""
        return ("corrupted", "clean") if self.direction == "denoise" else ("clean", "corrupted")

    def batch(self, pairs: PromptPairs, examples: Sequence[int]) -> PromptBatch:
        """The prompts of some examples of one length: donors to resample are a row for each, for a mean all."""
        chosen = pairs.select(examples)
        tokens = {"clean": chosen.clean_batch(), "corrupted": chosen.corrupted_batch()}
        base, other = (tokens[name] for name in self.base_and_other)
        rows: list[Tensor] = []
        if self.source == "resample":
            rows = [self.rows[self.donor_of[i]] for i in examples]
        elif self.source == "mean":
            rows = [row for row in self.rows if len(row) == base.shape[1]]
        return PromptBatch(base, other, self.source, torch.stack(rows) if rows else None)

    def attributes(self) -> dict[str, str | int]:
        """What a result records."""
        attributes: dict[str, str | int] = {"direction": self.direction}
        attributes["source"] = self.base_and_other[1] if self.source == "other" else self.source
        if self.rows:
            attributes |= {"reference": self.name, "n_reference": len(self.rows)}
        return attributes | ({"source_seed": self.seed} if self.source == "resample" else {})


def resolve_donors(
    model: TransformerBridge,
    pairs: PromptPairs,
    direction: str,
    source: str,
    reference: PatchingDataset | PromptPairs | None,
    seed: int,
) -> Donors:
    """What ``sweep`` was asked to patch in.

    Raises:
        SweepError: Unknown direction or source, a reference that would not be used, or no donor of a prompt's length.
    """
    check_choice("direction", direction, DIRECTIONS)
    check_choice("source", source, SOURCES)
    if source in ("other", "zero"):
        if reference is not None:
            raise SweepError(f"source={source!r} takes nothing from a reference: use source='mean' or 'resample'.")
        return Donors(direction, source)
    task = pairs if reference is None else as_pairs(model, reference)
    seed = check_seed(seed, "source_seed")
    draw = random.Random(seed)
    donor_of = []
    for i, row in enumerate(pairs.clean_tokens):
        alike = [j for j, donor in enumerate(task.clean_tokens) if len(donor) == len(row)]
        if source == "resample":  # neither the prompt, or nothing would be ablated, nor its partner: that is "other"
            own = (row, pairs.corrupted_tokens[i])
            alike = [j for j in alike if not any(torch.equal(task.clean_tokens[j], tokens) for tokens in own)]
        if not alike:
            wanted = "other prompt" if source == "resample" else "prompt"
            raise SweepError(
                f"{task.name!r} has no {wanted} of {len(row)} tokens, as prompt {i} has: "
                "give a reference with prompts of every length, such as the same task with more of them."
            )
        donor_of.append(draw.choice(alike))
    return Donors(direction, source, task.clean_tokens, donor_of, task.name, seed)
