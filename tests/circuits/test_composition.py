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
        reader, writer = (int(row.reader[1]), int(row.reader[3])), (row.layer, row.head)
        with torch.no_grad():
            matrices = []
            for layer, head in (writer, reader):
                attn, scale = model.blocks[layer].attn, torch.diag(model.blocks[layer].ln1.weight + offset)
                group = head // (model.cfg.n_heads // attn.W_K.shape[0])
                matrices.append(
                    (scale @ attn.W_V[group] @ attn.W_O[head], scale @ attn.W_Q[head] @ (scale @ attn.W_K[group]).T)
                )
            ov, qk = matrices[0][0], matrices[1][1]
            expected = float((ov @ qk.T).norm() / ov.norm() / qk.norm())
        assert row.score == pytest.approx(expected, rel=1e-3)
    best = table[table["rank"] == 1]
    assert best.score.tolist() == table.groupby("reader").score.max().tolist()


def test_chance_is_that_of_random_matrices():
    model = load_tiny("llama")
    attrs = k_composition(model, [(2, 0)], n_random=200).attrs
    a, b = (torch.randn(200, 32, 8) @ torch.randn(200, 8, 32) for _ in range(2))
    direct = ((a @ b).flatten(1).norm(dim=1) / a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).mean()
    assert attrs["random_mean"] == pytest.approx(float(direct), rel=0.1) and attrs["random_sd"] > 0
    assert attrs == k_composition(model, [(2, 0)], n_random=200).attrs


def test_readers_must_have_something_before_them():
    for heads in ([], [(0, 1)], [(2, 9)]):
        with pytest.raises(SweepError, match="cannot be a reader: give heads of layers 1 to 2"):
            k_composition(load_tiny("gpt2"), heads)


@pytest.mark.real_model
def test_the_default_model_s_previous_token_head_enters_the_keys_of_its_induction_heads():
    model = patchlib.load_model()
    table = k_composition(model, [(17, 4), (17, 3)])
    best = table[table["rank"] == 1]
    assert set(zip(best.layer, best["head"], strict=True)) == {(16, 0)}
    assert (best.score > table.attrs["random_mean"] + 50 * table.attrs["random_sd"]).all()
