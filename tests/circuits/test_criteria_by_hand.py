"""Faithfulness, completeness, minimality and losses against their formulas, on ablations that differ by prompt."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import scipy.stats
import torch

import patchlib
from patchlib import Ablation, Circuit, HeadSet, everywhere
from patchlib.patching import budget
from tests.helpers import ATOL, contrast_pairs, make_pairs
from tests.patching.test_costs import shapes_of
from tests.test_stats import fieller_by_hand
from tests.tiny import load_tiny

PARTS = Circuit({"early": [(0, 1), (1, 0), (1, 2)], "late": [(2, 3), (2, 0)]}, {"late": "END"})
ONE_TYPE = Circuit({"all": [(0, 1), (0, 3), (1, 0), (1, 2), (2, 3), (2, 0)]})


@pytest.fixture(scope="module")
def ablation() -> Ablation:
    model = load_tiny("llama")
    return Ablation(model, replace(contrast_pairs(model, n=8), groups=("x", "y") * 4, clusters=tuple("abcd") * 2))


def mean_of(ablation, head_positions, keep) -> float:
    return float(ablation.measure([HeadSet(head_positions, keep)]).mean(dtype=np.float64))


def test_faithfulness_is_a_ratio_of_means_with_its_interval_by_wording(ablation):
    result = patchlib.faithfulness(ablation, PARTS)
    kept, whole, floor = ablation.measure(
        [HeadSet(PARTS.head_positions(), True), HeadSet({}, False), HeadSet({}, True)]
    ).astype(np.float64)
    assert (result.circuit, result.model, result.floor) == pytest.approx((kept.mean(), whole.mean(), floor.mean()))
    assert result.faithfulness == pytest.approx(kept.mean() / whole.mean())
    assert result.above_floor == pytest.approx((kept.mean() - floor.mean()) / (whole.mean() - floor.mean()))
    of_wordings = (values.reshape(2, 4).mean(0) for values in (kept, whole))  # of equal size: each as one prompt
    assert (result.ci_low, result.ci_high) == pytest.approx(fieller_by_hand(*of_wordings), rel=1e-5, nan_ok=True)
    assert (result.n, result.n_heads) == (8, 5)


def test_the_greedy_search_of_completeness_takes_the_worst_head_at_each_step(ablation):
    table = patchlib.completeness(ablation, PARTS, n_random=2, n_greedy=3).set_index("kind")
    gone: list[tuple[int, int]] = []
    for step in range(3):
        scores = {}
        for head in PARTS.heads:
            if head not in gone:
                left = PARTS.without([*gone, head]).head_positions()
                of_circuit = mean_of(ablation, left, True)
                of_model = mean_of(ablation, PARTS.head_positions([*gone, head]), False)
                scores[head] = abs(of_circuit - of_model), of_circuit, of_model
        gone.append(max(scores, key=lambda head: scores[head][0]))
        row = table.loc[f"greedy {step + 1}"]
        expected = scores[gone[-1]]
        assert (row.incompleteness, row.circuit, row.model) == pytest.approx(expected, abs=ATOL)


@pytest.mark.parametrize("circuit", [PARTS, ONE_TYPE], ids=["two types", "one type"])
def test_minimality_is_signed_and_a_share_of_the_model_s_own(ablation, circuit):
    table = patchlib.minimality(ablation, circuit).set_index("head_name")
    if circuit is ONE_TYPE:
        assert (table.K == "rest of all").any(), "or else nothing is seen of the rest of a head's type"
    whole = mean_of(ablation, {}, False)
    for head_type, heads in circuit.head_types.items():
        others = [of for name, of in circuit.head_types.items() if name != head_type]
        for layer, head in heads:
            mates = [mate for mate in heads if mate != (layer, head)]
            changes = []
            for k in ([], mates, *others):
                with_head, without = (
                    mean_of(ablation, circuit.without(gone).head_positions(), True) for gone in (k, [*k, (layer, head)])
                )
                changes.append((without - with_head, with_head, without))
            change, with_head, without = max(changes, key=lambda change: abs(change[0]))
            row = table.loc[f"L{layer}H{head}"]
            assert (row.change, row.with_head, row.without_head) == pytest.approx(
                (change, with_head, without), abs=ATOL
            )
            assert row.share == pytest.approx(abs(change / whole), abs=ATOL)
    assert table.share.is_monotonic_decreasing


def test_knocking_out_is_less_the_model_s_own_and_backup_is_after_less_before(ablation):
    table = patchlib.knock_out(ablation, {"one": [(1, 2)]})
    values = ablation.measure([HeadSet({}, False), HeadSet(everywhere([(1, 2)]), False)]).astype(np.float64)
    assert table.change["one"] == pytest.approx((values[1] - values[0]).mean())
    by_hand = fieller_by_hand((values[1] - values[0]).reshape(2, 4).mean(0), np.ones(4))
    assert (table.ci_low["one"], table.ci_high["one"]) == pytest.approx(by_hand, rel=1e-5)
    backup = patchlib.backup_heads(ablation, [(1, 2)])
    np.testing.assert_allclose(backup.change, backup.after - backup.before, atol=1e-6)


def test_kl_of_an_ablation_is_from_the_clean_model():
    model = load_tiny("llama")
    pairs = make_pairs(model)
    heads = [(1, 2), (2, 0)]
    ours = Ablation(model, pairs, source="zero", metric="kl").measure([HeadSet(everywhere(heads), False)])[0]

    def zero(z, hook):
        z[:, :, dict(heads)[hook.layer()]] = 0

    for i, row in enumerate(pairs.clean_tokens):
        with torch.no_grad():
            clean = model(row[None])[0, -1].softmax(-1)
            hooks = [(f"blocks.{layer}.attn.hook_z", zero) for layer, _ in heads]
            ablated = model.run_with_hooks(row[None], fwd_hooks=hooks)[0, -1].softmax(-1)
        assert ours[i] == pytest.approx(scipy.stats.entropy(clean, ablated), abs=ATOL)


def test_many_sets_at_once_are_each_as_alone():
    """Sets that part and do not meet again, sets that are equal, and one that differs at one position only."""
    model = load_tiny("gpt2")
    pairs = make_pairs(model)
    ablation = Ablation(model, pairs, batch_tokens=50)
    choices = [{}, {(0, 1): [None]}, {(0, 1): ["END"]}]
    sets = [
        HeadSet({**first, **second, **third}, keep=False)
        for first, second, third in product(choices, [{}, {(1, 0): [None]}], [{}, {(2, 2): [None]}, {(2, 3): [8]}])
    ]
    together = ablation.measure([*sets, *sets[::-1]])
    alone = np.concatenate([ablation.measure([one]) for one in sets])
    np.testing.assert_allclose(together[: len(sets)], alone, atol=ATOL)
    np.testing.assert_allclose(together[len(sets) :], alone[::-1], atol=ATOL)
    assert len(np.unique(alone.round(4), axis=0)) > len(sets) / 2, "or else they could be mixed up"


@pytest.mark.parametrize("what", ["token_losses", "ablation"])
def test_losses_keep_to_the_memory_that_is_meant_for_logits(monkeypatch, what):
    model = load_tiny("llama")
    pairs = patchlib.repeated_tokens(model, 12, 4)  # prompts of 9 tokens
    sets = [HeadSet({}, False), HeadSet(everywhere([(1, 1)]), False)]
    ablation = Ablation(model, pairs)
    run = (lambda: patchlib.token_losses(model, pairs)) if what == "token_losses" else lambda: ablation.losses(sets)
    free = run()
    n_pos = len(pairs.clean_tokens[0])
    monkeypatch.setitem(budget.LOGIT_BYTES, "cpu", 4 * model.cfg.d_vocab * n_pos * 5)
    with shapes_of(model.unembed.original_component) as shapes:
        limited = run()
    assert max(4 * shape.numel() for shape in shapes) == budget.LOGIT_BYTES["cpu"]
    np.testing.assert_allclose(limited, free, atol=ATOL)
