"""The seed's classes, thin: prompts as text in, plain objects out, with ``sweep`` doing the work."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import transformer_lens
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib.compat.printing import HeadPatchingResult, PatchingResult, ranked, ratio
from patchlib.errors import SweepError
from patchlib.patching.sites import SITES, site_of
from patchlib.patching.sweeps import sweep
from patchlib.tasks.base import PatchingDataset, PromptPairs, as_pairs
from patchlib.tasks.tokens import check_pair, tokenize


@dataclass
class ActivationCache:
    """One prompt's run: TransformerLens' cache, the tokens ``[1 pos]`` and the logits ``[1 pos d_vocab]``."""

    cache: transformer_lens.ActivationCache
    input_tokens: Int[Tensor, "1 pos"]
    logits: Float[Tensor, "1 pos d_vocab"]

    def __getitem__(self, name: str) -> Tensor:
        return self.cache[name]

    def keys(self) -> list[str]:
        """Names of the activations."""
        return list(self.cache.keys())


class _Patcher:
    """What both patchers do with one prompt."""

    def __init__(self, model: TransformerBridge) -> None:
        self.model = model

    def cache_activations(self, prompt: str) -> ActivationCache:
        """Run one prompt and keep every activation."""
        tokens = tokenize(self.model, prompt)[None].to(self.model.cfg.device)
        with torch.no_grad():
            logits, cache = self.model.run_with_cache(tokens)
        return ActivationCache(cache, tokens, logits)

    def _patch(
        self, corrupted_prompt: str, clean_cache: ActivationCache, hook_point: str, index: tuple
    ) -> Float[Tensor, "1 pos d_vocab"]:
        """Logits of the corrupted prompt with ``index`` of one activation taken from the clean run."""
        tokens = tokenize(self.model, corrupted_prompt)
        check_pair(0, clean_cache.input_tokens[0].cpu(), tokens, lambda token: repr(self.model.to_string([token])))
        self._check_hook_point(hook_point)
        if hook_point not in clean_cache.cache:  # patching it would change nothing, without a word
            raise SweepError(
                f"{hook_point!r} is not in the cache: {self.model.cfg.model_name} does not run it. Patch one of "
                "clean_cache.keys(), or switch it on and cache again (model.set_use_attn_result(True) and the like)."
            )

        def put(activation: Tensor, hook) -> Tensor:
            activation[index] = clean_cache[hook_point][index]  # in place, for resid_mid: see engine.py
            return activation

        with torch.no_grad():
            return self.model.run_with_hooks(tokens[None].to(self.model.cfg.device), fwd_hooks=[(hook_point, put)])

    def _check_hook_point(self, name: str) -> None:
        if name not in self.model.hook_dict:
            raise SweepError(f"There is no hook point {name!r}; get_all_hook_points() lists those of this model.")


class ActivationPatcher(_Patcher):
    """Denoising of whole hook points, prompt by prompt."""

    def patch_activation(
        self, corrupted_prompt: str, clean_cache: ActivationCache, hook_point: str, position: int | None = None
    ) -> Float[Tensor, "1 pos d_vocab"]:
        """Logits of the corrupted prompt with one activation from the clean run, at one position or at all.

        Raises:
            AlignmentError: The prompts do not line up.
            SweepError: Unknown hook point or one that the model does not run, or a position out of range.
        """
        where = _where(clean_cache, position)
        pattern_like = hook_point.endswith(("hook_pattern", "hook_attn_scores"))  # [batch head dest src]
        index = (slice(None), slice(None), where) if pattern_like else (slice(None), where)
        return self._patch(corrupted_prompt, clean_cache, hook_point, index)

    def run_patching_experiment(
        self,
        dataset: PatchingDataset | PromptPairs,
        hook_points: Sequence[str],
        pair_indices: Sequence[int] | None = None,
        position: int | None = None,
    ) -> dict[str, list[PatchingResult]]:
        """Denoise every hook point in every pair.

        Args:
            dataset: The task; its own ``compute_metric`` is used where it has one.
            hook_points: Hook names of sites that ``sweep`` knows, such as ``"blocks.5.hook_attn_out"``; any
                other activation can be patched with ``patch_activation``.
            pair_indices: Which pairs; all when None.
            position: Token index to patch; all positions when None.

        Raises:
            SweepError: A hook point that the model does not have, or that is not a site.
            TaskError: Pairs that cannot be used.
        """
        pairs = _chosen(self.model, dataset, pair_indices)
        by_site: dict[str, list[int]] = defaultdict(list)
        for name in hook_points:
            self._check_hook_point(name)
            place = site_of(name)
            if place is None:
                raise SweepError(
                    f"{name!r} is not one of the sites that can be swept ({', '.join(SITES)}); "
                    "patch it with patch_activation()."
                )
            by_site[place[0].name].append(place[1])
        found: dict[str, list[PatchingResult]] = {}
        for name, layers in by_site.items():
            result = sweep(
                self.model, pairs, name, ("layer",), layers=sorted(set(layers)), positions=_at(position)
            ).isel(metric=0)
            for layer in result.layer.values:
                one = result.sel(layer=layer)
                values = zip(one.clean.values, one.corrupted.values, one.patched.values, strict=True)
                hook_point = SITES[name].hook_name(int(layer))
                found[hook_point] = [
                    PatchingResult(hook_point, float(a), float(b), float(c), ratio(a, b, c)) for a, b, c in values
                ]
                if np.isnan(one.effect):  # sweep has warned: what these pairs' ratios divide by is noise
                    for pair in found[hook_point]:
                        pair.patching_effect = float("nan")
        return {name: found[name] for name in hook_points}

    def get_all_hook_points(self, pattern: str | None = None) -> list[str]:
        """Hook names of this model, sorted; those that contain ``pattern`` where it is given."""
        return sorted(name for name in self.model.hook_dict if pattern is None or pattern in name)


class HeadPatcher(_Patcher):
    """Denoising of single attention heads."""

    def __init__(self, model: TransformerBridge) -> None:
        super().__init__(model)
        self.n_layers, self.n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)

    def patch_head_output(
        self, corrupted_prompt: str, clean_cache: ActivationCache, layer: int, head: int, position: int | None = None
    ) -> Float[Tensor, "1 pos d_vocab"]:
        """Logits of the corrupted prompt with one head's z from the clean run, at one position or at all."""
        self._check(layer, head)
        where = _where(clean_cache, position)
        return self._patch(corrupted_prompt, clean_cache, SITES["z"].hook_name(layer), (slice(None), where, head))

    def patch_attention_pattern(
        self, corrupted_prompt: str, clean_cache: ActivationCache, layer: int, head: int
    ) -> Float[Tensor, "1 pos d_vocab"]:
        """Logits of the corrupted prompt with one head's attention pattern from the clean run."""
        self._check(layer, head)
        return self._patch(corrupted_prompt, clean_cache, SITES["pattern"].hook_name(layer), (slice(None), head))

    def _check(self, layer: int, head: int) -> None:
        if not (0 <= layer < self.n_layers and 0 <= head < self.n_heads):
            raise SweepError(
                f"There is no head L{layer}H{head}: {self.n_layers} layers of {self.n_heads} heads, from 0."
            )

    def run_all_heads_experiment(
        self,
        dataset: PatchingDataset | PromptPairs,
        pair_indices: Sequence[int] | None = None,
        position: int | None = None,
        patch_type: Literal["output", "pattern"] = "output",
    ) -> list[HeadPatchingResult]:
        """Denoise every head over all pairs, one result a head in layer order.

        Args:
            dataset: The task; its own ``compute_metric`` is used where it has one.
            pair_indices: Which pairs; all when None.
            position: Token index to patch (the query's, for patterns); all positions when None.
            patch_type: ``"output"`` patches z, ``"pattern"`` the attention pattern.

        Raises:
            SweepError: Unknown patch type or position out of range.
        """
        sites = {"output": "z", "pattern": "pattern"}
        if patch_type not in sites:
            raise SweepError(f"Unknown patch_type {patch_type!r}: choose 'output' or 'pattern'.")
        pairs = _chosen(self.model, dataset, pair_indices)
        result = sweep(self.model, pairs, sites[patch_type], ("layer", "head"), positions=_at(position)).isel(metric=0)
        clean, corrupted = float(result.clean.mean()), float(result.corrupted.mean())
        patched, effect = result.patched.mean("example").values, result.effect.values
        return [
            HeadPatchingResult(layer, head, float(effect[layer, head]), clean, corrupted, float(patched[layer, head]))
            for layer, head in np.ndindex(effect.shape)
        ]

    def results_to_heatmap(self, results: Sequence[HeadPatchingResult]) -> Float[Tensor, "layer head"]:
        """Effects as a grid; NaN for heads that are not among the results."""
        heatmap = torch.full((self.n_layers, self.n_heads), torch.nan)
        for result in results:
            heatmap[result.layer, result.head] = result.patching_effect
        return heatmap

    def find_important_heads(
        self, results: Sequence[HeadPatchingResult], threshold: float = 0.1
    ) -> list[HeadPatchingResult]:
        """Heads with an absolute effect of at least ``threshold``, largest first."""
        return ranked([result for result in results if abs(result.patching_effect) >= threshold])


def _chosen(
    model: TransformerBridge, dataset: PatchingDataset | PromptPairs, indices: Sequence[int] | None
) -> PromptPairs:
    pairs = as_pairs(model, dataset)
    return pairs if indices is None else pairs.select(indices)


def _where(clean_cache: ActivationCache, position: int | None) -> slice | int:
    n_pos = clean_cache.input_tokens.shape[1]
    if position is None:
        return slice(None)
    if not -n_pos <= position < n_pos:
        raise SweepError(f"Position {position} is outside the prompt, which has positions 0 to {n_pos - 1}.")
    return position


def _at(position: int | None) -> list[int] | None:
    return None if position is None else [position]
