"""Metrics, receivers, the self-check and checkpoints, each against a few lines that spell it out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

import patchlib
from patchlib import Receiver
from patchlib.patching import engine
from patchlib.patching.metrics import METRICS
from tests.helpers import ATOL, make_pairs, sweep
from tests.tiny import load_tiny

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")


def test_metrics_are_scipy_s():
    rng = np.random.default_rng(0)
    logits, clean = rng.normal(size=(2, 3, 7)), rng.normal(size=(3, 7))
    answers = [(0, 4), (6, 1), (2, 2)]
    given = torch.tensor(logits), torch.tensor(answers), torch.tensor(clean)
    for i in range(2):
        for j, (right, wrong) in enumerate(answers):
            probabilities = scipy.special.softmax(logits[i, j])
            expected = {
                "logit_diff": logits[i, j, right] - logits[i, j, wrong],
                "prob": probabilities[right],
                "prob_diff": probabilities[right] - probabilities[wrong],
                "kl": scipy.stats.entropy(scipy.special.softmax(clean[j]), probabilities),
                "accuracy": float(logits[i, j, right] > logits[i, j, wrong]),  # 0 for a tie, as of the third
            }
            assert {name: float(metric(*given)[i, j]) for name, metric in METRICS.items()} == pytest.approx(expected)


def every_position(logits, pairs):
    """A metric that no position's logits leave as it is."""
    return (logits[..., 3] * torch.arange(1, logits.shape[1] + 1)).sum(-1)


@pytest.mark.parametrize("site", ["z", "v", "pattern", "mlp_out"])
def test_all_heads_of_a_position_are_patched_and_all_positions_are_read(site):
    model = load_tiny("llama")
    pairs = make_pairs(model)
    result = sweep(model, pairs, site, ("layer", "pos"), layers=[0, 1], engine="fast", metric=every_position)
    for i, (clean, corrupted) in enumerate(zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True)):
        with torch.no_grad():
            _, cache = model.run_with_cache(clean[None])
        for layer in (0, 1):
            name = patchlib.SITES[site].hook_name(layer)
            for pos in (5, 6, 8):

                def patch(activation, hook, pos=pos, cache=cache):
                    where = (slice(None), slice(None), pos) if site == "pattern" else (slice(None), pos)
                    activation[where] = cache[hook.name][where]

                with torch.no_grad():
                    logits = model.run_with_hooks(corrupted[None], fwd_hooks=[(name, patch)])
                expected = float(every_position(logits, pairs))
                ours = float(result.patched.isel(metric=0).sel(layer=layer, pos=pos, example=i))
                assert ours == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_each_head_of_keys_is_patched_alone_and_kl_is_from_the_clean_logits():
    """In a model whose four query heads share two heads of keys, in both directions."""
    model = load_tiny("llama")
    pairs = make_pairs(model)
    for direction in ("denoise", "noise"):
        result = sweep(model, pairs, "k", ("layer", "kv_head"), direction, "kl", layers=[1])
        np.testing.assert_allclose(result.clean, 0, atol=1e-6)
        for i, rows in enumerate(zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True)):
            clean, corrupted = (row[None] for row in rows)
            base, other = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
            with torch.no_grad():
                _, cache = model.run_with_cache(other)
                expected = model(clean)[0, -1].softmax(-1)
            for head in (0, 1):

                def patch(keys, hook, head=head, cache=cache):
                    keys[:, :, head] = cache[hook.name][:, :, head]

                with torch.no_grad():
                    logits = model.run_with_hooks(base, fwd_hooks=[("blocks.1.attn.hook_k", patch)])[0, -1]
                ours = float(result.patched.isel(metric=0, layer=0, kv_head=head, example=i))
                assert ours == pytest.approx(scipy.stats.entropy(expected, logits.softmax(-1)), abs=ATOL)


def test_layers_are_patched_together_in_any_order():
    model = load_tiny("gpt2")
    pairs = make_pairs(model)
    there, back = (
        patchlib.path_patch(model, pairs, "logits", ("role",), layers=layers, progress=False).patched
        for layers in ([0, 2], [2, 0])
    )
    np.testing.assert_allclose(there, back, atol=ATOL)


def test_an_activation_that_is_shown_but_not_used_is_refused():
    """Of OPT TransformerLens shows an attention pattern that its attention does not go through."""
    model = load_tiny("opt")
    with pytest.raises(patchlib.SweepError, match="can be read but not patched"):
        sweep(model, make_pairs(model), "pattern")


def test_two_positions_of_one_head_receive_together():
    model = load_tiny("gpt2")
    pairs = make_pairs(model)
    receivers = [Receiver("v", 2, 1, "first"), Receiver("v", 2, 1, "END")]
    result = patchlib.path_patch(model, pairs, receivers, layers=[1], heads=[3], progress=False)
    for i, (clean, corrupted) in enumerate(zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True)):
        with torch.no_grad():
            _, base = model.run_with_cache(clean[None])
            _, other = model.run_with_cache(corrupted[None])

            def send(z, hook, base=base, other=other):
                z[:] = base[hook.name]
                if hook.layer() == 1:
                    z[:, :, 3] = other[hook.name][:, :, 3]

            with model.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_z", send) for layer in range(3)]):
                _, sent = model.run_with_cache(clean[None])

            def hear(v, hook, sent=sent, i=i):
                for role in ("first", "END"):
                    v[:, pairs.roles[role][i], 1] = sent[hook.name][:, pairs.roles[role][i], 1]

            logits = model.run_with_hooks(clean[None], fwd_hooks=[("blocks.2.attn.hook_v", hear)])[0, -1]
        right, wrong = pairs.answers[i]
        assert result.patched.values[..., i].item() == pytest.approx(float(logits[right] - logits[wrong]), abs=ATOL)


def test_a_cell_that_is_left_out_by_mistake_is_caught(monkeypatch):
    model = load_tiny("gpt2")
    pairs = make_pairs(model)
    sweep(model, pairs, engine="fast")
    monkeypatch.setattr(engine.PatchedForwards, "changes", lambda self, cell: False)
    with pytest.raises(patchlib.ExactnessError):
        sweep(model, pairs, "resid_pre", ("layer",))


def test_the_checked_prompt_is_the_one_that_was_run():
    """With 40 prompts the one that the self-check draws is not the first."""
    model = load_tiny("gpt2")
    result = sweep(model, make_pairs(model, n=40), "z", ("layer", "head"), engine="fast")
    assert result.attrs["engine"] == "fast"


def test_a_checkpoint_of_other_answers_other_corruptions_or_another_metric_is_refused(tmp_path):
    model = load_tiny("gpt2")
    pairs = make_pairs(model)
    first, second = (lambda logits, i: logits[0, -1, 3]), (lambda logits, i: logits[0, -1, 7])
    pairs = replace(pairs, compute_metric=first)
    sweep(model, pairs, checkpoint=tmp_path / "z.ckpt")
    others = {
        "answers": replace(pairs, answers=pairs.answers.flip(1)),
        "corrupted": replace(pairs, corrupted_tokens=make_pairs(model, seed=9).corrupted_tokens),
        "roles": replace(pairs, roles={role: positions * (role == "END") for role, positions in pairs.roles.items()}),
        "metric": replace(pairs, compute_metric=second),
    }
    for other in others.values():
        with pytest.raises(patchlib.SweepError, match="is of another sweep"):
            sweep(model, other, checkpoint=tmp_path / "z.ckpt")
    with pytest.raises(patchlib.SweepError, match=r"is of another sweep: .*donors"):
        sweep(model, pairs, source="resample", checkpoint=tmp_path / "z.ckpt")
    mean = {"source": "mean", "reference": make_pairs(model, seed=5), "checkpoint": tmp_path / "mean.ckpt"}
    sweep(model, pairs, **mean)
    with pytest.raises(patchlib.SweepError, match="is of another sweep: donors differ"):
        sweep(model, pairs, **mean | {"reference": make_pairs(model, seed=6)})


def test_a_checkpoint_gives_back_each_cell_and_prompt_its_own_numbers(tmp_path, monkeypatch):
    model = load_tiny("llama")
    pairs = make_pairs(model, n=3)
    how = {"site": "z", "over": ("layer", "head"), "metric": ["logit_diff", "kl", "prob"]}
    whole = sweep(model, pairs, **how, checkpoint=tmp_path / "z.ckpt")
    monkeypatch.setattr(engine.PatchedForwards, "patched_logits", None)  # nothing is left to run
    again = sweep(model, pairs, **how, checkpoint=tmp_path / "z.ckpt")
    np.testing.assert_array_equal(again.patched, whole.patched)
