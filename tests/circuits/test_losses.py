"""Losses by position, with and without heads, against whole forwards; what repeats and what it gains."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

import patchlib
from patchlib import SweepError, TaskError
from patchlib.circuits.ablation import Ablation
from patchlib.circuits.circuit import HeadSet, everywhere
from tests.tiny import load_tiny

ATOL = 1e-4


def by_hand(model, rows, hooks=()) -> np.ndarray:
    with torch.no_grad():
        logits = model.run_with_hooks(rows, fwd_hooks=list(hooks))
    probabilities = logits.log_softmax(-1)[:, :-1].gather(2, rows[:, 1:, None])[..., 0]
    return -probabilities.numpy()


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_rows_come_twice_and_their_partners_do_not(kind):
    model = load_tiny(kind)
    pairs = patchlib.repeated_tokens(model, 5, 7, seed=3)
    clean, corrupted, copy = pairs.clean_batch(), pairs.corrupted_batch(), int(pairs.roles["copy"][0])
    assert clean.shape == (5, copy + 7) and copy == 8  # after BOS
    assert torch.equal(clean[:, 1:copy], clean[:, copy:]) and torch.equal(clean[:, :copy], corrupted[:, :copy])
    assert (corrupted[:, copy:] != clean[:, copy:]).float().mean() > 0.9
    assert torch.equal(pairs.answers, torch.stack([clean[:, -1], corrupted[:, -1]], dim=1))
    assert torch.equal(clean, patchlib.repeated_tokens(model, 5, 7, seed=3).clean_batch())
    assert not torch.equal(clean, patchlib.repeated_tokens(model, 5, 7, seed=4).clean_batch())


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_no_special_token_is_among_the_random_ones(kind):
    model = load_tiny(kind)
    pairs = patchlib.repeated_tokens(model, n_rows=400, seq_len=25)
    after_bos = torch.cat([pairs.clean_batch(), pairs.corrupted_batch()])[:, 1:]
    assert not set(after_bos.unique().tolist()) & set(model.tokenizer.all_special_ids)
    assert len(after_bos.unique()) > 0.95 * (len(model.tokenizer) - len(model.tokenizer.all_special_ids))


def test_losses_are_those_of_a_whole_forward(monkeypatch):
    model = load_tiny("llama")
    pairs = patchlib.repeated_tokens(model, 5, 6)
    losses = patchlib.token_losses(model, pairs)
    assert losses.dims == ("example", "pos") and losses.isel(pos=0).isnull().all()
    np.testing.assert_allclose(losses[:, 1:], by_hand(model, pairs.clean_batch()), atol=ATOL)
    monkeypatch.setattr("patchlib.circuits.losses.default_logit_bytes", lambda model: 4 * model.cfg.d_vocab * 13)
    np.testing.assert_allclose(patchlib.token_losses(model, pairs), losses, atol=ATOL)  # a row at a time


@pytest.mark.parametrize("source", ["zero", "mean"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_losses_without_heads_are_those_with_their_outputs_set_by_hand(kind, source):
    model = load_tiny(kind)
    pairs = patchlib.repeated_tokens(model, 4, 6)
    gone = {0: [1], 2: [0, 3]}
    heads = [(layer, head) for layer, some in gone.items() for head in some]
    ablation = Ablation(model, pairs, source=source, batch_tokens=30)
    values = ablation.losses(
        [HeadSet({}, False), HeadSet(everywhere(heads), False), HeadSet(everywhere([(1, 1)]), False)]
    )
    with torch.no_grad():
        _, cache = model.run_with_cache(pairs.corrupted_batch())

    def put(z, hook):
        corrupted = cache[hook.name]
        mean = (corrupted.sum(0) - corrupted) / (len(corrupted) - 1) * (source == "mean")  # over the other rows
        z[:, :, gone[hook.layer()]] = mean[:, :, gone[hook.layer()]]
        return z

    hooks = [(f"blocks.{layer}.attn.hook_z", put) for layer in gone]
    np.testing.assert_allclose(values[0][:, 1:], by_hand(model, pairs.clean_batch()), atol=ATOL)
    np.testing.assert_allclose(values[1][:, 1:], by_hand(model, pairs.clean_batch(), hooks), atol=ATOL)


def test_copies_are_compared_position_by_position():
    losses = xr.DataArray([[np.nan, 4.0, 6.0, 9.0, 1.0, 3.0]], dims=["example", "pos"], coords={"pos": range(6)})
    copies = patchlib.copy_losses(losses, copy=3)
    assert [float(copies[name][0]) for name in ("first_copy", "second_copy", "gain")] == [5.0, 2.0, 3.0]
    assert float(patchlib.loss_change(losses, 1, 4)[0]) == -3.0
    for early, late in ((0, 3), (3, 2), (2, 6)):
        with pytest.raises(SweepError, match="must be positions of these 6"):
            patchlib.loss_change(losses, early, late)


def test_the_table_of_losses_without_heads():
    model = load_tiny("gpt2")
    pairs = patchlib.repeated_tokens(model, 6, 5)
    copy = int(pairs.roles["copy"][0])
    table = patchlib.ablated_losses(Ablation(model, pairs), {"some": [(1, 0), (2, 2)]}, copy)
    whole = patchlib.copy_losses(patchlib.token_losses(model, pairs), copy).mean()
    assert list(table.index) == ["none", "some"] and table["heads"]["some"] == "L1H0, L2H2"
    assert table.first_copy["none"] == pytest.approx(float(whole.first_copy), abs=1e-4)
    assert table.metric_mean["none"] == pytest.approx(float(whole.second_copy), abs=1e-4)
    row = table.loc["some"]
    assert row.change == pytest.approx(row.metric_mean - table.metric_mean["none"], abs=1e-6)
    assert row.first_copy_change == pytest.approx(row.first_copy - table.first_copy["none"], abs=1e-6)
    assert row.ci_low <= row.change <= row.ci_high and row.n == 6
    assert row.protocol.startswith("loss of the second copy, mean over n = 6")


def test_bad_rows_and_heads_have_one_clear_error():
    model = load_tiny("gpt2")
    with pytest.raises(TaskError, match="seq_len must be a whole number of 2 or more"):
        patchlib.repeated_tokens(model, seq_len=1)
    with pytest.raises(TaskError, match="reads at most"):
        patchlib.repeated_tokens(model, seq_len=10**4)
    pairs = patchlib.repeated_tokens(model, 2, 5)
    with pytest.raises(SweepError, match="no head L9H0"):
        patchlib.ablated_losses(Ablation(model, pairs), {"none there": [(9, 0)]}, 6)


@pytest.mark.real_model
def test_without_its_induction_heads_the_default_model_copies_no_more():
    """At any seed the second copy costs far more without the five best, and the first as much as before."""
    model = patchlib.load_model()
    scores = patchlib.detector_scores(model, n_rows=2).induction
    best = scores.stack(cell=("layer", "head")).sortby(scores.stack(cell=("layer", "head")))[-5:]
    heads = list(zip(best.layer.values.tolist(), best["head"].values.tolist(), strict=True))
    rows = patchlib.repeated_tokens(model, 3, 20, seed=7)
    others = [cell for cell in zip(*(axis.tolist() for axis in np.nonzero(scores.values > 0.2)), strict=True)]
    sets = {"best": heads, **patchlib.random_like(model, heads, 3, exclude=others)}
    table = patchlib.ablated_losses(Ablation(model, rows), sets, copy=21)
    assert table.first_copy["none"] - table.metric_mean["none"] > 5
    assert table.change["best"] > 4 and abs(table.first_copy_change["best"]) < 0.3
    assert table.change.iloc[2:].max() < 1.5
