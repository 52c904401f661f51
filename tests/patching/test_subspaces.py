"""Subspaces against residual patches, plain hooks and numpy; what TransformerLens learns is only asked to be learnt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import patchlib
from patchlib.plots import takeaways
from tests.helpers import ATOL, alike_pairs, contrast_pairs, mixed_pairs, sweep
from tests.tiny import load_tiny

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")


@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_full_rank_is_the_residual_patch_and_rank_0_the_base(kind, direction):
    model = load_tiny(kind)
    pairs = mixed_pairs(model)
    metrics = ["logit_diff", "kl"]
    turned = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0))).Q
    bases = {"all": turned, "none": torch.zeros(32, 0)}
    for site in ("resid_pre", "resid_post", "attn_out", "mlp_out"):
        swept = sweep(model, pairs, site, ("layer", "role"), direction, metrics, layers=[1], positions=["varied"])
        result = patchlib.patch_subspace(model, pairs, bases, 1, "varied", site, direction, metrics)
        for name in ("all", "whole state"):
            np.testing.assert_allclose(result.patched.sel(basis=name), swept.patched[:, 0, 0], atol=ATOL)
        base = result.corrupted if direction == "denoise" else result.clean
        np.testing.assert_allclose(result.patched.sel(basis="none"), base, atol=ATOL)
        np.testing.assert_allclose(result.clean, swept.clean, atol=ATOL)
        np.testing.assert_allclose(result.corrupted, swept.corrupted, atol=ATOL)
        np.testing.assert_allclose(result.share.sel(basis=["all", "whole state"]), 1, atol=1e-4)
        np.testing.assert_allclose(result.share.sel(basis="none"), 0)
        assert result.basis.values.tolist() == ["whole state", "all", "none", "all, placebo"]
        assert result["rank"].values.tolist() == [32, 32, 0, 32]


def test_inside_the_subspace_the_state_is_the_other_prompt_s_and_outside_its_own():
    model = load_tiny("llama")
    pairs = contrast_pairs(model)
    basis = torch.linalg.qr(torch.randn(32, 3, generator=torch.Generator().manual_seed(1))).Q
    result = patchlib.patch_subspace(model, pairs, basis, 2, -1, batch_tokens=18)
    everything = patchlib.patch_subspace(model, pairs, basis, 2, "END", metric=every_position, controls=False)
    for i, (clean, corrupted) in enumerate(zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True)):
        theirs = model.run_with_cache(clean[None])[1]["blocks.2.hook_resid_pre"][0, -1]
        own = model.run_with_cache(corrupted[None])[1]["blocks.2.hook_resid_pre"][0, -1]
        inside = basis @ basis.T

        def put(stream, hook, state=own - inside @ own + inside @ theirs):
            stream[0, -1] = state

        with torch.no_grad():
            logits = model.run_with_hooks(corrupted[None], fwd_hooks=[("blocks.2.hook_resid_pre", put)])
        expected = float(logits[0, -1, pairs.answers[i, 0]] - logits[0, -1, pairs.answers[i, 1]])
        assert result.patched.sel(basis="subspace").values[0, i] == pytest.approx(expected, abs=ATOL)
        assert everything.patched.values[0, 0, i] == pytest.approx(float(every_position(logits, None)), abs=1e-3)
        share = float((inside @ (theirs - own)).norm() ** 2 / (theirs - own).norm() ** 2)
        assert result.share.sel(basis="subspace").values[i] == pytest.approx(share, abs=1e-4)


def every_position(logits, pairs):
    return (logits[..., 3] * torch.arange(1, logits.shape[1] + 1)).sum(-1)


def test_bases_of_the_prompts_own_differences_are_numpy_s():
    model = load_tiny("llama")
    pairs = mixed_pairs(model)
    how = {"layer": 1, "position": "varied"}
    states = []
    for rows in (pairs.clean_tokens, pairs.corrupted_tokens):
        caches = [model.run_with_cache(row[None])[1]["blocks.1.hook_resid_pre"][0] for row in rows]
        states.append(np.stack([cache[at] for cache, at in zip(caches, pairs.roles["varied"], strict=True)]))
    difference = states[0] - states[1]
    basis = patchlib.fit_basis(model, pairs, **how, kind="pca", rank=2).numpy()
    expected = np.linalg.svd(difference, full_matrices=False)[2][:2].T
    np.testing.assert_allclose(basis @ basis.T, expected @ expected.T, atol=1e-4)
    mean = difference.mean(0) / np.linalg.norm(difference.mean(0))
    basis = patchlib.fit_basis(model, pairs, **how, kind="mean_difference").numpy()
    np.testing.assert_allclose(abs(basis[:, 0] @ mean), 1, atol=1e-5)


def test_what_das_learns_does_more_than_a_random_direction_and_depends_on_the_seed_alone():
    model = load_tiny("llama")
    pairs = alike_pairs(model, 8)
    how = {"layer": 2, "position": -1, "epochs": 15, "lr": 0.1}
    bases = {
        "das": patchlib.fit_basis(model, pairs, **how),
        "random": patchlib.fit_basis(model, pairs, 2, -1, "random"),
    }
    effect = patchlib.patch_subspace(model, pairs, bases, 2, -1, controls=False).effect[0]
    assert effect.sel(basis="das") > effect.sel(basis="random") + 0.2
    torch.testing.assert_close(patchlib.fit_basis(model, pairs, **how, batch_tokens=9), bases["das"], atol=1e-3, rtol=0)
    assert not torch.allclose(patchlib.fit_basis(model, pairs, **how, seed=1).abs(), bases["das"].abs(), atol=1e-3)
    assert not any(parameter.grad is not None for parameter in model.parameters())
    torch.testing.assert_close(bases["das"].T @ bases["das"], torch.eye(1), atol=1e-5, rtol=0)


def test_the_sentence_says_what_the_effect_does_not_show():
    model = load_tiny("llama")
    pairs = alike_pairs(model, 8)
    bases = {"two": patchlib.fit_basis(model, pairs, 2, -1, "pca", rank=2)}
    result = patchlib.patch_subspace(model, pairs, bases, 2, -1)
    said = takeaways.of_subspaces(result)
    assert said.startswith("The whole state has an effect of ") and "two (rank 2) has " in said
    assert "of the squared distance between the states, a random one as far" in said and "Makelov et al. 2023" in said
    little = result.assign(share=result.share * 0)
    assert "as here" in takeaways.of_subspaces(little) and "as here" not in said
    assert patchlib.plots.top_bar(result).data[0].y[0] in result.basis.values
    with pytest.raises(patchlib.SweepError, match=r"give what patchlib.patch_subspace returned"):
        takeaways.of_subspaces(sweep(model, pairs, layers=[1]))


ORTHONORMAL = torch.eye(32)[:, :2]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"bases": torch.ones(32, 2)}, r"'subspace' are not orthonormal.*torch.linalg.qr"),
        ({"bases": torch.full((32, 1), float("nan"))}, "not orthonormal"),
        ({"bases": {"a": torch.eye(31)}}, r"The basis 'a' must be a tensor \[32, rank\], not \[31, 31\]"),
        ({"bases": torch.ones(32)}, r"must be a tensor \[32, rank\], not \[32\]"),
        ({"bases": {}}, "no basis to patch"),
        ({"bases": {"a": 3}}, "must be a tensor .* not int"),
        ({"bases": {"a": np.array([["b"]])}}, "must be a tensor .* not ndarray"),
        ({"bases": {"whole state": ORTHONORMAL}}, "cannot be named 'whole state'"),
        ({"bases": {"": ORTHONORMAL}}, "A basis's name"),
        ({"bases": 3}, "bases cannot be a int"),
        ({"layer": 3}, "layer"),
        ({"layer": [0, 1]}, "layer must be one layer"),
        ({"layer": True}, "layer must be one layer"),
        ({"position": "subject"}, "Unknown position 'subject'"),
        ({"position": [1, 2]}, "is of several tokens"),
        ({"position": "phrase"}, "is of several tokens"),
        ({"position": 99}, "outside the prompts"),
        ({"site": "resid_mid"}, "Unknown site 'resid_mid': choose 'resid_pre'"),
        ({"site": "z"}, "Unknown site 'z'"),
        ({"direction": "both"}, "Unknown direction"),
        ({"controls": 1}, "controls"),
        ({"seed": -1}, "seed"),
        ({"metric": "nothing"}, "Unknown metric"),
    ],
)
def test_what_cannot_be_projected_is_said_in_one_line(asked, message):
    model = load_tiny("gpt2")
    pairs = replace(contrast_pairs(model), spans={"phrase": ((1, 2),) * 4})
    with pytest.raises(patchlib.SweepError, match=message) as error:
        patchlib.patch_subspace(model, pairs, **{"bases": ORTHONORMAL, "layer": 1, "position": "END"} | asked)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"kind": "lda"}, "Unknown kind 'lda': choose 'das', 'mean_difference', 'pca' or 'random'"),
        ({"rank": 0}, "rank must be a whole number"),
        ({"rank": 33, "kind": "random"}, "rank must be a whole number from 1 to 32"),
        ({"rank": 2, "kind": "mean_difference"}, "rank must be a whole number from 1 to 1"),
        ({"rank": 6, "kind": "pca"}, "rank must be a whole number from 1 to 5"),
        ({"kind": "pca", "layer": 0, "position": 0}, "the two prompts' states are the same"),
        ({"kind": "pca", "layer": 0, "rank": 5, "position": 5}, "more than the prompts' differences have"),
        ({}, "DAS is fitted on prompts of one length"),
        ({"one_length": True, "epochs": 0}, "epochs must be"),
        ({"one_length": True, "lr": 0}, "lr must be a number above 0"),
        ({"one_length": True, "lr": -1}, "lr must be a number of 0 or more"),
    ],
)
def test_what_cannot_be_fitted_is_said_in_one_line(asked, message):
    model = load_tiny("gpt2")
    pairs = contrast_pairs(model) if asked.pop("one_length", False) else mixed_pairs(model)
    with pytest.raises(patchlib.SweepError, match=message) as error:
        patchlib.fit_basis(model, pairs, **{"layer": 1, "position": "END"} | asked)
    assert "\n" not in str(error.value)
