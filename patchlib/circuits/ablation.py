"""The model with some heads' outputs replaced, many sets of heads at once: what a circuit is tested with."""

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_choice, check_kind, check_seed, listed
from patchlib.circuits.circuit import HeadSet
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
            each prompt, other than itself and its partner. ``"zero"``: nothing, the least defensible.
        reference: The task whose clean prompts are the reference. The task's own corrupted prompts when None: for the
            paper's protocol take ``corruption="abc"``, where no name comes twice.
        seed: Of the draw for ``"resample"``.
        metric: A name in ``patchlib.METRICS`` that reads the last position.
        batch_tokens: Tokens in one forward; what suits the device when None.

    Attributes:
        pairs: The task's prompts.
        protocol: In words what a number depends on, for printing beside it.

    Raises:
        SweepError: Unknown source or metric, no reference prompt of some template, a model in train mode.
        TaskError: The task is unusable.

    Example:
        >>> ablation = patchlib.Ablation(model, task)
        >>> whole = patchlib.HeadSet({}, keep=False)
        >>> without_one = patchlib.HeadSet(patchlib.everywhere([(23, 3)]), keep=False)
        >>> ablation.measure([whole, without_one]).mean(axis=1).round(1)  # mean logit difference over prompts
        array([4.4, 1.1], dtype=float32)
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
        donors = self.pairs.reversed() if reference is None else as_pairs(model, reference)
        self._replacement = replacement_of(model, self.pairs, donors, source, seed, self._batch_tokens)
        about = "zeros" if source == "zero" else f"{source} over {len(donors)} prompts of {donors.name!r}, by template"
        self.protocol = (
            f"{metric}, mean over n = {len(self.pairs)} prompts of {self.pairs.name!r}; nodes: head outputs z, each "
            f"prompt at its own positions; replaced by: {about}; model {model.cfg.model_name}"
        )

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
        chosen = []
        for i, key in enumerate(kinds):  # neither the prompt itself nor its partner, which would be a swap
            own = (pairs.clean_tokens[i], pairs.corrupted_tokens[i])
            others = [j for j in alike[key] if not any(torch.equal(reference.clean_tokens[j], row) for row in own)]
            if not others:
                raise SweepError(
                    f"{reference.name!r} has no prompt like prompt {i} but its own partner: give a reference with more "
                    "prompts, or source='mean'."
                )
            chosen.append(draw.choice(others))
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
            outputs = [cache[name].to(model.cfg.device) for name in names]  # layers may lie on several devices
            parts.append(torch.stack(outputs, dim=2))  # [example pos layer head d_head]
    return torch.cat(parts)
