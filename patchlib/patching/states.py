"""One position's state in each prompt, as TransformerLens' ``interchange`` reads and writes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis import interchange

from patchlib._util import check_choice, check_indices, check_positions, is_index, shown
from patchlib.errors import SweepError
from patchlib.patching import shortcuts
from patchlib.patching.budget import default_logit_bytes
from patchlib.patching.grid import position_mask
from patchlib.patching.metrics import Reads
from patchlib.patching.sites import Site, check_patchable, get_site
from patchlib.stats import DIRECTIONS
from patchlib.tasks.base import Task, as_pairs
from patchlib.tasks.pairs import PromptPairs

SITES_OF_BASES = ("resid_pre", "resid_post", "attn_out", "mlp_out")
"""``resid_mid`` is not among them: TransformerLens writes a new tensor, which the skip connection would not see."""


def one_position(
    model: TransformerBridge, task: Task, layer: Any, position: Any, site: str, direction: str
) -> tuple[PromptPairs, Site, Int[Tensor, " example"]]:
    """The prompts, the site and each prompt's position, checked."""
    pairs = as_pairs(model, task)
    check_choice("direction", direction, DIRECTIONS)
    if not is_index(layer):
        raise SweepError(f"layer must be one layer, not {shown(layer)}.")
    layers = check_indices("layer", layer, int(model.cfg.n_layers))
    place = get_site(model, check_choice("site", site, SITES_OF_BASES), layers)
    check_patchable(model, place)
    shortest = min(len(row) for row in pairs.clean_tokens)
    [only, *more] = check_positions(position, pairs.positions, shortest)
    masks = [position_mask(only, pairs.select([i]))[0] for i in range(len(pairs))]
    if more or any(int(mask.sum()) > 1 for mask in masks):
        raise SweepError(f"position={shown(position)} is of several tokens: a basis is of one token's state.")
    return pairs, place, torch.tensor([int(mask.nonzero()[0, 0]) for mask in masks])


def reader_of(model: TransformerBridge, reads: Reads) -> Callable[[Tensor], Float[Tensor, "batch read read_vocab"]]:
    """What gives the logits that are read."""
    unembedding = {} if reads.vocab is None else shortcuts.unembedding_of(model, reads.vocab)

    def logits_of(tokens: Int[Tensor, "batch pos"]) -> Tensor:
        with shortcuts.forwards(unembedding):
            logits: Tensor = model(tokens.to(model.cfg.device))
        if reads.vocab is not None and not unembedding:
            logits = logits[..., reads.vocab.to(logits.device)]
        return logits[:, -1 if reads.last_only else 0 :].float()

    return logits_of


def prompts_at_once(model: TransformerBridge, pairs: PromptPairs, batch_tokens: int, reads: Reads) -> int:
    """How many prompts (of one length) go into a forward."""
    n_pos = len(pairs.clean_tokens[0])
    n_logits = n_pos * (int(model.cfg.d_vocab) if reads.vocab is None else len(reads.vocab))
    return max(1, min(batch_tokens // n_pos, default_logit_bytes(model) // (4 * n_logits)))


def rows_of(model: TransformerBridge, pairs: PromptPairs, name: str) -> Int[Tensor, "example pos"]:
    """The clean or the corrupted prompts, which are of one length, where the model is."""
    return (pairs.clean_batch() if name == "clean" else pairs.corrupted_batch()).to(model.cfg.device)


@torch.no_grad()
def plain_logits(logits_of: Callable[[Tensor], Tensor], rows: Tensor, batch: int) -> Tensor:
    """What is read of the prompts as they are, on the CPU."""
    return torch.cat([logits_of(part).cpu() for part in torch.split(rows, batch)])


def states_at(
    model: TransformerBridge, hook: str, rows: Tensor, logits_of: Callable[[Tensor], Tensor], at: Tensor, batch: int
) -> Float[Tensor, "example d_model"]:
    """What each prompt has at its position, on the CPU."""
    states: Tensor = interchange.collect_activations(model, hook, rows, logits_of, positions=at, batch_size=batch)
    return states.float()
