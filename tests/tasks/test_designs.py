"""Halves that share nothing, and null sets whose patches carry over accidents alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import patchlib
from patchlib import PromptPairs, TaskError, stats
from tests.tiny import load_tiny

LABELS = ["a", "a", "a", "b", "b", "c", "d", "d"]


@pytest.fixture(scope="module")
def model():
    return load_tiny("gpt2")


def made(clusters=(), answers=((7, 8), (7, 8), (7, 8), (7, 8), (8, 7), (7, 8), (7, 8), (7, 8)), n=8) -> PromptPairs:
    """Rows that all differ at position 1 (where clean and corrupted part) and at position 2."""
    clean = [[20 + i, 40 + i, 60 + i, 5] for i in range(n)]
    corrupted = [[20 + i, 50 + i, 60 + i, 5] for i in range(n)]
    return PromptPairs(clean, corrupted, list(answers)[:n], roles={"word": [1] * n}, clusters=tuple(clusters))


def test_halves_share_no_wording_and_hold_every_prompt_once(model):
    pairs = made(LABELS)
    for seed in range(5):
        first, second = patchlib.halves(model, pairs, seed)
        assert not set(first.clusters) & set(second.clusters)
        assert sorted(first.index.tolist() + second.index.tolist()) == list(range(8))
        assert {len(first), len(second)} == {4}
    assert len({tuple(patchlib.halves(model, pairs, seed)[0].clusters) for seed in range(9)}) > 1
    first, second = patchlib.halves(model, made(n=3))
    assert sorted(first.index.tolist() + second.index.tolist()) == [0, 1, 2]


def test_a_null_set_pairs_prompts_that_differ_in_accidents(model):
    null = patchlib.null_pairs(model, made(LABELS))
    # 3 and 4 are of one wording with other answers; 5 has a wording of its own.
    rows = {tuple(row.tolist()): i for i, row in enumerate(made(LABELS).corrupted_tokens)}
    own = [rows[tuple(row.tolist())] for row in null.corrupted_tokens]
    other = [rows[tuple(row.tolist())] for row in null.clean_tokens]
    assert own == [0, 1, 2, 6, 7]
    assert all(LABELS[i] == LABELS[j] and i != j for i, j in zip(own, other, strict=True))
    assert null.roles["word"].tolist() == [1] * 5 and null.answers.tolist() == [[7, 8]] * 5
    assert patchlib.null_pairs(model, made(["a", "b"], n=2)) is None


def test_a_null_effect_is_what_a_patch_moves_by_hand_on_the_scale_of_the_result(model):
    pairs = made(LABELS)
    null = patchlib.null_pairs(model, pairs)
    how = {"site": "resid_pre", "over": ("layer", "role"), "progress": False}
    with pytest.warns(patchlib.ContrastWarning):
        result, nothing = patchlib.sweep(model, pairs, **how), patchlib.sweep(model, null, **how)
    table = stats.beside_null(result, nothing)
    contrast = float((result.clean - result.corrupted).mean())
    moved = []
    for donor, row in zip(null.clean_tokens, null.corrupted_tokens, strict=True):
        _, cache = model.run_with_cache(donor[None])

        def write(stream, hook, cache=cache):
            stream[:, 1] = cache[hook.name][:, 1]
            return stream

        patched = model.run_with_hooks(row[None], fwd_hooks=[("blocks.1.hook_resid_pre", write)])[0, -1]
        base = model(row[None])[0, -1]
        moved.append(float((patched[7] - patched[8]) - (base[7] - base[8])))
    found = table[(table.layer == 1) & (table.role == "word")].null_effect.item()
    assert found == pytest.approx(np.mean(moved) / contrast, abs=1e-4)
    assert not table.exceeds[table.ci_low.isna()].any()


def test_cells_are_picked_in_the_first_and_read_in_the_second(model):
    pairs = made()
    change = (model(pairs.clean_batch()) - model(pairs.corrupted_batch()))[:, -1].detach()  # [example d_vocab]
    answers = torch.stack([change.argmax(-1), change.argmin(-1)], -1)  # what the prompts do tell apart
    first, second = patchlib.halves(model, made(answers=answers.tolist()))
    results = []
    for half in (first, second):
        result = patchlib.sweep(model, half, "z", ("layer", "head"), progress=False)
        results.append(result)
    effects = [stats.effect(result).isel(metric=0).to_series() for result in results]
    table = stats.replicated(*results, top_k=3)
    largest = effects[0].abs().nlargest(3).index
    assert list(zip(table.layer, table.head_index, strict=True)) == list(largest)
    np.testing.assert_allclose(table["first"], effects[0][largest], atol=1e-6)
    np.testing.assert_allclose(table["second"], effects[1][largest], atol=1e-6)
    wide = patchlib.effect_interval(results[1], confidence=1 - 0.05 / 3)
    np.testing.assert_allclose(table.ci_low, wide.low.to_series()[largest], atol=1e-6)


def test_what_cannot_be_divided_says_so(model):
    with pytest.raises(TaskError, match="no two wordings"):
        patchlib.halves(model, made(["a"] * 3, n=3))
    result = patchlib.sweep(model, made(), "z", ("layer", "head"), progress=False)
    noised = patchlib.sweep(model, made(), "z", ("layer", "head"), direction="noise", progress=False)
    for call in (stats.beside_null, stats.replicated):
        with pytest.raises(patchlib.SweepError, match="direction"):
            call(result, noised)
    assert torch.equal(patchlib.halves(model, made(), 3)[0].index, patchlib.halves(model, made(), 3)[0].index)
