"""What a knocked-out head gives instead of its own output: zeros, a mean over reference prompts, another prompt's."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib.errors import SweepError
from patchlib.patching.sites import SITES
from patchlib.tasks.pairs import PromptPairs

Replacement = Callable[[int], Float[Tensor, "pos layer head d_head"]]
"""The number of a prompt -> what each of its heads is given at each position."""


def replacement_of(
    model: TransformerBridge, pairs: PromptPairs, reference: PromptPairs, source: str, seed: int, batch_tokens: int
) -> Replacement:
    """What the heads of each prompt are given; SweepError for a prompt without a reference prompt that is like it."""
    lengths = [len(row) for row in pairs.clean_tokens]
    if source == "zero":
        size = int(model.cfg.n_layers), int(model.cfg.n_heads), int(model.cfg.d_head)
        return lambda i: torch.zeros(lengths[i], *size)

    # Alike are prompts of one length and, where both tasks know theirs, of one template: only there does a position
    # hold the same part of the sentence, so that a mean over prompts is one of like with like.
    by_template = bool(pairs.groups and reference.groups)

    def kind(task: PromptPairs, i: int) -> tuple[int, str]:
        return len(task.clean_tokens[i]), task.groups[i] if by_template else ""

    alike: dict[tuple[int, str], list[int]] = defaultdict(list)
    for j in range(len(reference)):
        alike[kind(reference, j)].append(j)
    kinds = [kind(pairs, i) for i in range(len(pairs))]
    for i, (length, template) in enumerate(kinds):
        if not alike[length, template]:
            raise SweepError(
                f"{reference.name!r} has no prompt like prompt {i} ({length} tokens, template {template or 'any'!r}): "
                "give a reference with more prompts."
            )

    if source == "resample":
        draw = random.Random(seed)
        chosen = [draw.choice(alike[key]) for key in kinds]
        outputs = {j: head_outputs(model, reference.clean_tokens[j][None], batch_tokens)[0] for j in set(chosen)}
        return lambda i: outputs[chosen[i]]
    means = {}
    for key in sorted(set(kinds)):
        rows = torch.stack([reference.clean_tokens[j] for j in alike[key]])
        means[key] = head_outputs(model, rows, batch_tokens).mean(0)
    return lambda i: means[kinds[i]]


def head_outputs(
    model: TransformerBridge, rows: Int[Tensor, "example pos"], batch_tokens: int
) -> Float[Tensor, "example pos layer head d_head"]:
    """The output ``z`` of every head on some prompts of one length."""
    names = [SITES["z"].hook_name(layer) for layer in range(int(model.cfg.n_layers))]
    parts = []
    with torch.no_grad():
        for part in torch.split(rows, max(1, batch_tokens // rows.shape[1])):
            _, cache = model.run_with_cache(
                part.to(model.cfg.device), names_filter=lambda name: name in names, return_type=None
            )
            parts.append(torch.stack([cache[name] for name in names], dim=2))  # [example pos layer head d_head]
    return torch.cat(parts)
