"""Which prompts stand in for which: those of one length and, where both tasks know theirs, of one template."""

import random
from collections import defaultdict
from dataclasses import dataclass

from patchlib.errors import SweepError
from patchlib.tasks.pairs import PromptPairs

Kind = tuple[int, str]
"""(how many tokens, template)."""


@dataclass(frozen=True)
class LikePrompts:
    """The reference prompts that are like each prompt of a task.

    Attributes:
        kinds: Of each of the task's prompts.
        of_kind: The reference prompts of each kind, by number.
    """

    kinds: list[Kind]
    of_kind: dict[Kind, list[int]]

    def drawn(self, seed: int) -> list[int]:
        """One reference prompt for each prompt."""
        draw = random.Random(seed)
        return [draw.choice(self.of_kind[kind]) for kind in self.kinds]


def like_prompts(pairs: PromptPairs, reference: PromptPairs) -> LikePrompts:
    """For each prompt those like it; SweepError for one that has none."""
    # Only in prompts alike does a position hold the same part of the sentence, so that a mean over prompts is one of
    # like with like.
    by_template = bool(pairs.groups and reference.groups)

    def kind(task: PromptPairs, i: int) -> Kind:
        return len(task.clean_tokens[i]), task.groups[i] if by_template else ""

    of_kind: dict[Kind, list[int]] = defaultdict(list)
    for j in range(len(reference)):
        of_kind[kind(reference, j)].append(j)
    kinds = [kind(pairs, i) for i in range(len(pairs))]
    for i, (length, template) in enumerate(kinds):
        if (length, template) not in of_kind:
            raise SweepError(
                f"{reference.name!r} has no prompt like prompt {i} ({length} tokens, template {template or 'any'!r}): "
                "give a reference with more prompts."
            )
    return LikePrompts(kinds, dict(of_kind))
