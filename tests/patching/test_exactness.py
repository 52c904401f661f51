"""Fast against plain against transformer_lens.patching, for every site, on tiny random models."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from transformer_lens import patching
from transformers import AutoModelForCausalLM

import patchlib
from patchlib.models.load import load_model
from patchlib.patching.engine import PatchedForwards
from patchlib.patching.selfcheck import fast_obstacle, tolerance
from tests.helpers import ATOL, make_pairs
from tests.tiny import DEVICE, load_tiny, tiny_config, tiny_path, tiny_tokenizer

BY_LAYER_POS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
BY_LAYER_HEAD = ("z", "q", "k", "v", "pattern")
FAST = ("gpt2", "llama", "neox", "qwen3", "opt", "phi", "falcon", "mixtral", "gemma2", "mistral")
FALLBACK = ("bloom",)
PARALLEL = ("neox", "phi", "falcon")
# Random models and prompts give no contrast worth the name; exactness does not need one.
pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")


def transformer_lens_sweep(model, pairs, site, direction, setter, axes) -> np.ndarray:
    base, source = pairs.corrupted_batch().to(DEVICE), pairs.clean_batch().to(DEVICE)
    if direction == "noise":
        base, source = source, base
    right, wrong = pairs.answers.to(DEVICE).unbind(1)
    rows = torch.arange(len(pairs), device=DEVICE)

    def metric(logits):
        return logits[rows, -1, right] - logits[rows, -1, wrong]

    with torch.no_grad():
        _, cache = model.run_with_cache(source)
        result = patching.generic_activation_patch(
            model, base, cache, metric, setter, site, index_axis_names=axes, reduce="none"
        )
    return result.values.numpy(force=True)


# The other direction only exchanges the prompts: asked where attention is full, grouped, and swept plainly.
@pytest.mark.parametrize(
    ("kind", "direction"),
    [*((kind, "denoise") for kind in FAST + FALLBACK), *((kind, "noise") for kind in ("gpt2", "llama", "bloom"))],
)
@pytest.mark.parametrize("site", BY_LAYER_POS + BY_LAYER_HEAD)
def test_fast_and_plain_give_what_transformer_lens_gives(kind, site, direction):
    model = load_tiny(kind)
    if kind in PARALLEL and site == "resid_mid":
        with pytest.raises(patchlib.SweepError, match="no site 'resid_mid'"):
            patchlib.sweep(model, make_pairs(model), site)
        return
    if kind == "opt" and site == "pattern":
        with pytest.raises(patchlib.SweepError, match="pattern can be read but not patched"):
            patchlib.sweep(model, make_pairs(model), site)
        return
    pairs = make_pairs(model)
    if site in BY_LAYER_POS:
        over, axes, setter = ("layer", "pos"), ("layer", "pos"), patching.layer_pos_patch_setter
    elif site == "pattern":
        over, axes, setter = ("layer", "head"), ("layer", "head_index"), patching.layer_head_pattern_patch_setter
    else:
        over, axes, setter = ("layer", "head"), ("layer", "head"), patching.layer_head_vector_patch_setter
    expected = transformer_lens_sweep(model, pairs, site, direction, setter, axes)
    for engine in ("auto", "plain"):
        result = patchlib.sweep(model, pairs, site, over, direction, engine=engine, progress=False)
        assert result.attrs["engine"].startswith("fast" if engine == "auto" and kind in FAST else "plain")
        np.testing.assert_allclose(result.patched.sel(metric="logit_diff").values, expected, atol=ATOL)
    base = result.corrupted if direction == "denoise" else result.clean
    assert float(abs(result.patched - base).max()) > 0.01, "nothing was patched, so nothing was compared"


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("site", ["z", "q", "k", "v"])
def test_heads_by_position_give_what_transformer_lens_gives(kind, site):
    model = load_tiny(kind)
    pairs = make_pairs(model)
    expected = transformer_lens_sweep(
        model, pairs, site, "denoise", patching.layer_pos_head_vector_patch_setter, ("layer", "pos", "head")
    )
    result = patchlib.sweep(model, pairs, site, ("layer", "pos", "head"), progress=False)
    np.testing.assert_allclose(result.patched.sel(metric="logit_diff").values, expected, atol=ATOL)
    kv = kind == "llama" and site in ("k", "v")
    assert result.patched.dims == ("metric", "layer", "pos", "kv_head" if kv else "head", "example")


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("site", ["resid_pre", "z", "v", "pattern"])
def test_roles_patch_each_prompt_at_its_own_position(site, direction):
    model = load_tiny("llama")
    pairs = make_pairs(model)
    by_role = patchlib.sweep(model, pairs, site, ("layer", "role"), direction, progress=False)
    by_pos = patchlib.sweep(model, pairs, site, ("layer", "pos"), direction, engine="plain", progress=False)
    for role, positions in pairs.roles.items():
        for example, position in enumerate(positions.tolist()):
            at_role = by_role.patched.sel(role=role).isel(example=example)
            np.testing.assert_allclose(at_role, by_pos.patched.sel(pos=position).isel(example=example), atol=ATOL)


def test_all_metrics_agree_between_engines():
    model = load_tiny("llama")
    pairs = make_pairs(model)

    def first_position_entropy(logits, pairs):
        return torch.distributions.Categorical(logits=logits[:, 0]).entropy() + logits[:, -1, 3]

    metrics = ["logit_diff", "prob", "kl", "accuracy", first_position_entropy]
    fast, plain = (
        patchlib.sweep(model, pairs, "z", ("layer", "head"), metric=metrics, engine=engine, progress=False)
        for engine in ("fast", "plain")
    )
    assert list(fast.metric.values) == ["logit_diff", "prob", "kl", "accuracy", "first_position_entropy"]
    np.testing.assert_allclose(fast.patched, plain.patched, atol=ATOL)
    np.testing.assert_allclose(fast.clean.sel(metric="kl"), 0, atol=1e-5)
    assert float(fast.corrupted.sel(metric="kl").min()) > 0


@pytest.mark.parametrize("batch_tokens", [1, 30, 10_000])
def test_batch_size_does_not_matter(batch_tokens):
    model = load_tiny("gpt2")
    pairs = make_pairs(model, n=5)
    small = patchlib.sweep(model, pairs, "resid_pre", batch_tokens=batch_tokens, progress=False)
    large = patchlib.sweep(model, pairs, "resid_pre", engine="plain", progress=False)
    np.testing.assert_allclose(small.patched, large.patched, atol=ATOL)


def test_lengths_and_first_differences_may_be_mixed():
    model = load_tiny("llama")
    parts = [make_pairs(model, n=3, length=9, start=5), make_pairs(model, n=2, length=7, start=2, seed=1)]
    rows = {
        name: [row for part in parts for row in getattr(part, name)] for name in ("clean_tokens", "corrupted_tokens")
    }
    pairs = patchlib.PromptPairs(**rows, answers=torch.cat([part.answers for part in parts]))
    together = patchlib.sweep(model, pairs, "resid_pre", progress=False)
    for part, examples in zip(parts, (slice(0, 3), slice(3, 5)), strict=True):
        alone = patchlib.sweep(model, part, "resid_pre", progress=False)
        shared = together.patched.isel(example=examples, pos=slice(0, alone.sizes["pos"]))
        np.testing.assert_allclose(shared, alone.patched, atol=ATOL)
    assert together.patched.isel(example=slice(3, 5), pos=slice(7, 9)).isnull().all()
    assert together.patched.isel(example=slice(0, 3)).notnull().all()


@pytest.mark.parametrize("kind", ["mistral", "gemma2"])
@pytest.mark.parametrize("length", [6, 7, 12])
def test_windows_that_are_longer_or_shorter_than_the_prompts_are_swept_fast(kind, length):
    model = load_tiny(kind)
    pairs = make_pairs(model, length=length, start=3)
    result = patchlib.sweep(model, pairs, "resid_pre", engine="fast", progress=False)
    expected = transformer_lens_sweep(
        model, pairs, "resid_pre", "denoise", patching.layer_pos_patch_setter, ("layer", "pos")
    )
    np.testing.assert_allclose(result.patched.sel(metric="logit_diff").values, expected, atol=ATOL)


ROTATIONS = {
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0] * 4,
        "long_factor": [3.0] * 4,
        "original_max_position_embeddings": 10,
    },
}


@pytest.mark.parametrize("scaling", ROTATIONS)
def test_rotations_that_depend_on_the_prompt_s_length_are_fast_up_to_there(scaling, tmp_path):
    longest = 20 if scaling == "dynamic" else 10  # and to 40 tokens, with the factor of 2, or to 20
    text_of = tiny_tokenizer()
    config = tiny_config("llama", len(text_of))
    config.max_position_embeddings = 20
    config.rope_parameters = {"rope_theta": 10000.0, **ROTATIONS[scaling]}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    text_of.save_pretrained(tmp_path)
    model = load_model(tmp_path, device=DEVICE)
    within = patchlib.sweep(model, make_pairs(model, length=longest), engine="auto", progress=False)
    assert within.attrs["engine"] == "fast"
    with pytest.warns(patchlib.EngineWarning, match=f"plain forwards, .*beyond {longest} tokens"):
        beyond = patchlib.sweep(model, make_pairs(model, length=longest + 2), progress=False)
    assert beyond.attrs["engine"].startswith(f"plain (beyond {longest} tokens")


def test_an_architecture_that_cannot_resume_falls_back_and_says_why_once():
    model = load_model(tiny_path("bloom"), device=DEVICE)
    with pytest.warns(patchlib.EngineWarning, match="plain forwards, several times slower: resuming in the middle"):
        assert "resuming in the middle" in patchlib.sweep(model, make_pairs(model), progress=False).attrs["engine"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", patchlib.EngineWarning)
        patchlib.sweep(model, make_pairs(model), progress=False)
    with pytest.raises(patchlib.SweepError, match="engine='fast' does not hold"):
        patchlib.sweep(model, make_pairs(model), "resid_pre", engine="fast", progress=False)


def test_bfloat16_is_as_exact_as_its_few_bits():
    model = load_model(tiny_path("llama"), device=DEVICE, dtype="bfloat16")
    pairs = make_pairs(model)
    fast, plain = (
        patchlib.sweep(model, pairs, "z", ("layer", "head"), engine=engine, progress=False).patched
        for engine in ("fast", "plain")
    )
    # 8 bits: a logit of 4 is rounded to 1/32, and the two ways round at other places.
    np.testing.assert_allclose(fast, plain, atol=tolerance(torch.bfloat16) * float(abs(plain).max()))


def test_a_wrong_fast_forward_is_caught(monkeypatch):
    honest = PatchedForwards.patched_logits

    def wrong(self, cells):
        return honest(self, cells) + (0.01 if self.fast else 0)

    model = load_tiny("gpt2")
    assert fast_obstacle(model) is None
    monkeypatch.setattr(PatchedForwards, "patched_logits", wrong)
    with pytest.raises(patchlib.ExactnessError, match=r"off by 0\.01"):
        patchlib.sweep(model, make_pairs(model), "z", ("layer", "head"), progress=False)


def test_the_model_is_left_as_it_was():
    model = load_tiny("llama")
    pairs = make_pairs(model)
    with torch.no_grad():
        before = model(pairs.clean_batch().to(DEVICE))
    patchlib.sweep(model, pairs, "z", ("layer", "head"), progress=False)
    with torch.no_grad():
        after = model(pairs.clean_batch().to(DEVICE))
    assert torch.equal(before, after)
    assert not any(hook.fwd_hooks for hook in model.hook_dict.values())
