"""Evidence of cause, who makes up for a knock-out, and faithfulness by protocol, each against a loop by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

import patchlib
from patchlib import Ablation, Circuit, HeadSet, SweepError, everywhere
from patchlib.circuits.attention_effects import MOVES, MOVES_LITTLE, MOVES_NOT, UNTOLD, moved_attention
from tests.helpers import ATOL, alike_pairs, contrast_pairs, mixed_pairs
from tests.tiny import load_tiny

KINDS = ("llama", "gpt2")


def attention_by_hand(model, pairs, i, receiver, role, sender=None, position=None):
    """The pattern's entry from END, with one head's output at one role copied from the corrupted prompt."""
    (layer, head), at = receiver, {name: int(index[i]) for name, index in pairs.roles.items()}
    with torch.no_grad():
        _, other = model.run_with_cache(pairs.corrupted_tokens[i][None])
        hooks = []
        if sender:

            def patch(z, hook):
                z[0, at[position], sender[1]] = other[hook.name][0, at[position], sender[1]]

            hooks = [(f"blocks.{sender[0]}.attn.hook_z", patch)]
        with model.hooks(fwd_hooks=hooks):
            _, cache = model.run_with_cache(pairs.clean_tokens[i][None])
    return float(cache[f"blocks.{layer}.attn.hook_pattern"][0, head, at["END"], at[role]])


@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_read_under_a_patch_of_the_sender_alone(kind):
    model = load_tiny(kind)
    pairs = mixed_pairs(model)
    position, role = list(pairs.roles)[1], next(iter(pairs.roles))
    senders, receivers = [(0, 1), (1, 3)], [(2, 0), (1, 2)]
    effects = patchlib.attention_effects(model, pairs, senders, receivers, role=role, position=position)
    for r, receiver in enumerate(receivers):
        for i in range(len(pairs)):
            clean = attention_by_hand(model, pairs, i, receiver, role)
            assert float(effects.clean.isel(receiver=r, example=i)) == pytest.approx(clean, abs=ATOL)
            for s, sender in enumerate(senders):
                patched = attention_by_hand(model, pairs, i, receiver, role, sender, position)
                got = effects.isel(receiver=r, sender=s, example=i)
                assert float(got.patched) == pytest.approx(patched, abs=ATOL)
                assert float(got.change) == pytest.approx(patched - clean, abs=ATOL)
    assert abs(effects.change.sel(sender="L0H1", receiver="L2H0")).max() > 100 * ATOL / 10
    assert (effects.change.sel(sender="L1H3", receiver="L1H2") == 0).all()  # of its own layer


def test_controls_are_other_heads_of_the_senders_layers():
    model = load_tiny("llama")
    pairs = contrast_pairs(model)
    effects = patchlib.attention_effects(model, pairs, [(0, 1)], [(2, 0)], role="first", n_controls=9)
    assert effects.sender.values.tolist() == ["L0H1", "L0H0", "L0H2", "L0H3"]
    assert effects.is_control.values.tolist() == [False, True, True, True]
    with pytest.raises(SweepError, match="n_controls"):
        patchlib.attention_effects(model, pairs, [(0, 1)], [(2, 0)], role="first", n_controls=-1)
    with pytest.raises(SweepError, match="role"):
        patchlib.attention_effects(model, pairs, [(0, 1)], [(2, 0)], role="IO")


def looks(model, pairs):
    """The clean attention from each role."""
    return {role: patchlib.attention_between(model, pairs, role) for role in pairs.roles}


@pytest.mark.parametrize("site", ["q", "k"])
def test_a_head_s_evidence_is_the_receiver_that_it_moves_most(site):
    model = load_tiny("llama")
    pairs = alike_pairs(model)
    at = "END" if site == "q" else "first"
    rows = [("logits", "logits", 2, 0, "END", 0.5), ("logits", "logits", 2, 1, "END", 0.4)]
    rows.append(("L2H0, L2H1", site, 1, 2, at, 0.3))
    steps = pd.DataFrame(rows, columns=["receivers", "site", "layer", "head_index", "position", "effect"])
    ((place, evidence),) = moved_attention(model, pairs, steps, looks(model, pairs), min_change=0.0).items()
    assert place == (1, 2, at)
    changes = {}
    for receiver in ((2, 0), (2, 1)):
        of_role = {
            role: np.array([attention_by_hand(model, pairs, i, receiver, role) for i in range(len(pairs))])
            for role in pairs.roles
        }
        role = "first" if site == "k" else max(of_role, key=lambda name: of_role[name].mean())
        patched = [attention_by_hand(model, pairs, i, receiver, role, (1, 2), at) for i in range(len(pairs))]
        changes[receiver] = np.array(patched) - of_role[role]
    (_, head), change = max(changes.items(), key=lambda item: abs(item[1].mean()))
    assert evidence["receiver"] == f"L2H{head}"
    assert evidence["attention_change"] == pytest.approx(change.mean(), abs=ATOL)
    half = scipy.stats.t.ppf(1 - 0.05 / 2 / 2, 15) * change.std(ddof=1) / 4  # of two receivers
    assert (
        evidence["change_low"] <= change.mean() - half + ATOL and evidence["change_high"] >= change.mean() + half - ATOL
    )
    ((_, strict),) = moved_attention(model, pairs, steps, looks(model, pairs), min_change=1.0).items()
    assert strict["evidence"] == {MOVES: MOVES_LITTLE, MOVES_NOT: MOVES_NOT}[evidence["evidence"]]
    ((_, one),) = moved_attention(
        model, pairs.select([0]), steps, looks(model, pairs.select([0])), min_change=0.0
    ).items()
    assert one["evidence"] == UNTOLD
    assert evidence["evidence"] in (MOVES, MOVES_NOT)


@pytest.mark.parametrize("kind", KINDS)
def test_the_account_of_a_knock_out_is_made_of_what_heads_write_and_the_norm_s_scale(kind):
    """By hand, with the scale of the final norm and the answers' unembeddings, one prompt at a time."""
    model = load_tiny(kind)
    pairs, gone = contrast_pairs(model, n=6), [(1, 2), (2, 0)]
    ablation = Ablation(model, pairs, source="zero")
    table = patchlib.self_repair(ablation, gone)
    norm = model.ln_final
    wrote, at_clean, writes, diffs = [], [], [], []
    for row, (right, wrong) in zip(pairs.clean_tokens, pairs.answers.tolist(), strict=True):

        def zero(z, hook):
            for layer, head in gone:
                if layer == hook.layer():
                    z[:, :, head] = 0

        hooks = [(f"blocks.{layer}.attn.hook_z", zero) for layer in (1, 2)]
        with torch.no_grad():
            passes = []
            for fwd_hooks in ([], hooks):
                with model.hooks(fwd_hooks=fwd_hooks):
                    logits, cache = model.run_with_cache(row[None])
                z = [cache[f"blocks.{layer}.attn.hook_z"][0, -1].clone() for layer in range(3)]
                if fwd_hooks:
                    for layer, head in gone:
                        z[layer][head] = 0
                stream = cache["blocks.2.hook_resid_post"][0, -1]
                centred = stream - stream.mean() if kind == "gpt2" else stream
                scale = (centred.square().mean() + model.cfg.eps).sqrt()
                direction = model.W_U[:, right] - model.W_U[:, wrong]
                gain = norm.weight
                direction = direction * gain
                direction -= direction.mean() if kind == "gpt2" else 0
                by_head = torch.stack(
                    [
                        torch.einsum("hd,hdm,m->h", z[layer], model.blocks[layer].attn.W_O, direction)
                        for layer in range(3)
                    ]
                ).flatten()
                passes.append((by_head, scale, logits[0, -1, right] - logits[0, -1, wrong]))
        (before, clean_scale, clean), (after, scale, knocked_out) = passes
        wrote.append((before / clean_scale).numpy())
        at_clean.append((after / clean_scale).numpy())
        writes.append((after / scale).numpy())
        diffs.append((float(clean), float(knocked_out)))
    wrote, at_clean, writes, diffs = (np.array(values, dtype=float) for values in (wrote, at_clean, writes, diffs))
    own = (at_clean - wrote).mean(0)
    is_gone = np.isin(np.arange(12), [4 * layer + head for layer, head in gone])
    against = wrote.mean(0) < 0
    by_hand = [own[is_gone].sum(), own[~is_gone & against].sum(), own[~is_gone & ~against].sum()]
    by_hand.append((writes - at_clean).sum(1).mean())
    total = (diffs[:, 1] - diffs[:, 0]).mean()
    by_hand += [total - sum(by_hand), total]
    np.testing.assert_allclose(table.change, by_hand, atol=ATOL)
    assert table.change[:-1].sum() == pytest.approx(table.change["all"], abs=1e-6)
    assert table.before["knocked-out heads"] == pytest.approx(wrote.mean(0)[is_gone].sum(), abs=ATOL)
    assert table.after["all"] == pytest.approx(diffs[:, 1].mean(), abs=ATOL)
    assert set(table["heads"]["knocked-out heads"].split(", ")) == {"L1H2", "L2H0"}


def test_protocols_are_single_measurements_side_by_side():
    model = load_tiny("llama")
    pairs = replace(contrast_pairs(model, n=8), groups=("x", "y") * 4)
    ablations = {name: Ablation(model, pairs, source=name) for name in ("mean", "resample", "zero")}
    circuit = Circuit({"early": [(0, 1), (1, 0)], "late": [(2, 3)]}, {"early": "first", "late": "END"})
    table = patchlib.faithfulness_by_protocol(ablations, circuit, n_random=3)
    assert table[["replaced_by", "positions"]].drop_duplicates().shape == (6, 2)
    for row in table.itertuples():
        ablation = ablations[row.replaced_by]
        kept = circuit.head_positions() if row.positions == "the circuit's" else everywhere(circuit.heads)
        sets = [HeadSet(kept, True), HeadSet(kept, False), HeadSet({}, True), HeadSet({}, False)]
        alone, rest, floor, whole = (float(ablation.measure([one]).mean(dtype=np.float64)) for one in sets)
        means = row.circuit, row.complement, row.floor, row.whole_model
        assert means == pytest.approx((alone, rest, floor, whole), abs=ATOL)
        assert row.faithfulness == pytest.approx(alone / whole, abs=1e-3)
        assert row.above_floor == pytest.approx((alone - floor) / (whole - floor), abs=1e-3)
        assert row.complement_above_floor == pytest.approx((rest - floor) / (whole - floor), abs=1e-3)
        assert row.random_max >= row.random_mean
    assert table.circuit.nunique() == 6
    other = Ablation(model, pairs.select([0, 1, 2]), source="zero")
    for wrong in ({}, {"mean": ablations["mean"], "other": other}):
        with pytest.raises(SweepError, match="same prompts"):
            patchlib.faithfulness_by_protocol(wrong, circuit)
