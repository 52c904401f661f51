"""Bases of subspaces: learned by distributed alignment search, from the prompts' own differences, or at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis import interchange
from transformer_lens.tools.analysis.projection_kernel import orthonormal_subspace

from patchlib._util import check_choice, check_count, check_number, check_seed, shown
from patchlib.errors import SweepError
from patchlib.patching.budget import GRAPH, check_batch_tokens
from patchlib.patching.donors import Donors
from patchlib.patching.metrics import Reads, resolve_metrics
from patchlib.patching.states import one_position, prompts_at_once, reader_of, rows_of, states_at
from patchlib.tasks.base import Task
from patchlib.tasks.pairs import PromptPairs

Basis = Float[Tensor, "d_model rank"]
KINDS = ("das", "mean_difference", "pca", "random")


def fit_basis(
    model: TransformerBridge,
    task: Task,
    layer: int,
    position: int | str,
    kind: Literal["das", "mean_difference", "pca", "random"] = "das",
    rank: int = 1,
    site: str = "resid_pre",
    direction: Literal["denoise", "noise"] = "denoise",
    *,
    epochs: int = 20,
    lr: float = 1e-2,
    seed: int = 0,
    batch_tokens: int | None = None,
) -> Basis:
    """An orthonormal basis of a subspace of one position's state, for ``patch_subspace``.

    Fit it on some prompts and patch it on others. What DAS reaches is no evidence by itself: it finds subspaces for
    arbitrary answers and in models that were never trained; ``transformer_lens.tools.analysis.interchange`` has these
    controls too (``arbitrary_targets``, ``random_init_bridge``).

    Args:
        model: As for ``sweep``.
        task: As for ``sweep``; for ``"das"`` prompts of one length, and of a set of answers its first.
        layer, position, site: As for ``patch_subspace``.
        kind: ``"das"`` learns the subspace in which the other prompt's state gives the other prompt's answer
            (distributed alignment search, Geiger et al. 2024), among all of the task's answers. ``"pca"``: the leading
            directions of the differences between the two prompts' states. ``"mean_difference"``: the difference of
            their means, of rank 1. ``"random"``: none, for comparison.
        rank: How many directions.
        direction: Whose answer is learnt: ``"denoise"`` the clean prompts', in the corrupted ones.
        epochs, lr: Of DAS: passes over the prompts, each as long as a forward and a backward of all of them.
        seed: Of DAS and of the random basis.
        batch_tokens: Tokens in one forward; what suits the device when None.

    Returns:
        Columns that are orthonormal, ``[d_model, rank]``, on the CPU.

    Raises:
        SweepError: Unknown kind; a rank that is too large; prompts of several lengths for DAS; as ``patch_subspace``.
        TaskError: The task's prompts or answers are unusable.

    Example:
        >>> basis = patchlib.fit_basis(model, task, layer=24, position="END", kind="das", epochs=2)
        >>> basis.shape, round(float(basis.norm()), 3)
        (torch.Size([576, 1]), 1.0)
    """
    check_choice("kind", kind, KINDS)
    pairs, place, where = one_position(model, task, layer, position, site, direction)
    width = int(model.cfg.d_model)
    most = {"mean_difference": 1, "pca": min(width, len(pairs))}.get(kind, width)
    check_count("rank", rank, most=most)
    seed = check_seed(seed)
    if kind == "random":
        basis: Tensor = interchange.random_basis(width, rank, seed)
        return basis
    resolve_metrics("logit_diff", pairs)  # it says what is wrong with answers of several tokens
    tokens = check_batch_tokens(model, batch_tokens)
    vocab = torch.unique(pairs.answers)
    hook, logits_of = place.hook_name(layer), reader_of(model, Reads(vocab=vocab))
    if kind == "das":
        return _learned(model, pairs, hook, logits_of, vocab, where, direction, rank, epochs, lr, seed, tokens)
    states: dict[str, list[Tensor]] = {"clean": [], "corrupted": []}
    for bucket in pairs.buckets():
        part = pairs.select(bucket)
        batch = prompts_at_once(model, part, tokens, Reads(vocab=vocab))
        for name in states:
            states[name].append(states_at(model, hook, rows_of(model, part, name), logits_of, where[bucket], batch))
    clean, corrupted = (torch.cat(parts) for parts in states.values())
    if torch.allclose(clean, corrupted):
        raise SweepError(
            f"At layer {layer}, position {shown(position)}, the two prompts' states are the same: take a later layer, "
            "or a position at which something differs."
        )
    if kind == "mean_difference":
        labels = ["clean"] * len(clean) + ["corrupted"] * len(corrupted)
        basis = interchange.mean_difference_basis(torch.cat([clean, corrupted]), labels)
        return basis
    return _leading(clean - corrupted, rank)


def _leading(differences: Float[Tensor, "example d_model"], rank: int) -> Basis:
    try:
        basis: Tensor = orthonormal_subspace(differences.T, rank=rank).basis
    except ValueError as error:
        raise SweepError(f"rank={rank} is more than the prompts' differences have: take a smaller one.") from error
    return basis


def _learned(
    model: TransformerBridge,
    pairs: PromptPairs,
    hook: str,
    logits_of: Callable[[Tensor], Tensor],
    vocab: Int[Tensor, " read_vocab"],
    where: Int[Tensor, " example"],
    direction: str,
    rank: int,
    epochs: int,
    lr: float,
    seed: int,
    batch_tokens: int,
) -> Basis:
    lengths = sorted({len(row) for row in pairs.clean_tokens})
    if len(lengths) > 1:
        raise SweepError(f"DAS is fitted on prompts of one length, not of {lengths} tokens: select() one of buckets().")
    check_count("epochs", epochs)
    if not check_number("lr", lr, 0):
        raise SweepError("lr must be a number above 0, or nothing is learnt.")
    base, other = (rows_of(model, pairs, name) for name in Donors(direction).base_and_other)
    right = pairs.answers[:, 0 if direction == "denoise" else 1].contiguous()
    result = interchange.fit_das(
        model, hook, base, other, torch.searchsorted(vocab, right), lambda tokens: logits_of(tokens)[:, -1],
        rank=rank, base_positions=where, source_positions=where, epochs=epochs, lr=lr, seed=seed,
        batch_size=len(pairs), micro_batch_size=max(1, batch_tokens // (GRAPH * lengths[0])),
    )  # fmt: skip
    basis: Tensor = result.basis.cpu()
    return basis
