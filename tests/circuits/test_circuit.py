"""Ablations and circuits against bare hooks, one prompt at a time, and what must hold of any circuit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import t as student

import patchlib
from patchlib import Circuit, PromptPairs, SweepError, completeness, faithfulness, knock_out, minimality, random_like
from patchlib._util import head_name
from patchlib.circuits.ablation import Ablation
from patchlib.circuits.circuit import HeadSet, everywhere
from patchlib.circuits.knockouts import backup_heads
from patchlib.circuits.reference import like_prompts
from patchlib.tasks.words import NAMES
from tests.helpers import make_pairs
from tests.tiny import load_tiny

ATOL = 1e-4
SOME = Circuit({"early": [(0, 1), (1, 0)], "late": [(2, 3), (2, 0)]}, {"late": "END", "early": ["varied", "first"]})


def all_heads(model) -> Circuit:
    return Circuit({"all": [(i, h) for i in range(model.cfg.n_layers) for h in range(model.cfg.n_heads)]})


def grouped(model, n=6):
    return replace(make_pairs(model, n=n), groups=("x", "y") * (n // 2))


def by_hand(model, pairs, head_positions, keep, source) -> list[float]:
    """Mean or zero ablation, one prompt at a time; means over the other prompts' corrupted ones in the same group."""
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)]
    found = []
    for i, row in enumerate(pairs.clean_tokens):
        caches = [
            model.run_with_cache(other[None])[1]
            for j, (group, other) in enumerate(zip(pairs.groups, pairs.corrupted_tokens, strict=True))
            if group == pairs.groups[i] and j != i
        ]

        def put(z, hook, i=i, caches=caches):
            layer = hook.layer()
            new = torch.cat([cache[hook.name] for cache in caches]).mean(0, keepdim=True)
            new = new if source == "mean" else torch.zeros_like(new)
            own = torch.zeros(z.shape[1:3], dtype=torch.bool)
            for (of_layer, head), positions in head_positions.items():
                for position in positions if of_layer == layer else ():
                    at = slice(None) if position is None else int(pairs.roles[position][i])
                    own[at, head] = True
            return torch.where((own if keep else ~own)[None, :, :, None], z, new)

        with torch.no_grad():
            logits = model.run_with_hooks(row[None], fwd_hooks=[(name, put) for name in names])[0, -1]
        right, wrong = pairs.answers[i].tolist()
        found.append(float(logits[right] - logits[wrong]))
    return found


@pytest.mark.parametrize("source", ["mean", "zero"])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "phi", "gemma2"])
def test_an_ablation_is_what_it_says(kind, keep, source):
    model = load_tiny(kind)
    pairs = grouped(model)
    ours = Ablation(model, pairs, source=source, batch_tokens=40).measure(
        [HeadSet({}, keep), HeadSet(SOME.head_positions(), keep)]
    )
    np.testing.assert_allclose(ours[1], by_hand(model, pairs, SOME.head_positions(), keep, source), atol=ATOL)
    np.testing.assert_allclose(ours[0], by_hand(model, pairs, {}, keep, source), atol=ATOL)


def test_resampling_takes_another_prompt_s_outputs():
    """With one other prompt alike, keeping nothing gives that one's heads, as a mean over it alone does."""
    model = load_tiny("llama")
    pairs = replace(make_pairs(model, n=4), groups=("a", "b", "a", "b"))
    ours = Ablation(model, pairs, source="resample").measure([HeadSet({}, True)])
    with pytest.warns(patchlib.ReferenceWarning, match="one over 1 prompts of some template"):
        means = Ablation(model, pairs, source="mean").measure([HeadSet({}, True)])
    np.testing.assert_allclose(ours, means, atol=ATOL)
    np.testing.assert_allclose(means[0], by_hand(model, pairs, {}, True, "mean"), atol=ATOL)


@pytest.mark.parametrize("source", ["mean", "resample"])
def test_nothing_is_its_own_reference(source):
    """Neither a prompt nor its partner stands in for itself, in whatever reference they are."""
    model = load_tiny("llama")
    pairs, others = make_pairs(model, n=2), make_pairs(model, n=12, seed=5)
    both = PromptPairs(
        (*pairs.clean_tokens, *pairs.corrupted_tokens, *others.clean_tokens),
        (*pairs.corrupted_tokens, *pairs.clean_tokens, *others.corrupted_tokens),
        torch.cat([pairs.answers, pairs.answers.flip(1), others.answers]),
    )
    like = like_prompts(pairs, both)
    assert like.of_prompt == [[1, 3, *range(4, 16)], [0, 2, *range(4, 16)]]
    assert not {like.drawn(seed)[0] for seed in range(50)} & {0, 2}
    with pytest.raises(SweepError, match=r"no prompt like prompt 0 .* beside its own: give a reference with more"):
        Ablation(model, pairs.select([0]), source=source)
    ablation = Ablation(model, pairs, source=source, reference=both)
    assert ("mean over 14 of 16 prompts" in ablation.protocol) == (source == "mean")


def test_the_reference_s_draw_is_in_the_interval():
    """The error that one reference gives is, on average, how far the means of many references lie apart."""
    model = load_tiny("gpt2")
    pairs, keep = make_pairs(model, n=4), [HeadSet(SOME.head_positions(), True), HeadSet({}, False)]
    ablations = [Ablation(model, pairs, reference=make_pairs(model, n=16, seed=seed)) for seed in range(10, 50)]
    apart = np.std([ablation.measure(keep).mean(1) for ablation in ablations], axis=0, ddof=1)
    said = np.sqrt(np.mean([ablation.reference_error(keep) ** 2 for ablation in ablations], axis=0))
    assert 0.7 < said[0] / apart[0] < 1.4 and said[1] < 1e-6 and apart[1] < 1e-5
    logits = model(pairs.clean_batch())[:, -1]
    clear = replace(pairs, answers=torch.stack([logits.argmax(-1), logits.argmin(-1)], dim=1))  # never near 0
    ablation = Ablation(model, clear, reference=make_pairs(model, n=16, seed=10))
    found, values = faithfulness(ablation, SOME), ablation.measure(keep)
    alone = patchlib.stats.ratio_interval(values[0], values[1])
    error = student.ppf(0.975, 3) * ablation.reference_error(keep)[0] / values[1].mean()
    low, high = (
        found.faithfulness + np.array([-1, 1]) * np.hypot(alone - np.float64(found.faithfulness), error)
    ).tolist()
    assert (found.ci_low, found.ci_high) == pytest.approx((low, high), rel=1e-3)
    for ablation in (Ablation(model, pairs, source="resample"), Ablation(model, pairs, source="zero")):
        assert (ablation.reference_error(keep) == 0).all()


def test_a_task_draws_its_own_reference():
    """IOI: ABC prompts of each of its templates."""
    model = load_tiny("gpt2")
    task = patchlib.IOIDataset(model, n_prompts=3)
    reference = task.reference(model, per_template=12)
    pairs = task.to_pairs(model)
    assert Counter(reference.groups) == dict.fromkeys(pairs.groups, 12)
    for row in reference.clean_tokens:  # three names that differ
        words = model.to_string(row).replace(".", " ").replace(",", " ").split()
        assert len({word for word in words if word in NAMES}) == 3
        assert sum(word in NAMES for word in words) == 3
    assert "mean over 20 of 60 prompts" in Ablation(model, task).protocol


@pytest.mark.parametrize("kind", ["gpt2", "llama", "phi"])
def test_the_circuit_of_all_heads_is_the_model_and_that_of_none_is_the_floor(kind):
    model = load_tiny(kind)
    pairs = grouped(model)
    whole = faithfulness(Ablation(model, pairs), all_heads(model))
    assert whole.faithfulness == 1 and whole.above_floor == 1 and whole.ci_low == whole.ci_high == 1
    assert whole.model == pytest.approx(float(patchlib.baseline(model, pairs).clean.mean()), abs=ATOL)
    none = faithfulness(Ablation(model, pairs), Circuit({}))
    assert none.circuit == none.floor == whole.floor and none.above_floor == 0
    assert "n = 6" in whole.protocol and "mean over 2 of 6 prompts" in whole.protocol


def test_the_circuit_of_all_heads_is_complete():
    model = load_tiny("llama")
    table = completeness(Ablation(model, grouped(model)), all_heads(model), n_random=3, n_greedy=2)
    assert list(table.kind) == ["none", "all", "random 0", "random 1", "random 2", "greedy 1", "greedy 2"]
    np.testing.assert_allclose(table.incompleteness, 0, atol=ATOL)


def test_completeness_compares_circuit_and_model_without_the_same_heads():
    model = load_tiny("llama")
    pairs = grouped(model)
    table = completeness(Ablation(model, pairs), SOME, n_random=2, n_greedy=3).set_index("kind")
    ablation = Ablation(model, pairs)
    kept = ablation.measure([HeadSet(SOME.without(SOME.head_types["late"]).head_positions(), True)]).mean()
    lost = ablation.measure([HeadSet(SOME.head_positions(SOME.head_types["late"]), False)]).mean()
    assert table.circuit["late"] == pytest.approx(kept, abs=ATOL) and table.model["late"] == pytest.approx(
        lost, abs=ATOL
    )
    assert table.incompleteness["late"] == pytest.approx(abs(kept - lost), abs=ATOL)
    one_head = [abs(np.subtract(*ablation.measure([HeadSet(SOME.without([head]).head_positions(), True),
                                               HeadSet(SOME.head_positions([head]), False)]).mean(1)))
                for head in SOME.heads]  # fmt: skip
    assert table.incompleteness["greedy 1"] == pytest.approx(max(one_head), abs=ATOL)
    assert set(table.heads["greedy 1"].split(", ")) < set(table.heads["greedy 2"].split(", "))


def test_minimality_takes_the_set_that_shows_a_head_best():
    model = load_tiny("llama")
    pairs = grouped(model)
    table = minimality(Ablation(model, pairs), SOME)
    assert sorted(table.head_name) == ["L0H1", "L1H0", "L2H0", "L2H3"]
    ablation = Ablation(model, pairs)
    for row in table.itertuples():
        head = next(one for one in SOME.heads if head_name(*one) == row.head_name)
        mates, others = (
            SOME.head_types[name] for name in (row.head_type, {"early": "late", "late": "early"}[row.head_type])
        )
        changes = []
        for gone in ([], [one for one in mates if one != head], others):
            with_head, without = (
                HeadSet(SOME.without(heads).head_positions(), True) for heads in (gone, [*gone, head])
            )  # fmt: skip
            changes.append(-np.subtract(*ablation.measure([with_head, without]).mean(1)))
        assert abs(row.change) == pytest.approx(max(map(abs, changes)), abs=ATOL)


def test_knocking_out_and_random_sets_of_the_same_size():
    model = load_tiny("gpt2")
    pairs = grouped(model)
    heads = [(1, 0), (2, 1), (2, 2)]
    sets = random_like(model, heads, 4, seed=1)
    assert len(sets) == 4
    assert all(sorted(i for i, _ in one) == [1, 2, 2] and not set(one) & set(heads) for one in sets.values())
    table = knock_out(Ablation(model, pairs), {"found": heads, **sets})
    assert list(table.index) == ["none", "found", *sets] and table.change["none"] == 0
    expected = np.mean(by_hand(model, pairs, everywhere(heads), False, "mean"))
    assert table.metric_mean["found"] == pytest.approx(expected, abs=ATOL)
    assert (table.ci_low <= table.change).all() and (table.change <= table.ci_high).all()
    with pytest.raises(SweepError, match="Layer 2 has 1 other heads"):
        random_like(model, [(2, 0), (2, 1), (2, 2)], 1)


def test_a_head_type_s_positions_hold_for_its_own_heads_alone():
    circuit = Circuit({"a": [(0, 0)], "b": [(0, 0), (1, 1)]}, {"a": "END"})
    assert circuit.head_positions() == {(0, 0): {"END", None}, (1, 1): {None}}
    assert circuit.without([(0, 0)]).heads == [(1, 1)]
    assert list(circuit.table().loc["a"]) == ["L0H0", "END"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda model, pairs: Circuit({"a": [(0, 0)]}, {"b": "END"}),
            "Positions are given for .b., which is no head type",
        ),
        (lambda model, pairs: faithfulness(Ablation(model, pairs), Circuit({"a": [(9, 0)]})), "no head L9H0"),
        (
            lambda model, pairs: faithfulness(Ablation(model, pairs), Circuit({"a": [(0, 0)]}, {"a": "S9"})),
            "Unknown position",
        ),
        (lambda model, pairs: Ablation(model, pairs, source="median"), "Unknown source 'median'"),
        (lambda model, pairs: Ablation(model, pairs, metric="loss"), "Unknown metric 'loss'"),
        (
            lambda model, pairs: Ablation(model, pairs, reference=make_pairs(model, length=12)),
            "no prompt like prompt 0",
        ),
    ],
)
def test_bad_questions_have_one_clear_answer(make, said):
    model = load_tiny("gpt2")
    with pytest.raises(SweepError, match=said):
        make(model, make_pairs(model))


def test_backup_heads_are_those_that_write_more_without_the_others():
    """Against direct logit attribution with the heads' outputs set by hand."""
    model = load_tiny("llama")
    pairs = make_pairs(model)
    gone = [(0, 1), (1, 2)]
    table = backup_heads(Ablation(model, pairs, source="zero"), gone)
    assert len(table) == model.cfg.n_layers * model.cfg.n_heads - 2 and set(table.knocked_out) == {"L0H1, L1H2"}
    assert table.change.is_monotonic_decreasing and (table.n == len(pairs)).all()

    def hooks(examples):
        def zero(z, hook):
            z[:, :, dict(gone)[hook.layer()]] = 0
            return z

        return [(f"blocks.{layer}.attn.hook_z", zero) for layer, _ in gone]

    before, after = (patchlib.direct_logit_attribution(model, pairs, one).mean("example") for one in (None, hooks))
    for row in table.itertuples():
        cell = {"layer": row.layer, "head": row.head_index}
        assert row.before == pytest.approx(float(before.sel(cell)), abs=1e-5)
        assert row.after == pytest.approx(float(after.sel(cell)), abs=1e-5)
        assert row.ci_low <= row.change <= row.ci_high
    below = table[table.layer == 0]
    assert (below.before - below.after).abs().max() > 0  # by the final norm's scale alone
    with pytest.raises(SweepError, match="no head L9H0"):
        backup_heads(Ablation(model, pairs), [(9, 0)])
