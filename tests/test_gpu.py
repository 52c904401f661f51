"""A GPU gives what the CPU gives, in everything that runs a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import patchlib
from patchlib.compat.classes import ActivationPatcher
from tests.helpers import contrast_pairs, mixed_pairs
from tests.tiny import load_tiny, tiny_path

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning"),
]
HEADS = [(0, 1), (1, 2)]


def _circuit() -> patchlib.Circuit:
    return patchlib.Circuit({"early": HEADS[:1], "late": HEADS[1:]}, {"late": 8})


COMPUTATIONS: dict[str, Callable[[Any, patchlib.PromptPairs], Any]] = {
    "all metrics": lambda m, p: patchlib.sweep(
        m, p, "z", ("layer", "head"), metric=list(patchlib.METRICS), progress=False
    ),
    "own metric": lambda m, p: patchlib.sweep(
        m, p, metric=lambda logits, pairs: logits[:, -1, 3] - logits[:, 0, 4], progress=False
    ),
    "plain": lambda m, p: patchlib.sweep(m, p, "resid_pre", ("layer", "role"), engine="plain", progress=False),
    "pattern": lambda m, p: patchlib.sweep(m, p, "pattern", ("layer", "head"), progress=False),
    "zero": lambda m, p: patchlib.sweep(m, p, "mlp_out", source="zero", direction="noise", progress=False),
    "mean": lambda m, p: patchlib.sweep(m, p, "z", source="mean", direction="noise", progress=False),
    "resample": lambda m, p: patchlib.sweep(m, p, "attn_out", source="resample", direction="noise", progress=False),
    "paths to the logits": lambda m, p: patchlib.path_patch(m, p, progress=False),
    "paths to queries": lambda m, p: patchlib.path_patch(
        m, p, receivers=patchlib.inputs_of(m, [(2, 1)], "q"), progress=False
    ),
    **{
        f"edges, {method}": lambda m, p, method=method: patchlib.attribute_edges(m, p, method, progress=False)
        for method in ("eap", "eap-ig-inputs", "eap-ig-activations", "exact")
    },
    "baseline": lambda m, p: patchlib.baseline(m, p),
    "causal trace": lambda m, p: patchlib.causal_trace(
        m, p, "first", "mlp_out", window=2, severed="attn", draws=2, progress=False
    ),
    "sets": lambda m, p: patchlib.patch_set(m, p, [(0, 1), (2, 3, "END"), ("mlp_out", 1)], progress=False),
    "interactions": lambda m, p: patchlib.interactions(m, p, [(0, 1), (1, 2)], progress=False),
    "transplant": lambda m, p: patchlib.transplant(m, p.clean_tokens[0], p.corrupted_tokens[0], [0, 1], [1, 2], 5, 6),
    "subspace": lambda m, p: patchlib.patch_subspace(m, p, torch.eye(int(m.cfg.d_model))[:, :3], 1, "END"),
    "basis of differences": lambda m, p: patchlib.fit_basis(m, p, 1, "END", "pca").abs(),
    "knock-out": lambda m, p: patchlib.knock_out(patchlib.Ablation(m, p), {"two": HEADS}),
    "criteria": lambda m, p: [
        criterion(patchlib.Ablation(m, p), _circuit())
        for criterion in (patchlib.faithfulness, patchlib.completeness, patchlib.minimality)
    ],
    "backup heads": lambda m, p: patchlib.backup_heads(patchlib.Ablation(m, p), HEADS),
    "losses": lambda m, p: patchlib.token_losses(m, p),
    "resampled ablation": lambda m, p: patchlib.knock_out(patchlib.Ablation(m, p, source="resample"), {"two": HEADS}),
    "ablated losses": lambda m, p: patchlib.ablated_losses(
        patchlib.Ablation(m, patchlib.InductionDataset(m, n_prompts=2, seq_len=8, kind="tokens")),
        {"two": HEADS},
        copy=2,
    ),
    "detectors": lambda m, p: patchlib.detector_scores(m, n_rows=2, seq_len=8),
    "patterns": lambda m, p: patchlib.attention_patterns(m, p.clean_tokens[0], HEADS),
    "attention between": lambda m, p: patchlib.attention_between(m, p, "END"),
    "direct logit attribution": lambda m, p: patchlib.direct_logit_attribution(m, p),
    "copying": lambda m, p: patchlib.copying_scores(m, [2, 3, 4, 5, 6, 7]),
    "composition": lambda m, p: patchlib.k_composition(m, [(2, 0)], n_random=3),
    "cache": lambda m, p: xr.DataArray(
        ActivationPatcher(m).cache_activations("Mary gave a drink to")["blocks.1.attn.hook_z"].numpy(force=True)
    ),
}


def _numbers(value: Any) -> list[np.ndarray]:
    """Every number in what a function gave."""
    match value:
        case xr.Dataset():
            return [value[name].values for name in sorted(map(str, value.data_vars))]
        case xr.DataArray():
            return [value.values]
        case pd.DataFrame():
            return [value.select_dtypes("number").to_numpy()]
        case list():
            return [numbers for part in value for numbers in _numbers(part)]
        case _ if hasattr(value, "__dataclass_fields__"):
            return [numbers for name in value.__dataclass_fields__ for numbers in _numbers(getattr(value, name))]
        case int() | float():
            return [np.array(value)]
        case _:
            return []


@pytest.mark.parametrize("name", COMPUTATIONS)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("pairs_of", [contrast_pairs, mixed_pairs])
def test_a_gpu_gives_the_cpus_numbers(kind, name, pairs_of):
    pairs = pairs_of(load_tiny(kind))
    outcomes = []
    for device in ("cpu", "cuda"):
        try:
            outcomes.append(_numbers(COMPUTATIONS[name](patchlib.load_model(tiny_path(kind), device=device), pairs)))
        except patchlib.PatchlibError as error:  # the CPU refuses it too, and then in the same words
            outcomes.append(str(error))
    on_cpu, on_gpu = outcomes
    if isinstance(on_cpu, str) or isinstance(on_gpu, str):
        assert on_cpu == on_gpu
        return
    for expected, given in zip(on_cpu, on_gpu, strict=True):
        np.testing.assert_allclose(given, expected, atol=1e-3, rtol=1e-3)
