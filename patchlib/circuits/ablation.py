"""The model with some heads' outputs replaced, many sets of heads at once: what a circuit is tested with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_choice, check_kind, check_seed, listed
from patchlib.circuits.circuit import HeadSet
from patchlib.circuits.reference import LikePrompts, like_prompts, reference_of, said_of
from patchlib.circuits.streams import Read, ablation_hooks, read_under_ablations
from patchlib.errors import SweepError
from patchlib.patching.batching import length_batches
from patchlib.patching.budget import check_batch_tokens, default_logit_bytes
from patchlib.patching.donors import ABLATIONS
from patchlib.patching.metrics import METRICS, Readout, next_token_losses
from patchlib.patching.selfcheck import fast_obstacle
from patchlib.patching.sites import SITES, get_site
from patchlib.patching.unpatched import Hooks
from patchlib.tasks.base import Task, as_pairs
from patchlib.tasks.pairs import PromptPairs
from patchlib.tasks.tokens import as_ids

HELD = 32
"""Forwards' worth of streams that are held at once."""
FOLDS = 4
"""Into so many parts the reference prompts of a template are cut, to see what other ones would have given."""
Replacement = Callable[[int], Float[Tensor, "pos layer head d_head"]]
"""The number of a prompt -> what each of its heads is given at each position."""


class Ablation:
    """A task's clean forward passes in which heads outside (or inside) a set give what they give on other prompts.

    The output ``z`` of each such head is replaced, at each position of each prompt; everything else is computed.

    Args:
        model: In eval mode.
        task: Its clean prompts are run.
        source: ``"mean"``: the mean over the reference prompts of the same template (``PromptPairs.groups``), position
            by position, as in Wang et al. 2022, section 2.3. ``"resample"``: what one of those prompts gives, drawn for
            each prompt. ``"zero"``: nothing, the least defensible. Nothing is its own reference: neither a prompt nor
            its corrupted partner stands in for itself.
        reference: The task whose clean prompts are the reference. When None, what ``task.reference(model)`` draws (for
            IOI ABC prompts, in which no name comes twice, 20 for each template of the task), and for ``PromptPairs``
            their own corrupted prompts.
        seed: Of the draw for ``"resample"``.
        metric: A name in ``patchlib.METRICS`` that reads the last position.
        batch_tokens: Tokens in one forward; what suits the device when None.

    Attributes:
        pairs: The task's prompts.

    Raises:
        SweepError: Unknown source or metric, no reference prompt of some template, a model in train mode.
        TaskError: The task is unusable.

    Warns:
        ReferenceWarning: A mean over fewer than 10 prompts of some template.

    Example:
        >>> ablation = patchlib.Ablation(model, task)
        >>> whole = patchlib.HeadSet({}, keep=False)
        >>> without_one = patchlib.HeadSet(patchlib.everywhere([(23, 3)]), keep=False)
        >>> ablation.measure([whole, without_one]).mean(axis=1).round(1)  # mean logit difference over prompts
        array([4.4, 2.2], dtype=float32)
    """

    def __init__(
        self,
        model: TransformerBridge,
        task: Task,
        *,
        source: str = "mean",
        reference: Task | None = None,
        seed: int = 0,
        metric: str = "logit_diff",
        batch_tokens: int | None = None,
    ) -> None:
        check_choice("source", source, ABLATIONS)
        self.model, self.metric = model, check_choice("metric", metric, METRICS)
        self.pairs, seed = as_pairs(model, task), check_seed(seed)
        self.n_layers, self.n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
        get_site(model, "z", range(self.n_layers))  # raises where there is none
        self._batch_tokens = check_batch_tokens(model, batch_tokens)
        about, like, prompts = "zeros", None, reference_of(model, task, reference)
        if source != "zero":
            like = like_prompts(self.pairs, prompts)
            about = said_of(source, like, prompts)
        self._replacement, *self._folds = replacements_of(
            model, self.pairs, prompts, like, source, seed, self._batch_tokens
        )
        self._about = about

    @property
    def protocol(self) -> str:
        """In words what a number depends on, for printing beside it."""
        return (
            f"{self.metric}, mean over n = {len(self.pairs)} prompts of {self.pairs.name!r}; nodes: head outputs z, "
            f"each prompt at its own positions; replaced by: {self._about}; model {self.model.cfg.model_name}"
        )

    def select(self, examples: Sequence[int]) -> Ablation:
        """The same ablation of some of the prompts, without running the reference again.

        Raises:
            TaskError: An example that there is not.
        """
        numbers = as_ids(listed(examples), "examples").tolist()
        chosen = copy.copy(self)
        chosen.pairs = self.pairs.select(numbers)

        def renumbered(replacement: Replacement) -> Replacement:
            return lambda i: replacement(numbers[i])

        chosen._replacement = renumbered(self._replacement)
        chosen._folds = list(map(renumbered, self._folds))
        return chosen

    def measure(self, sets: Sequence[HeadSet]) -> Float[np.ndarray, "set example"]:
        """The metric of each prompt under each ablation.

        Raises:
            SweepError: A head, role or position that there is not, or logits that are not finite.
        """
        sets = self.check(sets)
        values = np.full((len(sets), len(self.pairs)), np.nan, dtype=np.float32)
        for examples in length_batches(self.pairs, self._batch_tokens):
            part = self.pairs.select(examples)
            clean_logits = torch.empty(len(part), 1, 0, device=self.model.cfg.device)
            if self.metric == "kl":  # the one metric that compares with the clean logits
                whole = [HeadSet({}, keep=False)]
                unablated = self._read(whole, examples, lambda logits: logits, True, self._batch_tokens)
                clean_logits = torch.from_numpy(unablated[0]).to(clean_logits.device)  # [example 1 d_vocab]
            readout = Readout({self.metric: METRICS[self.metric]}, part, clean_logits)
            read = partial(_one_metric, readout)
            values[:, examples] = self._read(sets, examples, read, True, self._batch_tokens)
        return values

    def reference_error(self, sets: Sequence[HeadSet]) -> Float[np.ndarray, " set"]:
        """Standard error of each set's mean metric that comes from which prompts the reference has.

        The reference prompts of each template are cut into four, and each part takes the place of the whole: a mean
        over a quarter of the prompts has four times the variance. 0 where nothing is averaged: a prompt to resample is
        drawn for each prompt anew, so that the prompts' own spread has it.

        Raises:
            SweepError: As ``measure``.
        """
        folds = []
        for replacement in self._folds:
            fold = copy.copy(self)
            fold._replacement = replacement
            folds.append(fold.measure(sets).mean(axis=1, dtype=np.float64))  # [set]
        if not folds:
            return np.zeros(len(self.check(sets)))
        error: np.ndarray = np.std(folds, axis=0, ddof=1) / np.sqrt(len(folds))
        return error

    def losses(self, sets: Sequence[HeadSet]) -> Float[np.ndarray, "set example pos"]:
        """The loss of each token of each prompt under each ablation, as ``token_losses``; prompts of one length.

        Raises:
            SweepError: As ``measure``.
            TaskError: The prompts differ in length.
        """
        sets = self.check(sets)
        rows = self.pairs.clean_batch()
        losses = np.full((len(sets), *rows.shape), np.nan, dtype=np.float32)
        # All positions are unembedded here, so that logits and not streams fill the memory.
        batch_tokens = min(self._batch_tokens, default_logit_bytes(self.model) // (4 * int(self.model.cfg.d_vocab)))
        for examples in length_batches(self.pairs, batch_tokens):
            read = partial(next_token_losses, tokens=rows[examples].to(self.model.cfg.device))
            losses[:, examples] = self._read(sets, examples, read, False, batch_tokens)
        return losses

    def hooks(self, sets: Sequence[HeadSet], examples: Sequence[int]) -> Hooks:
        """Forward hooks that ablate, for the clean tokens of some examples of one length, once for each set.

        Raises:
            SweepError: As ``measure``.
            TaskError: An example that there is not, or examples that differ in length.
        """
        examples = as_ids(listed(examples), "examples").tolist()
        self.pairs.select(examples).clean_batch()  # raises
        return ablation_hooks(*self._masks(self.check(sets), examples), range(self.n_layers))

    def check(self, sets: Sequence[HeadSet]) -> list[HeadSet]:
        """The sets; SweepError for a head or a position that there is not, or for no set at all."""
        head_sets: list[HeadSet] = listed(sets)
        if not head_sets:
            raise SweepError("There is nothing to measure: give at least one HeadSet.")
        for head_set in head_sets:
            check_kind("A set", head_set, HeadSet, "make it with patchlib.HeadSet")
            head_set.check(self.pairs, self.n_layers, self.n_heads)
        return head_sets

    def _masks(
        self, sets: Sequence[HeadSet], examples: Sequence[int]
    ) -> tuple[Bool[Tensor, "set example pos layer head"], Float[Tensor, "example pos layer head d_head"]]:
        """Where each set keeps what a head gives, and what it is given elsewhere."""
        part, device = self.pairs.select(examples), self.model.cfg.device
        kept = torch.stack([head_set.mask(part, self.n_layers, self.n_heads) for head_set in sets])
        return kept.to(device), torch.stack([self._replacement(i) for i in examples]).to(device)

    def _read(
        self, sets: Sequence[HeadSet], examples: Sequence[int], read: Read, last_only: bool, batch_tokens: int
    ) -> Float[np.ndarray, "set example *value"]:
        """What is read under each set, as many sets at a time as memory has room for their streams."""
        tokens = self.pairs.select(examples).clean_batch().to(self.model.cfg.device)
        held = max(1, HELD * batch_tokens // tokens.numel())
        share = fast_obstacle(self.model) is None
        values = []
        for i in range(0, len(sets), held):
            masks = self._masks(sets[i : i + held], examples)
            values.append(read_under_ablations(self.model, tokens, *masks, read, last_only, batch_tokens, share))
        return torch.cat(values).cpu().numpy()


def _one_metric(readout: Readout, logits: Float[Tensor, "set example 1 d_vocab"]) -> Float[Tensor, "set example"]:
    return readout(logits, "an ablation")[0]


def check_ablation(ablation: Ablation) -> Ablation:
    """The same ablation; SweepError for anything else."""
    return check_kind("An ablation", ablation, Ablation, "make one with patchlib.Ablation(model, task)")


def replacements_of(
    model: TransformerBridge,
    pairs: PromptPairs,
    reference: PromptPairs,
    like: LikePrompts | None,
    source: str,
    seed: int,
    batch_tokens: int,
) -> list[Replacement]:
    """What the heads of each prompt are given: of the reference prompts like it, or zeros where there are none.

    After it, for a mean over enough prompts, that over each of ``FOLDS`` parts of them.
    """
    if like is None:
        lengths = [len(row) for row in pairs.clean_tokens]
        size = int(model.cfg.n_layers), int(model.cfg.n_heads), int(model.cfg.d_head)
        return [lambda i: torch.zeros(lengths[i], *size)]

    def outputs(numbers: Sequence[int]) -> Float[Tensor, "example pos layer head d_head"]:
        return head_outputs(model, torch.stack([reference.clean_tokens[j] for j in numbers]), batch_tokens)

    if source == "resample":
        chosen = like.drawn(seed)
        of_prompt = {j: outputs([j])[0] for j in set(chosen)}
        return [lambda i: of_prompt[chosen[i]]]
    # Prompts of a template share a mean, but for those that are in the reference themselves, which have their own.
    n_folds = FOLDS if like.least_and_most[0] >= 2 * FOLDS else 0
    means: dict[tuple[int, ...], list[Tensor]] = {}
    for of_kind in sorted({tuple(numbers) for numbers in like.of_kind}):
        of_all = outputs(of_kind)
        here = zip(like.of_prompt, like.of_kind, strict=True)
        for numbers in {tuple(own) for own, kind in here if tuple(kind) == of_kind}:
            other = of_all[[of_kind.index(j) for j in numbers]]  # [example pos layer head d_head]
            means[numbers] = [other.mean(0), *(other[fold::n_folds].mean(0) for fold in range(n_folds))]
    return [partial(lambda i, part: means[tuple(like.of_prompt[i])][part], part=part) for part in range(n_folds + 1)]


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
            outputs = [cache[name].to(model.cfg.device) for name in names]  # layers may lie on several devices
            parts.append(torch.stack(outputs, dim=2))  # [example pos layer head d_head]
    return torch.cat(parts)
