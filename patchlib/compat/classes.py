"""The seed's classes, thin: prompts as text in, plain objects out, with ``sweep`` doing the work."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import transformer_lens
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_choice, check_heads, check_kind, check_number, check_positions, is_index, listed, shown
from patchlib.compat.printing import HeadPatchingResult, PatchingResult, grid_of, ranked, ratio
from patchlib.errors import SweepError
from patchlib.models.check import check_model
from patchlib.patching.sites import SITES, site_of
from patchlib.patching.sweeps import sweep
from patchlib.tasks.base import Task, as_pairs
from patchlib.tasks.pairs import PromptPairs
from patchlib.tasks.tokens import check_pair, tokenize


@dataclass
class ActivationCache:
    """One prompt's forward pass: TransformerLens' cache, the tokens ``[1 pos]`` and the logits ``[1 pos d_vocab]``.

    Example:
        >>> cache = patchlib.ActivationPatcher(model).cache_activations("Mary gave a drink to")
        >>> cache["blocks.5.hook_resid_pre"].shape[1] == cache.input_tokens.shape[1] == cache.logits.shape[1]
        True
    """

    cache: transformer_lens.ActivationCache
    input_tokens: Int[Tensor, "1 pos"]
    logits: Float[Tensor, "1 pos d_vocab"]

    def __getitem__(self, name: str) -> Tensor:
        activation: Tensor = self.cache[name]
        return activation

    def keys(self) -> list[str]:
        """Names of the activations."""
        return list(self.cache.keys())


def check_cache(cache: ActivationCache) -> ActivationCache:
    """The same cache; SweepError for anything else."""
    return check_kind("clean_cache", cache, ActivationCache, "make it with cache_activations")


class _Patcher:
    """What both patchers do with one prompt."""

    def __init__(self, model: TransformerBridge) -> None:
        check_model(model)
        self.model = model
        self.n_layers, self.n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)

    def cache_activations(self, prompt: str) -> ActivationCache:
        """Run the model on one prompt and keep every activation."""
        tokens = tokenize(self.model, prompt)[None].to(self.model.cfg.device)
        with torch.no_grad():
            logits, cache = self.model.run_with_cache(tokens)
        return ActivationCache(cache, tokens, logits)

    def _patch(
        self, corrupted_prompt: str, clean_cache: ActivationCache, hook_point: str, index: tuple[Any, ...]
    ) -> Float[Tensor, "1 pos d_vocab"]:
        """Logits of the corrupted prompt with ``index`` of one activation taken from the clean forward pass."""
        check_cache(clean_cache)
        tokens = tokenize(self.model, corrupted_prompt)
        check_pair(0, clean_cache.input_tokens[0].cpu(), tokens, lambda token: repr(self.model.to_string([token])))
        self._check_hook_point(hook_point)
        if hook_point not in clean_cache.cache:  # patching it would change nothing, without a word
            raise SweepError(
                f"{hook_point!r} is not in the cache: {self.model.cfg.model_name} does not run it. Patch one of "
                "clean_cache.keys(), or switch it on and cache again (model.set_use_attn_result(True) and the like)."
            )

        def patch(activation: Tensor, hook: object) -> Tensor:
            activation[index] = clean_cache[hook_point][index]  # in place, for resid_mid: see engine.py
            return activation

        tokens, hooks = tokens[None].to(self.model.cfg.device), [(hook_point, patch)]
        with torch.no_grad():
            logits: Tensor = self.model.run_with_hooks(tokens, fwd_hooks=hooks)
        return logits

    def _check_hook_point(self, name: str) -> None:
        if not isinstance(name, str) or name not in self.model.hook_dict:
            raise SweepError(f"There is no hook point {shown(name)}; get_all_hook_points() lists those of this model.")

    def _pairs(self, dataset: Task, indices: Sequence[int] | None) -> PromptPairs:
        pairs = as_pairs(self.model, dataset)
        return pairs if indices is None else pairs.select(indices)


class ActivationPatcher(_Patcher):
    """Denoising of whole hook points, prompt by prompt.

    Example:
        >>> patcher = patchlib.ActivationPatcher(model)
        >>> results = patcher.run_patching_experiment(task, ["blocks.20.hook_attn_out"], pair_indices=[0, 1])
        >>> [round(pair.patching_effect, 2) for pair in results["blocks.20.hook_attn_out"]]
        [0.57, 0.17]
    """

    def patch_activation(
        self, corrupted_prompt: str, clean_cache: ActivationCache, hook_point: str, position: int | None = None
    ) -> Float[Tensor, "1 pos d_vocab"]:
        """Logits of the corrupted prompt with one activation from the clean forward pass.

        Args:
            corrupted_prompt: A text with as many tokens as the clean one.
            clean_cache: From ``cache_activations`` of the clean prompt.
            hook_point: Any hook name of the model.
            position: Token index to patch (the query's, for patterns), from the end where negative; all when None.

        Raises:
            AlignmentError: The prompts do not line up.
            SweepError: Unknown hook point or one that the model does not run, or a position out of range.
        """
        positions = _positions(clean_cache, position)
        self._check_hook_point(hook_point)
        pattern_like = hook_point.endswith(("hook_pattern", "hook_attn_scores"))  # [batch head dest src]
        index = (slice(None), slice(None), positions) if pattern_like else (slice(None), positions)
        return self._patch(corrupted_prompt, clean_cache, hook_point, index)

    def run_patching_experiment(
        self,
        dataset: Task,
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

        Returns:
            Hook point -> a result for each pair.

        Raises:
            SweepError: A hook point that the model does not have, or that is not a site.
            TaskError: Pairs that cannot be used.
        """
        pairs = self._pairs(dataset, pair_indices)
        layers_of: defaultdict[str, set[int]] = defaultdict(set)
        hook_points = listed(hook_points)
        if not hook_points:
            raise SweepError("No hook point was named: give some of get_all_hook_points().")
        for name in hook_points:
            self._check_hook_point(name)
            match site_of(name):
                case site, layer:
                    layers_of[site.name].add(layer)
                case None:
                    sites = f"the sites that can be swept ({', '.join(SITES)})"
                    raise SweepError(f"{name!r} is not one of {sites}; patch it with patch_activation().")
        results: dict[str, list[PatchingResult]] = {}
        for site_name, layers in layers_of.items():
            swept = sweep(self.model, pairs, site_name, ("layer",), layers=sorted(layers), positions=position)
            for layer, result in swept.isel(metric=0).groupby("layer"):
                hook_point = SITES[site_name].hook_name(int(layer))
                result = result.squeeze("layer")
                # Where sweep has warned, what these pairs' ratios divide by is noise.
                has_contrast = not np.isnan(result.effect)
                metrics = np.stack([result[kind] for kind in ("clean", "corrupted", "patched")], axis=1).tolist()
                results[hook_point] = [
                    PatchingResult(hook_point, a, b, c, ratio(a, b, c) if has_contrast else float("nan"))
                    for a, b, c in metrics
                ]
        return {name: results[name] for name in hook_points}

    def get_all_hook_points(self, pattern: str | None = None) -> list[str]:
        """Hook names of this model, sorted; those that contain ``pattern`` where it is given."""
        text = "" if pattern is None else check_kind("pattern", pattern, str, "give a part of a hook point's name")
        return sorted(name for name in self.model.hook_dict if text in name)


class HeadPatcher(_Patcher):
    """Denoising of single attention heads.

    Example:
        >>> patcher = patchlib.HeadPatcher(model)
        >>> clean, corrupted = task.get_clean_corrupt_pairs()[0]
        >>> cache = patcher.cache_activations(clean)
        >>> patched = patcher.patch_head_output(corrupted, cache, layer=20, head=0)
        >>> unpatched = patcher.cache_activations(corrupted).logits
        >>> [round(task.compute_metric(logits, 0), 1) for logits in (unpatched, patched, cache.logits)]
        [-2.9, 1.0, 4.4]
    """

    def patch_head_output(
        self, corrupted_prompt: str, clean_cache: ActivationCache, layer: int, head: int, position: int | None = None
    ) -> Float[Tensor, "1 pos d_vocab"]:
        """Logits of the corrupted prompt with one head's z from the clean forward pass.

        Raises:
            AlignmentError: The prompts do not line up.
            SweepError: There is no such head or position.
        """
        check_heads([(layer, head)], self.n_layers, self.n_heads)
        index = (slice(None), _positions(clean_cache, position), head)
        return self._patch(corrupted_prompt, clean_cache, SITES["z"].hook_name(layer), index)

    def patch_attention_pattern(
        self, corrupted_prompt: str, clean_cache: ActivationCache, layer: int, head: int
    ) -> Float[Tensor, "1 pos d_vocab"]:
        """Logits of the corrupted prompt with one head's attention pattern from the clean forward pass.

        Raises:
            AlignmentError: The prompts do not line up.
            SweepError: There is no such head.
        """
        check_heads([(layer, head)], self.n_layers, self.n_heads)
        return self._patch(corrupted_prompt, clean_cache, SITES["pattern"].hook_name(layer), (slice(None), head))

    def run_all_heads_experiment(
        self,
        dataset: Task,
        pair_indices: Sequence[int] | None = None,
        position: int | None = None,
        patch_type: Literal["output", "pattern"] = "output",
    ) -> list[HeadPatchingResult]:
        """Denoise every head over all pairs.

        Args:
            dataset: The task; its own ``compute_metric`` is used where it has one.
            pair_indices: Which pairs; all when None.
            position: Token index to patch (the query's, for patterns); all positions when None.
            patch_type: ``"output"`` patches z, ``"pattern"`` the attention pattern.

        Returns:
            One result a head, in the order of the layers.

        Raises:
            SweepError: Unknown patch type or position out of range.
        """
        sites = {"output": "z", "pattern": "pattern"}
        site = sites[check_choice("patch_type", patch_type, sites)]
        pairs = self._pairs(dataset, pair_indices)
        result = sweep(self.model, pairs, site, ("layer", "head"), positions=position).isel(metric=0)
        clean, corrupted = float(result.clean.mean()), float(result.corrupted.mean())
        patched, effect = result.patched.mean("example").values, result.effect.values
        return [
            HeadPatchingResult(layer, head, float(effect[layer, head]), clean, corrupted, float(patched[layer, head]))
            for layer, head in np.ndindex(effect.shape)
        ]

    def results_to_heatmap(self, results: Sequence[HeadPatchingResult]) -> Float[Tensor, "layer head"]:
        """Effects as a grid; NaN for heads that are not among the results."""
        return grid_of(results, self.n_layers, self.n_heads)

    def find_important_heads(
        self, results: Sequence[HeadPatchingResult], threshold: float = 0.1
    ) -> list[HeadPatchingResult]:
        """Heads with an absolute effect of at least ``threshold``, largest first."""
        check_number("threshold", threshold)
        return [result for result in ranked(results) if abs(result.patching_effect) >= threshold]


def _positions(clean_cache: ActivationCache, position: int | None) -> slice | int:
    """What of the axis of positions is patched; SweepError for a token that the prompt does not have."""
    if position is None:
        return slice(None)
    n_pos = check_cache(clean_cache).input_tokens.shape[1]
    from_end = is_index(position) and -n_pos <= position < 0
    return int(check_positions(position + n_pos if from_end else position, (), n_pos)[0])
