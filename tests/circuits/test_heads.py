"""Head evidence against TransformerLens and against what the words mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformer_lens.head_detector import detect_head
from transformer_lens.tools.analysis import direct_logit_attribution as folded_attribution

import patchlib
from patchlib import SweepError
from patchlib.circuits.attention import attention_between, detector_scores
from patchlib.circuits.copying import copying_scores
from patchlib.circuits.heads import direct_logit_attribution
from tests.helpers import make_pairs, mixed_pairs
from tests.tiny import load_tiny, tiny_path

KINDS = ["gpt2", "llama", "phi"]


@pytest.mark.parametrize("kind", KINDS)
def test_attention_between_is_the_pattern_s_entry(kind):
    model = load_tiny(kind)
    pairs = mixed_pairs(model)
    found = attention_between(model, pairs, "varied")
    assert found.dims == ("layer", "head", "role", "example")
    for i, row in enumerate(pairs.clean_tokens):
        _, cache = model.run_with_cache(row[None])
        for role in pairs.roles:
            query, key = int(pairs.roles["varied"][i]), int(pairs.roles[role][i])
            expected = [cache["pattern", layer][0, :, query, key] for layer in range(model.cfg.n_layers)]
            np.testing.assert_allclose(found.sel(role=role, example=i), torch.stack(expected), atol=1e-5)


def test_detectors_are_stripes_of_the_pattern():
    model = load_tiny("gpt2")
    scores = detector_scores(model, n_rows=2, seq_len=6, seed=3)
    rows = patchlib.repeated_tokens(model, n_rows=2, seq_len=6, seed=3).clean_batch()
    bos = int(model.cfg.default_prepend_bos)
    _, cache = model.run_with_cache(rows)
    pattern = cache["pattern", 1].mean(0)  # [head dest src]
    positions = range(bos + 1, rows.shape[1])
    previous = torch.stack([pattern[:, i, i - 1] for i in positions]).mean(0)
    second = range(bos + 6, rows.shape[1])
    np.testing.assert_allclose(scores.previous_token.sel(layer=1), previous, atol=1e-5)
    for name, offset in (("duplicate_token", 6), ("induction", 5)):
        stripe = torch.stack([pattern[:, i, i - offset] for i in second]).mean(0)
        np.testing.assert_allclose(scores[name].sel(layer=1), stripe, atol=1e-5)


@pytest.mark.real_model
def test_the_textbook_heads_of_the_real_model():
    model = patchlib.load_model()
    scores = detector_scores(model)
    for name in ("previous_token", "induction"):
        assert float(scores[name].max()) > 0.5
    names = ["previous_token_head", "induction_head"]
    text = " red car sun boat tree dog lamp wine red car sun boat tree dog lamp wine"
    for name, ours in zip(names, ("previous_token", "induction"), strict=True):
        theirs = detect_head(model, text, name).numpy().flatten()
        agreement = np.corrcoef(theirs, scores[ours].values.flatten())[0, 1]
        assert agreement > 0.5, f"{name}: {agreement}"


@pytest.mark.parametrize("kind", KINDS)
def test_direct_logit_attribution_is_that_of_folded_weights(kind):
    pairs = make_pairs(load_tiny(kind))
    ours = direct_logit_attribution(load_tiny(kind), pairs)
    folded = patchlib.load_model(tiny_path(kind, 0), device="cpu")
    folded.enable_compatibility_mode()
    theirs = folded_attribution(
        folded, pairs.clean_batch(), pairs.answers[:, 0], pairs.answers[:, 1], unit="head"
    )  # fmt: skip
    n = ours.sizes["layer"] * ours.sizes["head"]
    expected = theirs.attribution[:n].reshape(ours.shape).detach().numpy()
    # Folding counts what a head writes whatever it reads among the biases; here it is the head's.
    np.testing.assert_allclose(ours.values - always_written(load_tiny(kind), pairs), expected, atol=1e-4)


def always_written(model, pairs) -> np.ndarray:
    """The constant part of what each head writes towards the answer, ``[layer head example]``.

    It comes from the head's value bias and from the bias of the norm before it: ``(b_V + b_ln W_V) W_O``.
    """

    if model.blocks[0].attn.b_V is None:  # llama, whose norms have no bias either
        return np.zeros(())
    with torch.no_grad():
        _, cache = model.run_with_cache(pairs.clean_batch())
        right, wrong = pairs.answers.unbind(1)
        direction = (model.W_U[:, right] - model.W_U[:, wrong]) * model.ln_final.weight[:, None]
        direction = direction - direction.mean(0)  # LayerNorm takes the mean off
        constants = []
        for block in model.blocks:
            values = block.attn.b_V.view(model.cfg.n_heads, -1) + block.ln1.bias @ block.attn.W_V  # [head d_head]
            constants.append((values[:, None] @ block.attn.W_O)[:, 0])  # [head d_model]
        return (torch.stack(constants) @ direction / cache["ln_final.hook_scale"][:, -1, 0]).numpy()


def test_copying_is_what_the_head_itself_writes(monkeypatch):
    """Without biases, in the second block, of a token that is alone: its attention is 1 and its stream the one used."""
    model = load_tiny("llama")
    monkeypatch.setattr(model.cfg, "default_prepend_bos", False)
    ids = torch.arange(5, 45)
    scores = copying_scores(model, ids, layer_heads=[(1, 2)], top_k=800)
    assert np.isnan(scores.copying.sel(layer=0)).all()
    assert 0 < float(scores.copying.sel(layer=1, head=2)) < 1
    with torch.no_grad():
        _, cache = model.run_with_cache(ids[:, None])
        written = cache["z", 1][:, :, 2] @ model.blocks[1].attn.W_O[2]
        for name, sign in (("copying", 1), ("suppressing", -1)):
            top = model.unembed(model.ln_final(sign * written))[:, 0].topk(800).indices
            share = float((top == ids[:, None]).any(1).float().mean())
            assert float(scores[name].sel(layer=1, head=2)) == pytest.approx(share)


def test_copying_inside_prompts_is_that_of_the_stream_there():
    model = load_tiny("llama")
    pairs, ids = mixed_pairs(model), torch.arange(5, 45)
    scores = copying_scores(model, ids, [(1, 2)], top_k=300, task=pairs, role="varied")
    found = {"copying": 0, "suppressing": 0}
    for i, token in enumerate(ids):
        row, position = pairs.clean_tokens[i % len(pairs)].clone(), int(pairs.roles["varied"][i % len(pairs)])
        row[position] = token
        with torch.no_grad():
            _, cache = model.run_with_cache(row[None])
            block = model.blocks[1]
            values = block.ln1(cache["resid_post", 0][:, [position]]) @ block.attn.W_V[2 * block.attn.W_V.shape[0] // 4]
            for name, sign in (("copying", 1), ("suppressing", -1)):
                logits = model.unembed(model.ln_final(sign * values @ block.attn.W_O[2]))[0, 0]
                found[name] += int(token in logits.topk(300).indices)
    assert found["copying"] not in (0, len(ids))
    assert {name: float(scores[name].sel(layer=1, head=2)) * len(ids) for name in found} == pytest.approx(found)
    with pytest.raises(SweepError, match="names no position 'IO'"):
        copying_scores(model, ids, task=pairs)


def test_bad_questions_have_one_clear_answer():
    model = load_tiny("gpt2")
    with pytest.raises(SweepError, match="Unknown role 'S3'"):
        attention_between(model, make_pairs(model), "S3")
    with pytest.raises(patchlib.TaskError, match="reads at most"):
        detector_scores(model, seq_len=10**6)
    for tokens in ([], [10**6], [[1, 2]]):
        with pytest.raises(SweepError, match="tokens must be a row of ids"):
            copying_scores(model, tokens)
