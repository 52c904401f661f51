"""Noise on what is embedded of some tokens: the corruption of a causal trace (Meng et al. 2022, section 2.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities.statistics import derive_generator

from patchlib._util import check_positions, listed, shown
from patchlib.errors import SweepError
from patchlib.patching.donors import Donors, PromptBatch
from patchlib.patching.grid import position_mask
from patchlib.tasks.pairs import PromptPairs

LONGEST_SPAN = 60
"""Characters of a span that a result spells out."""


@dataclass(frozen=True)
class Noise(Donors):
    """Clean activations into clean prompts that have noise on a span's embeddings, several draws of each prompt.

    Example ``e`` is draw ``e % draws`` of prompt ``e // draws``; behind the last one they begin anew, as there are two
    of each where answers of several tokens are written behind the prompts. What a draw adds depends on the seed, the
    prompt and the draw alone, and is drawn on the CPU: not on the batch, the process or the device.

    Attributes:
        spans: The noised token indices of each prompt.
        scale: The noise's standard deviation, in the embedding's units.
        multiple: It in units of the embeddings' own standard deviation.
        draws: How many of each prompt.
        d_model: The embedding's width.
        about: The span in words.
    """

    spans: tuple[tuple[int, ...], ...] = ()
    scale: float = 0.0
    multiple: float = 0.0
    draws: int = 1
    d_model: int = 0
    about: str = ""

    def batch(self, pairs: PromptPairs, examples: Sequence[int]) -> PromptBatch:
        """The clean prompts of some examples of one length, on both sides, and the noise of the base prompts."""
        tokens = pairs.select(examples).clean_batch()
        noise = torch.zeros(*tokens.shape, self.d_model)
        for row, example in enumerate(examples):
            prompt, draw = example // self.draws % len(self.spans), example % self.draws
            noise[row, list(self.spans[prompt])] = self.scale * self._drawn(prompt, draw)
        return PromptBatch(tokens, tokens, noise=noise)

    def _drawn(self, prompt: int, draw: int) -> Float[Tensor, "span d_model"]:
        generator = derive_generator(self.seed, "noise", prompt, draw)
        return torch.randn(len(self.spans[prompt]), self.d_model, generator=generator)

    def attributes(self) -> dict[str, Any]:
        """What a result records."""
        return {
            **super().attributes(),
            "noise": self.multiple,
            "noise_sd": self.scale,
            "draws": self.draws,
            "noise_seed": self.seed,
            "span": self.about,
        }


def resolve_span(span: Any, pairs: PromptPairs) -> tuple[tuple[tuple[int, ...], ...], str]:
    """The token indices of a span in each prompt, and what to call it.

    Args:
        span: Roles, spans and token indices, which all prompts have; or a list of token indices for each prompt.
        pairs: The prompts.

    Raises:
        SweepError: A role or an index that a prompt does not have, an empty span, or lists for other prompts.
    """
    entries = listed(span)
    if not entries or not all(isinstance(entry, list | tuple) for entry in entries):
        shortest = min(len(row) for row in pairs.clean_tokens)
        named = check_positions(entries, pairs.positions, shortest)
        masks = [
            torch.stack([position_mask(position, pairs.select([i]))[0] for position in named]).any(0)  # [pos]
            for i in range(len(pairs))
        ]
        return tuple(tuple(mask.nonzero()[:, 0].tolist()) for mask in masks), ", ".join(map(str, named))
    if len(entries) != len(pairs):
        raise SweepError(
            f"span has token indices for {len(entries)} prompts, and the task has {len(pairs)}: give a list for each, "
            "or roles and token indices that all of them have."
        )
    spans = []
    for i, (entry, row) in enumerate(zip(entries, pairs.clean_tokens, strict=True)):
        try:
            spans.append(tuple(sorted({int(position) % len(row) for position in check_positions(entry, (), len(row))})))
        except SweepError as error:
            raise SweepError(f"The span of prompt {i} cannot be used: {error}") from error
    about = shown([list(row) for row in spans])
    if len(about) > LONGEST_SPAN or "..." in about:  # a checkpoint has to tell one from another
        about = f"its own in each prompt, sha256 {hashlib.sha256(repr(spans).encode()).hexdigest()[:16]}"
    return tuple(spans), about


def embedding_sd(model: TransformerBridge, spans: Sequence[Sequence[int]], pairs: PromptPairs) -> float:
    """The standard deviation of all numbers in what is embedded of the spans' tokens.

    As Meng et al. take it: over the subjects of the prompts at hand. In a vocabulary most tokens are rare ones, whose
    embeddings are shorter.
    """
    rows = [pairs.clean_tokens[i][list(span)] for i, span in enumerate(spans)]
    unique, times = torch.unique(torch.cat(rows), return_counts=True)
    seen: list[Tensor] = []
    with torch.no_grad():  # as one-token prompts: what is embedded of a token is the same wherever it stands
        model.run_with_hooks(
            unique[:, None].to(model.cfg.device),
            fwd_hooks=[("hook_embed", lambda embedded, hook: seen.append(embedded[:, 0].double().cpu()))],
            stop_at_layer=1,
        )
    embedded = seen[0].repeat_interleave(times, dim=0)  # [token d_model]
    return float(embedded.std())
