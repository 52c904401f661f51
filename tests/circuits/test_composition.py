"""K-composition against the formula written out with whole matrices."""

from __future__ import annotations

import pytest
import torch

import patchlib
from patchlib import SweepError, k_composition
from tests.tiny import load_tiny


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_the_score_is_the_published_one(kind):
    model = load_tiny(kind)
    table = k_composition(model, [(1, 1), (2, 3)])
    assert table.groupby("reader").size().to_dict() == {"L1H1": 4, "L2H3": 8}
    offset = 1 if kind == "gemma2" else 0
    for row in table.itertuples():
        reader, writer = (int(row.reader[1]), int(row.reader[3])), (row.layer, row.head_index)
        with torch.no_grad():
            matrices = []
            for layer, head in (writer, reader):
                attn, scale = model.blocks[layer].attn, torch.diag(model.blocks[layer].ln1.weight + offset)
                behind = attn.W_O[head] * (model.blocks[layer].ln1_post.weight + 1 if kind == "gemma2" else 1)
                group = head // (model.cfg.n_heads // attn.W_K.shape[0])
                matrices.append(
                    (scale @ attn.W_V[group] @ behind, scale @ attn.W_Q[head] @ (scale @ attn.W_K[group]).T)
                )
            ov, qk = matrices[0][0], matrices[1][1]
            expected = float((ov @ qk.T).norm() / ov.norm() / qk.norm())
        assert row.score == pytest.approx(expected, rel=1e-3)
    best = table[table.score_rank == 1]
    assert best.score.tolist() == table.groupby("reader").score.max().tolist()


def test_chance_is_that_of_random_matrices():
    model = load_tiny("llama")
    chance, again = (
        k_composition(model, [(2, 0)], n_random=200)[["random_mean", "random_sd"]].drop_duplicates() for _ in range(2)
    )
    a, b = (torch.randn(200, 32, 8) @ torch.randn(200, 8, 32) for _ in range(2))
    direct = ((a @ b).flatten(1).norm(dim=1) / a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).mean()
    assert chance.random_mean.item() == pytest.approx(float(direct), rel=0.1) and chance.random_sd.item() > 0
    assert chance.equals(again)


def test_readers_must_have_something_before_them():
    with pytest.raises(SweepError, match=r"There is no head L0H1: .* those from layer 1 on can be used"):
        k_composition(load_tiny("gpt2"), [(0, 1)])


@pytest.mark.real_model
def test_the_default_model_s_previous_token_head_enters_the_keys_of_its_induction_heads():
    model = patchlib.load_model()
    table = k_composition(model, [(17, 4), (17, 3)])
    best = table[table.score_rank == 1]
    assert set(zip(best.layer, best.head_index, strict=True)) == {(16, 0)}
    assert (best.score > best.random_mean + 50 * best.random_sd).all()
