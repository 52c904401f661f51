"""Which prompts stand in for which: those of one length and, where both tasks know theirs, of one template."""

import random
import warnings
from collections import defaultdict
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import user_level
from patchlib.errors import ReferenceWarning, SweepError
from patchlib.tasks.base import PatchingDataset, Task, as_pairs
from patchlib.tasks.pairs import PromptPairs

ENOUGH = 10
"""Prompts of a template below which a mean over them still says much of the single ones."""


@dataclass(frozen=True)
class LikePrompts:
    """The reference prompts that are like each prompt of a task.

    Attributes:
        of_prompt: For each of the task's prompts their numbers.
        of_kind: The same with those among them that are a prompt's own: all of one length and template.
    """

    of_prompt: list[list[int]]
    of_kind: list[list[int]]

    def drawn(self, seed: int) -> list[int]:
        """One reference prompt for each prompt."""
        draw = random.Random(seed)
        return [draw.choice(numbers) for numbers in self.of_prompt]

    @property
    def least_and_most(self) -> tuple[int, int]:
        """How many reference prompts a prompt has."""
        counts = [len(numbers) for numbers in self.of_prompt]
        return min(counts), max(counts)


def reference_of(model: TransformerBridge, task: Task, reference: Task | None) -> PromptPairs:
    """The prompts that are given as a reference, or those that the task has for it."""
    if reference is not None:
        return as_pairs(model, reference)
    return task.reference(model) if isinstance(task, PatchingDataset) else as_pairs(model, task).reversed()


def like_prompts(pairs: PromptPairs, reference: PromptPairs) -> LikePrompts:
    """For each prompt those like it, and neither itself nor its partner; SweepError for one that has none."""
    # Only in prompts alike does a position hold the same part of the sentence, so that a mean over prompts is one of
    # like with like.
    by_template = bool(pairs.groups and reference.groups)

    def kind(task: PromptPairs, i: int) -> tuple[int, str]:
        return len(task.clean_tokens[i]), task.groups[i] if by_template else ""

    def ids(row: Int[Tensor, " pos"]) -> tuple[int, ...]:
        return tuple(row.tolist())

    of_kind: dict[tuple[int, str], list[int]] = defaultdict(list)
    for j in range(len(reference)):
        of_kind[kind(reference, j)].append(j)
    rows = [ids(row) for row in reference.clean_tokens]
    of_prompt = []
    for i, (clean, corrupted) in enumerate(zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True)):
        # What a prompt's own partner gives is a patch from it, and no ablation.
        own = ids(clean), ids(corrupted)
        of_prompt.append([j for j in of_kind[kind(pairs, i)] if rows[j] not in own])
        if not of_prompt[i]:
            length, template = kind(pairs, i)
            raise SweepError(
                f"{reference.name!r} has no prompt like prompt {i} ({length} tokens, template {template or 'any'!r}) "
                "beside its own: give a reference with more prompts."
            )
    return LikePrompts(of_prompt, [of_kind[kind(pairs, i)] for i in range(len(pairs))])


def said_of(source: str, like: LikePrompts, reference: PromptPairs) -> str:
    """What a mean is over, or what is resampled, in words.

    Warns:
        ReferenceWarning: It is over few prompts.
    """
    if source == "resample":
        return f"resampled from {len(reference)} prompts of {reference.name!r}, by template"
    least, most = like.least_and_most
    if least < ENOUGH:
        warnings.warn(
            f"The mean over {reference.name!r} is one over {least} prompts of some template: its numbers depend on "
            f"which they are. Give a reference with {2 * ENOUGH} or more of each template (task.reference(model, "
            f"{2 * ENOUGH}) where a dataset can draw them).",
            ReferenceWarning,
            stacklevel=user_level(),
        )
    each = str(least) if least == most else f"{least} to {most}"
    return f"mean over {each} of {len(reference)} prompts of {reference.name!r}, those of the prompt's own template"
