"""The values of one head in models whose heads share them, against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import patchlib
from tests.helpers import ATOL, contrast_pairs, make_pairs, mixed_pairs, sweep
from tests.tiny import load_tiny

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")
PATTERN, V, Z = "blocks.{}.attn.hook_pattern", "blocks.{}.attn.hook_v", "blocks.{}.attn.hook_z"


def logit_diff(logits, pairs, example) -> float:
    right, wrong = pairs.answers[example].tolist()
    return float(logits[0, -1, right] - logits[0, -1, wrong])


def by_hand(model, base, values_of, layer, head, src) -> torch.Tensor:
    """Logits with one head reading other values at some positions: its z is its pattern times those."""
    _, cache = model.run_with_cache(base[None])
    values = cache[V.format(layer)][0].clone()  # [pos kv_head d_head]
    values[src] = values_of[layer][src]
    group = head * values.shape[1] // model.cfg.n_heads
    z = cache[PATTERN.format(layer)][0, head] @ values[:, group]

    def write(activation, hook):
        activation[0, :, head] = z

    return model.run_with_hooks(base[None], fwd_hooks=[(Z.format(layer), write)])


@pytest.mark.parametrize(
    ("kind", "direction", "engine"),
    [
        ("llama", "denoise", "auto"),
        ("llama", "noise", "plain"),
        ("falcon", "noise", "auto"),
        ("gemma2", "noise", "auto"),
    ],
)
def test_a_head_reads_other_values_with_its_own_pattern(kind, direction, engine):
    model = load_tiny(kind)
    pairs = make_pairs(model, n=2)
    result = sweep(model, pairs, "head_v", ("layer", "head", "pos"), direction, positions=[5, 7], engine=engine)
    assert result.patched.dims == ("metric", "layer", "head", "pos", "example")
    with torch.no_grad():
        for i, rows in enumerate(zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True)):
            base, other = rows[::-1] if direction == "denoise" else rows
            _, cache = model.run_with_cache(other[None])
            values = [cache[V.format(layer)][0] for layer in range(3)]
            for layer, head, pos in ((0, 1, 5), (1, 2, 5), (2, 3, 7)):
                expected = logit_diff(by_hand(model, base, values, layer, head, [pos]), pairs, i)
                ours = result.patched.isel(metric=0).sel(layer=layer, head=head, pos=pos, example=i)
                assert float(ours) == pytest.approx(expected, abs=ATOL)


@pytest.mark.parametrize("source", ["zero", "mean", "resample"])
def test_values_come_from_every_source(source):
    model = load_tiny("llama")
    pairs = make_pairs(model)
    reference = make_pairs(model, n=5, seed=3)
    given = {} if source == "zero" else {"reference": reference}
    result = sweep(model, pairs, "head_v", ("layer", "head"), "noise", source=source, **given)
    if source == "resample":  # which one is drawn, `v` says: all heads of a group have what the group has
        whole = sweep(model, pairs, "head_v", ("layer",), "noise", source=source, **given)
        group = sweep(model, pairs, "v", ("layer",), "noise", source=source, **given)
        np.testing.assert_allclose(whole.patched, group.patched, atol=ATOL)
        return
    with torch.no_grad():
        _, cache = model.run_with_cache(reference.clean_batch())
        values = [cache[V.format(layer)].mean(0) * (source == "mean") for layer in range(3)]
        for i, row in enumerate(pairs.clean_tokens):
            for layer, head in ((0, 3), (1, 0), (2, 2)):
                expected = logit_diff(by_hand(model, row, values, layer, head, range(9)), pairs, i)
                ours = float(result.patched.isel(metric=0).sel(layer=layer, head=head, example=i))
                assert ours == pytest.approx(expected, abs=ATOL)


@pytest.mark.parametrize("over", [("head",), ("layer", "role"), ("layer", "head", "role")])
def test_without_groups_it_is_v(over):
    model = load_tiny("gpt2")
    pairs = mixed_pairs(model)
    own, shared = (sweep(model, pairs, site, over) for site in ("head_v", "v"))
    np.testing.assert_allclose(own.patched, shared.patched, atol=ATOL)


def test_all_heads_of_a_group_together_are_the_group():
    model = load_tiny("llama")
    pairs = contrast_pairs(model)
    for over in (("layer",), ("layer", "pos"), ("role",)):
        own, shared = (sweep(model, pairs, site, over) for site in ("head_v", "v"))
        np.testing.assert_allclose(own.patched, shared.patched, atol=ATOL)
    assert float(abs(own.patched - own.corrupted).max()) > 0.01


def test_layers_together_read_with_the_patterns_that_come_of_it():
    model = load_tiny("llama")
    pairs = make_pairs(model)
    fast, plain = (sweep(model, pairs, "head_v", ("head",), engine=engine).patched for engine in ("fast", "plain"))
    np.testing.assert_allclose(fast, plain, atol=ATOL)


def test_where_the_pattern_is_not_what_a_head_reads_with_it_is_refused():
    with pytest.raises(patchlib.SweepError, match="pattern can be read but not patched"):
        sweep(load_tiny("opt"), make_pairs(load_tiny("opt")), "head_v", ("layer", "head"))


@pytest.mark.real_model
def test_the_default_model_s_last_heads_differ_from_their_group():
    """By hand, before there was this site: L29H0 and L29H1 share their values, and do opposite things with them."""
    model = patchlib.load_model()
    task = patchlib.IOIDataset(model, n_prompts=4, seed=3)
    over = ("layer", "head")
    effect = sweep(model, task, "head_v", over, layers=[29], heads=[0, 1]).effect.values.ravel()
    np.testing.assert_allclose(effect, [-0.20, 0.26], atol=0.005)
    np.testing.assert_allclose(sweep(model, task, "v", over, layers=[29], heads=[0]).effect.item(), 0.11, atol=0.005)
