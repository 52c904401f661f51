"""What a finding has to survive: prompts and wordings that it was not made on, and patches that should do nothing."""

import random
from dataclasses import replace

import torch
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_seed
from patchlib.errors import TaskError
from patchlib.tasks.base import Task, as_pairs
from patchlib.tasks.pairs import PromptPairs


def halves(model: TransformerBridge, task: Task, seed: int = 0) -> tuple[PromptPairs, PromptPairs]:
    """Two halves of a task that share no wording: one to find something in, and one to test it on.

    What was chosen because it is large is smaller elsewhere, on the average; and what holds for some sentences need not
    hold for the task. Where prompts have wordings (``PromptPairs.clusters``), each is in one half; else prompts are
    divided by chance.

    Args:
        model: Whose tokenizer reads a task in text.
        task: Two prompts or more.
        seed: Of the division.

    Returns:
        Both halves, as equal in number as their wordings allow.

    Raises:
        TaskError: A single prompt, or a single wording.

    Example:
        >>> first, second = patchlib.halves(model, task)
        >>> len(first), len(second), set(first.clusters) & set(second.clusters)
        (2, 2, set())
    """
    pairs = as_pairs(model, task)
    rng = random.Random(check_seed(seed))
    labels = pairs.clusters or tuple(map(str, range(len(pairs))))
    wordings = sorted(set(labels))
    if len(wordings) < 2:
        raise TaskError(f"{pairs.name!r} has no two wordings, so that it has no halves: give prompts of another one.")
    rng.shuffle(wordings)
    parts: tuple[list[int], list[int]] = ([], [])
    # The most frequent first, so that the last ones can make up for them.
    for wording in sorted(wordings, key=labels.count, reverse=True):
        smaller = min(parts, key=len)
        smaller += [i for i, label in enumerate(labels) if label == wording]
    first, second = (pairs.select(sorted(part)) for part in rng.sample(parts, 2))
    return first, second


def null_pairs(model: TransformerBridge, task: Task, seed: int = 0) -> PromptPairs | None:
    """A null set: corrupted prompts beside others that call for the same answer, so that a patch should do nothing.

    A patch also carries over what the two prompts differ in by accident, and moves the metric by that. In the null set
    that is all that it can do: the donor is another corrupted prompt of the same wording and length, with the same
    answers. ``stats.beside_null`` holds effects against what such patches do.

    Args:
        model: Whose tokenizer reads a task in text.
        task: Where the wording of prompts is known (``PromptPairs.clusters``), it is the same in both.
        seed: Of the choice, where there are several such prompts.

    Returns:
        A pair for each prompt that has such a partner, with the roles that both have at the same places; None where
        there is none.

    Example:
        >>> pairs = patchlib.IOIDataset(model, n_prompts=2, seed=0).to_pairs(model)
        >>> patchlib.null_pairs(model, pairs) is None  # two prompts, with other names
        True
    """
    pairs = as_pairs(model, task)
    rng = random.Random(check_seed(seed))
    chosen, partners = [], []
    for i in range(len(pairs)):
        alike = [j for j in range(len(pairs)) if _alike(pairs, i, j)]
        if alike:
            chosen.append(i)
            partners.append(rng.choice(alike))
    if not chosen:
        return None
    own, other = pairs.select(chosen), pairs.select(partners)
    fixed = {name: at for name, at in own.roles.items() if torch.equal(at, other.roles[name])}
    spans = {name: at for name, at in own.spans.items() if at == other.spans[name]}
    return replace(own, clean_tokens=other.corrupted_tokens, roles=fixed, spans=spans, name=f"{pairs.name}, null")


def _alike(pairs: PromptPairs, i: int, j: int) -> bool:
    """Whether two corrupted prompts differ in nothing that matters, and in something."""
    mine, others = pairs.corrupted_tokens[i], pairs.corrupted_tokens[j]
    return (
        len(mine) == len(others)
        and not torch.equal(mine, others)
        and torch.equal(pairs.answers[i], pairs.answers[j])
        and (not pairs.answer_sets or pairs.answer_sets[i] == pairs.answer_sets[j])
        and (not pairs.continuations or pairs.continuations[i] == pairs.continuations[j])
        and (not pairs.clusters or pairs.clusters[i] == pairs.clusters[j])
    )
