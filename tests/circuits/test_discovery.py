"""The search for a circuit: what each step keeps, what it follows, and how evidence becomes a name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import ttest_1samp

import patchlib
from patchlib import SweepError, discover, path_patch
from patchlib.circuits.head_types import names_to_copy, type_and_margin
from patchlib.circuits.tested import corrected_p_values
from tests.helpers import alike_pairs, contrast_pairs, make_pairs
from tests.tiny import load_tiny


@pytest.fixture(scope="module")
def found():
    model = load_tiny("llama")
    pairs = alike_pairs(model)
    return model, pairs, discover(model, pairs, depth=2, min_share=0.1, progress=False)


def test_the_first_step_is_path_patching_to_the_logits(found):
    model, pairs, discovery = found
    first = discovery.steps[discovery.steps.depth == 1]
    assert len(first) and set(first.receivers) == set(first.site) == {"logits"} and set(first.position) == {"END"}
    direct = path_patch(model, pairs, positions="END", progress=False)
    for row in first.itertuples():
        assert row.effect == pytest.approx(
            float(direct.effect.sel(layer=row.layer, head=row.head_index).squeeze()), abs=1e-4
        )
        assert row.p_adjusted < 0.05
    assert discovery.results["logits"].equals(direct)
    assert first.effect.abs().min() >= 0.1 * float(abs(direct.effect).max()) - 1e-6


def test_further_steps_follow_the_inputs_that_other_heads_write(found):
    _, _, discovery = found
    inputs = discovery.inputs
    assert (inputs.through_heads.isna() == (inputs.effect < 0.05)).all()
    followed, left = inputs[inputs.followed], inputs[~inputs.followed]
    assert 1 <= len(followed) <= 2 and (followed.through_heads >= 0.05).all()
    assert followed.through_heads.min() >= left.through_heads.max()
    assert len(discovery.results) == 1 + len(followed)
    later = discovery.steps[discovery.steps.depth == 2]
    assert {(row.receivers, row.site, row.position) for row in later.itertuples()} <= set(
        followed[["heads", "site", "position"]].itertuples(index=False, name=None)
    )


def test_an_input_s_evidence_is_what_it_says(found):
    """The sum of the heads' own effects of noising it, and the paths from all heads below it at once."""
    model, pairs, discovery = found
    row = discovery.inputs[discovery.inputs.followed].iloc[0]
    heads = [tuple(map(int, name[1:].split("H"))) for name in row.heads.split(", ")]
    receivers = patchlib.inputs_of(model, heads, row.site, row.position)
    noised = patchlib.sweep(
        model, pairs, row.site, ("layer", "kv_head" if row.site in "kv" else "head"), "noise", positions=row.position,
        progress=False,
    )  # fmt: skip
    own = [float(noised.effect.values[0, one.layer, one.head]) for one in receivers]
    assert row.effect == pytest.approx(sum(own), abs=1e-4)
    below = range(max(one.layer for one in receivers))
    paths = path_patch(model, pairs, receivers, ("role",), positions=row.position, layers=below, progress=False)
    assert row.through_heads == pytest.approx(paths.effect.item(), abs=1e-4)


def test_every_head_that_was_found_is_in_the_circuit_at_its_position(found):
    _, _, discovery = found
    places = {(layer, head, at) for (layer, head), ats in discovery.circuit.head_positions().items() for at in ats}
    assert places == {(row.layer, row.head_index, row.position) for row in discovery.steps.itertuples()}
    assert len(discovery.head_types) == len(places)


@pytest.mark.parametrize(
    ("position", "direct", "looks_at", "attention", "copying", "suppressing", "head_type"),
    [
        ("END", 0.3, "IO", 0.6, 0.9, 0.0, "name mover"),
        ("END", 0.7, "S2", 0.5, 0.0, 1.0, "subject suppressor"),
        ("END", -0.2, "IO", 0.6, 0.0, 0.9, "negative name mover"),
        ("END", -0.2, "S1", 0.6, 0.8, 0.0, "subject mover"),
        ("END", 0.3, "IO", 0.6, 0.1, 0.1, "unnamed"),
        ("END", np.nan, "S2", 0.6, 0.0, 0.0, "S-inhibition"),
        ("END", np.nan, "S2", 0.1, 0.0, 0.0, "unnamed"),
        ("S2", np.nan, "S1", 0.8, np.nan, np.nan, "duplicate token"),
        ("S2", np.nan, "S1+1", 0.7, np.nan, np.nan, "induction"),
        ("S1+1", np.nan, "S1", 0.9, np.nan, np.nan, "previous token"),
    ],
)
def test_names_are_earned(position, direct, looks_at, attention, copying, suppressing, head_type):
    evidence = dict(direct=direct, looks_at=looks_at, attention=attention, copying=copying, suppressing=suppressing)
    name, margin = type_and_margin(position, evidence, min_attention=0.2, min_copying=0.5)
    assert name == head_type and (margin < 0) == (name == "unnamed")


@pytest.mark.parametrize(
    ("attention", "copying", "margin"), [(0.25, 0.9, 0.05), (0.9, 0.6, 0.1), (0.1996, 0.9, -0.0004), (0.9, 0.3, -0.2)]
)
def test_a_margin_is_the_distance_from_the_nearer_bound(attention, copying, margin):
    evidence = dict(direct=0.3, looks_at="IO", attention=attention, copying=copying, suppressing=0.0)
    assert type_and_margin("END", evidence, 0.2, 0.5)[1] == pytest.approx(margin)
    assert np.isnan(type_and_margin("END", evidence | {"looks_at": "END"}, 0.2, 0.5)[1])


def test_copying_is_counted_over_all_names_that_are_one_token():
    model = load_tiny("llama")
    names = {model.to_single_token(f" {name}") for name in patchlib.tasks.words.NAMES}
    pairs = patchlib.IOIDataset(model, n_prompts=2).to_pairs(model)
    assert set(names_to_copy(model, pairs)) == names and len(names) > 100
    others = make_pairs(model)
    assert set(names_to_copy(model, others)) == set(others.answers.flatten().tolist())


def test_a_head_has_to_be_more_than_chance_among_all_that_were_tested(found):
    """A t-test by hand over prompts; the smallest p times all heads, the second times half of them, and so on."""
    _, _, discovery = found
    moved = (discovery.results["logits"].patched - discovery.results["logits"].clean).isel(metric=0)
    table = patchlib.summary_table(discovery.results["logits"], top_k=5)
    rows = [4 * row.layer + row.head_index for row in table.itertuples()]
    p_values = ttest_1samp(moved.transpose("example", ...).values.reshape(16, 12).astype("float64"), 0).pvalue

    def by_hand(p_values):
        order, corrected, least = np.argsort(p_values), np.ones(12), 1.0
        for rank in range(12, 0, -1):
            least = min(least, p_values[order[rank - 1]] * 12 / rank)
            corrected[order[rank - 1]] = least
        return corrected[rows]

    np.testing.assert_allclose(corrected_p_values(discovery.results["logits"], table), by_hand(p_values), rtol=1e-6)
    # What was left out counts as tested all the same.
    sieved = discovery.results["logits"].copy(deep=True)
    kept = {(row.layer, row.head_index) for row in table.itertuples()}
    for layer in range(3):
        for head in range(4):
            if (layer, head) not in kept:
                sieved.patched.loc[{"layer": layer, "head": head}] = np.nan
    p_values[[i for i in range(12) if i not in rows]] = 1
    np.testing.assert_allclose(corrected_p_values(sieved, table), by_hand(p_values), rtol=1e-6)
    # And by its estimate, where there is one.
    sieved["estimated"] = discovery.results["logits"].patched
    whole = corrected_p_values(discovery.results["logits"], table)
    np.testing.assert_allclose(corrected_p_values(sieved, table), whole, rtol=1e-6)


def test_effects_of_chance_make_no_step():
    """Signs drawn for each prompt: in 200 steps of 270 heads hardly any is taken."""
    rng = np.random.default_rng(0)
    n_taken = 0
    for _ in range(200):
        moved = rng.normal(size=(1, 30, 9, 8))
        result = xr.Dataset(
            {"patched": (("metric", "layer", "head", "example"), moved)}
            | {name: (("metric", "example"), np.zeros((1, 8))) for name in ("clean", "corrupted")},
            {"metric": ["logit_diff"], "layer": range(30), "head": range(9)},
            {"direction": "noise"},
        )
        largest = np.argsort(-abs(moved.mean(-1)), axis=None)[:8]
        table = pd.DataFrame({"layer": largest // 9, "head_index": largest % 9})
        n_taken += bool((corrected_p_values(result, table) < 0.05).any())
    assert n_taken <= 0.08 * 200


def test_few_prompts_are_warned_of_and_a_single_one_is_not_tested():
    model = load_tiny("llama")
    with pytest.warns(patchlib.FewPromptsWarning, match=r"with n = 1 .* give 16 prompts or more"):
        search = discover(model, contrast_pairs(model, n=1), depth=1, progress=False)
    assert len(search.steps) and search.steps.p_adjusted.isna().all()


def test_without_a_contrast_there_is_nothing_to_search():
    model = load_tiny("llama")
    with pytest.raises(SweepError, match="gives no usable contrast, so that a search would find nothing"):
        pairs = alike_pairs(model)
        discover(model, replace(pairs, answers=pairs.answers.flip(1)), depth=1, progress=False)


def test_bad_questions_have_one_clear_answer():
    model = load_tiny("llama")
    pairs = make_pairs(model)
    with pytest.raises(SweepError, match="no usable contrast"):  # END is there without being named
        discover(model, patchlib.PromptPairs(pairs.clean_tokens, pairs.corrupted_tokens, pairs.answers))
    with pytest.raises(SweepError, match="depth must be a whole number of 1 or more, not 0"):
        discover(model, pairs, depth=0)


@pytest.mark.real_model
@pytest.mark.slow
def test_the_real_model_s_writers_are_found_and_named():
    """The head that matters most attends to the subject and writes against it, at any seed; the sieve loses nothing."""
    model = patchlib.load_model()
    task = patchlib.IOIDataset(model, n_prompts=8, seed=1, corruption="abc")
    how = {"depth": 2, "max_inputs": 1, "progress": False}
    discovery = discover(model, task, **how)
    sieved = discover(model, task, prefilter="attribution", **how)
    assert sieved.circuit == discovery.circuit
    assert int(sieved.results["logits"].effect.isnull().sum()) > 100
    top = discovery.head_types.loc[discovery.head_types.direct.idxmax()]
    assert (top.layer, top.head_index, top.head_type) == (23, 3, "subject suppressor")
    kept = patchlib.faithfulness(patchlib.Ablation(model, task), discovery.circuit)
    assert kept.floor < kept.circuit < kept.model
