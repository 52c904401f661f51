"""The model with some heads' outputs replaced, many sets of heads at once: what a circuit is tested with."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib.errors import SweepError
from patchlib.patching.budget import default_batch_tokens, default_logit_bytes
from patchlib.patching.donors import ABLATIONS
from patchlib.patching.engine import Hooks
from patchlib.patching.grid import position_mask
from patchlib.patching.metrics import METRICS, Readout, next_token_losses
from patchlib.patching.selfcheck import fast_obstacle
from patchlib.patching.shortcuts import forwards, hand_on, n_block_outputs
from patchlib.patching.sites import get_site
from patchlib.patching.unpatched import check_model, length_batches
from patchlib.tasks.base import PatchingDataset, PromptPairs, as_pairs

Head = tuple[int, int]
"""(layer, head), both counted from 0."""
HELD = 32
"""Forwards' worth of streams that are held at once."""
Places = Mapping[Head, Iterable[str | int | None]]
"""Heads, each with the positions meant: roles or token indices, None for all."""


@dataclass(frozen=True)
class HeadSet:
    """Some heads at some positions, and whether they are what is kept or what is knocked out."""

    places: Places
    keep: bool

    def kept(self, pairs: PromptPairs, n_layers: int, n_heads: int) -> Bool[Tensor, "example pos layer head"]:
        """Where these prompts, of one length, keep their own activations."""
        n_pos = len(pairs.clean_tokens[0])
        named = torch.zeros(len(pairs), n_pos, n_layers, n_heads, dtype=torch.bool)
        for (layer, head), positions in self.places.items():
            for position in positions:
                named[:, :, layer, head] |= position_mask(position, pairs)
        return named if self.keep else ~named


class Ablation:
    """Clean runs of a task in which heads outside (or inside) a set give what they give on other prompts.

    The output ``z`` of each such head is replaced, at each position of each prompt; everything else is computed.

    Args:
        model: In eval mode.
        task: Its clean prompts are run.
        source: ``"mean"``: the mean over the reference prompts of the same template (``PromptPairs.groups``), position
            by position, as in Wang et al. 2022, section 2.3. ``"resample"``: what one of those prompts gives, drawn for
            each prompt. ``"zero"``: nothing, the least defensible.
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
    """

    def __init__(
        self,
        model: TransformerBridge,
        task: PatchingDataset | PromptPairs,
        *,
        source: str = "mean",
        reference: PatchingDataset | PromptPairs | None = None,
        seed: int = 0,
        metric: str = "logit_diff",
        batch_tokens: int | None = None,
    ) -> None:
        check_model(model)
        if source not in ABLATIONS:
            raise SweepError(f"Unknown source {source!r}: choose {', '.join(map(repr, ABLATIONS))}.")
        if metric not in METRICS:
            raise SweepError(f"Unknown metric {metric!r}: choose {', '.join(map(repr, METRICS))}.")
        self.model, self.metric, self.pairs = model, metric, as_pairs(model, task)
        self.n_layers, self.n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
        self._site = get_site(model, "z")
        self._fast = fast_obstacle(model) is None
        self._batch_tokens = default_batch_tokens(model) if batch_tokens is None else batch_tokens
        donors = self.pairs.reversed() if reference is None else as_pairs(model, reference)
        self._replacement = self._replacements(donors, source, random.Random(seed))
        about = "zeros" if source == "zero" else f"{source} over {len(donors)} prompts of {donors.name!r}, by template"
        self.protocol = (
            f"{metric}, mean over n = {len(self.pairs)} prompts of {self.pairs.name!r}; nodes: head outputs z, each "
            f"prompt at its own positions; replaced by: {about}; model {model.cfg.model_name}"
        )

    def _replacements(
        self, donors: PromptPairs, source: str, draw: random.Random
    ) -> Callable[[int], Float[Tensor, "pos layer head d_head"]]:
        """What each example's heads are given."""
        n_pos = [len(row) for row in self.pairs.clean_tokens]
        if source == "zero":
            d_head = int(self.model.cfg.d_head)
            return lambda i: torch.zeros(n_pos[i], self.n_layers, self.n_heads, d_head)
        alike: dict[tuple[int, str], list[int]] = defaultdict(list)
        for j, row in enumerate(donors.clean_tokens):
            alike[len(row), donors.groups[j] if self.pairs.groups and donors.groups else ""].append(j)
        keys = [(n, self.pairs.groups[i] if self.pairs.groups and donors.groups else "") for i, n in enumerate(n_pos)]
        for i, key in enumerate(keys):
            if not alike[key]:
                raise SweepError(
                    f"{donors.name!r} has no prompt like prompt {i} ({key[0]} tokens, template {key[1] or 'any'!r}): "
                    "give a reference with more prompts."
                )
        if source == "resample":
            chosen = [draw.choice(alike[key]) for key in keys]
            known = {j: self._z(donors.clean_tokens[j][None])[0] for j in set(chosen)}
            return lambda i: known[chosen[i]]
        means = {
            key: self._z(torch.stack([donors.clean_tokens[j] for j in alike[key]])).mean(0) for key in sorted(set(keys))
        }
        return lambda i: means[keys[i]]

    def _z(self, rows: Int[Tensor, "example pos"]) -> Float[Tensor, "example pos layer head d_head"]:
        found: list[list[Tensor]] = [[] for _ in range(self.n_layers)]

        def keep(z: Float[Tensor, "example pos head d_head"], hook, layer: int) -> None:
            found[layer].append(z.detach().clone())

        hooks = [(self._site.hook_name(layer), partial(keep, layer=layer)) for layer in range(self.n_layers)]
        with torch.no_grad():
            for part in rows.split(max(1, self._batch_tokens // rows.shape[1])):
                self.model.run_with_hooks(part.to(self.model.cfg.device), fwd_hooks=hooks, return_type=None)
        return torch.stack([torch.cat(parts) for parts in found], dim=2)

    def run(self, sets: Sequence[HeadSet]) -> Float[np.ndarray, "set example"]:
        """The metric of each prompt under each ablation.

        Raises:
            SweepError: A head, role or position that there is not, or logits that are not finite.
        """
        self.check(sets)
        found = np.full((len(sets), len(self.pairs)), np.nan, dtype=np.float32)
        for examples in length_batches(self.pairs, self._batch_tokens):
            part = self.pairs.select(examples)
            clean = torch.empty(len(part), 1, 0, device=self.model.cfg.device)
            if self.metric == "kl":
                clean = self._forward(part.clean_batch().to(clean.device), [], 0, self.n_layers, last_only=True).float()
            readout = Readout({self.metric: METRICS[self.metric]}, part, clean)
            found[:, examples] = self._values(sets, examples, partial(_first_metric, readout))
        return found

    def losses(self, sets: Sequence[HeadSet]) -> Float[np.ndarray, "set example pos"]:
        """The loss of each token of each prompt under each ablation, as ``token_losses``; prompts of one length.

        Raises:
            SweepError: As ``run``.
            TaskError: The prompts differ in length.
        """
        self.check(sets)
        rows = self.pairs.clean_batch()
        found = np.full((len(sets), *rows.shape), np.nan, dtype=np.float32)
        most = min(self._batch_tokens, default_logit_bytes(self.model) // (4 * int(self.model.cfg.d_vocab)))
        for examples in length_batches(self.pairs, most):
            tokens = rows[examples].to(self.model.cfg.device)
            read = partial(next_token_losses, tokens=tokens)
            found[:, examples] = self._values(sets, examples, read, last_only=False, batch_tokens=most)
        return found

    def hooks(self, sets: Sequence[HeadSet], examples: Sequence[int]) -> Hooks:
        """Forward hooks that ablate, for the clean tokens of some examples of one length, once for each set."""
        return self._hooks(*self._masks(sets, examples), range(self.n_layers))

    def _masks(
        self, sets: Sequence[HeadSet], examples: Sequence[int]
    ) -> tuple[Bool[Tensor, "set example pos layer head"], Float[Tensor, "example pos layer head d_head"]]:
        """Where each set keeps what it has, and what stands elsewhere."""
        part, device = self.pairs.select(examples), self.model.cfg.device
        kept = torch.stack([one.kept(part, self.n_layers, self.n_heads) for one in sets])
        return kept.to(device), torch.stack([self._replacement(i) for i in examples]).to(device)

    def _hooks(
        self,
        kept: Bool[Tensor, "set example pos layer head"],
        replacement: Float[Tensor, "example pos layer head d_head"],
        layers: Iterable[int],
    ) -> Hooks:
        def replace(z: Float[Tensor, "set*example pos head d_head"], hook, layer: int) -> Tensor:
            by_set = z.unflatten(0, kept.shape[:2])
            return torch.where(kept[:, :, :, layer, :, None], by_set, replacement[:, :, layer]).flatten(0, 1)

        changed = [layer for layer in layers if not kept[:, :, :, layer].all()]
        return [(self._site.hook_name(layer), partial(replace, layer=layer)) for layer in changed]

    @torch.no_grad()
    def _values(
        self,
        sets: Sequence[HeadSet],
        examples: Sequence[int],
        read: Callable[[Float[Tensor, "set example read d_vocab"]], Float[Tensor, "set example *value"]],
        last_only: bool = True,
        batch_tokens: int | None = None,
    ) -> Float[np.ndarray, "set example *value"]:
        """What is read under each set. Sets that are alike up to some layer share one stream until then."""
        tokens = self.pairs.select(examples).clean_batch().to(self.model.cfg.device)
        batch_tokens = batch_tokens or self._batch_tokens
        held = max(1, HELD * batch_tokens // tokens.numel())
        if len(sets) > held:
            return np.concatenate([
                self._values(sets[i : i + held], examples, read, last_only, batch_tokens)
                for i in range(0, len(sets), held)
            ])  # fmt: skip
        kept, replacement = self._masks(sets, examples)
        lanes = self._lanes(kept)
        streams = tokens[None]  # [lane example pos], and after the first layers [lane example pos d_model]
        at_once = max(1, batch_tokens // tokens.numel())
        starts = [layer for layer in range(self.n_layers) if not layer or max(lanes[layer + 1]) > max(lanes[layer])]
        for start, stop in pairwise([*starts, self.n_layers]):
            # One set for each lane, and the lane that it comes from.
            firsts = [lanes[start + 1].index(lane) for lane in range(max(lanes[start + 1]) + 1)]
            given: list[Tensor] = []
            for i in range(0, len(firsts), at_once):
                chosen = firsts[i : i + at_once]
                stream = streams[[lanes[start][one] if start else 0 for one in chosen]].flatten(0, 1)
                hooks = self._hooks(kept[chosen], replacement, range(start, stop))
                last = self._forward(stream, hooks, start, stop, last_only).unflatten(0, (len(chosen), len(tokens)))
                given.append(last if stop < self.n_layers else read(last.float()))
            streams = torch.cat(given)
        return streams[lanes[-1]].cpu().numpy()

    def _lanes(self, kept: Bool[Tensor, "set example pos layer head"]) -> list[list[int]]:
        """For each layer, and after the last: which sets have been alike below it, as a number for each set."""
        lanes = [[0] * len(kept)] if self._fast else [list(range(len(kept)))]
        for layer in range(self.n_layers):
            known: dict[tuple[int, bytes], int] = {}
            masks = [kept[i, :, :, layer].cpu().numpy().tobytes() for i in range(len(kept))]
            lanes.append([known.setdefault(key, len(known)) for key in zip(lanes[-1], masks, strict=True)])
        return lanes

    def _forward(self, given: Tensor, hooks: Hooks, start: int, stop: int, last_only: bool) -> Tensor:
        """From tokens, or the stream that enters layer ``start``, to the stream that enters ``stop``, or the logits."""
        kwargs = {"start_at_layer": start} if start else {}
        if stop < self.n_layers:
            kwargs["stop_at_layer"] = stop
        elif last_only:  # Logits of all positions would take more memory than all else.
            hooks = [*hooks, ("unembed.hook_in", lambda stream, hook: stream[:, -1:].contiguous())]
        passed = dict.fromkeys(self.model.blocks[:start], hand_on(n_block_outputs(self.model))) if start else {}
        with forwards(passed):
            return self.model.run_with_hooks(given, fwd_hooks=hooks, **kwargs)

    def check(self, sets: Sequence[HeadSet]) -> None:
        """SweepError for a head or a position that there is not."""
        for (layer, head), positions in (place for one in sets for place in one.places.items()):
            if not 0 <= layer < self.n_layers or not 0 <= head < self.n_heads:
                raise SweepError(f"There is no head L{layer}H{head}: {self.n_layers} layers of {self.n_heads} heads.")
            unknown = [at for at in positions if isinstance(at, str) and at not in self.pairs.roles]
            if unknown:
                raise SweepError(f"Unknown position {unknown[0]!r}: this task names {', '.join(self.pairs.roles)}.")


def _first_metric(readout: Readout, logits: Float[Tensor, "set example 1 d_vocab"]) -> Float[Tensor, "set example"]:
    return readout(logits, "an ablation")[0]
