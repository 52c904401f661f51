"""A position of one prompt in a position of another, against plain hooks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import patchlib
from tests.tiny import load_tiny

SOURCE, TARGET = "When Mary and John went to the store, John gave a drink to", "The capital of France is"


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "neox"])
@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "mlp_out"])
def test_it_is_the_target_prompt_with_one_row_of_the_source_s(kind, site):
    model = load_tiny(kind)
    source, target = (model.to_tokens(text)[0] for text in (SOURCE, TARGET))
    how = {"source_position": 3, "target_position": 2, "answer": " Paris", "top_k": 3, "batch_tokens": 20}
    result = patchlib.transplant(model, SOURCE, target.tolist(), [0, 2], [1, 2, 0], site=site, **how)
    _, cache = model.run_with_cache(source[None])
    unpatched = model(target[None])[0, -1].softmax(-1)
    for a in (0, 2):
        for b in (0, 1, 2):

            def write(activation, hook, a=a):
                activation[:, 2] = cache[patchlib.SITES[site].hook_name(a)][:, 3]
                return activation

            logits = model.run_with_hooks(target[None], fwd_hooks=[(patchlib.SITES[site].hook_name(b), write)])[0, -1]
            probs = logits.softmax(-1)
            cell = result.sel(source_layer=a, target_layer=b)
            assert cell.answer_prob.item() == pytest.approx(float(probs[model.to_single_token(" Paris")]), abs=1e-5)
            np.testing.assert_allclose(cell.prob, probs.topk(3).values, atol=1e-5)
            assert cell.token.values.tolist() == [model.to_string([i]) for i in probs.topk(3).indices]
            kl = (unpatched * (unpatched.log() - probs.log())).sum()
            assert cell.kl.item() == pytest.approx(float(kl), abs=1e-4)
    paris = float(unpatched[model.to_single_token(" Paris")])
    assert result.unpatched_answer_prob.item() == pytest.approx(paris, abs=1e-5)
    np.testing.assert_allclose(result.unpatched_prob, unpatched.topk(3).values, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2"])
def test_a_state_in_its_own_place_changes_nothing(kind):
    model = load_tiny(kind)
    for site in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"):
        result = patchlib.transplant(model, SOURCE, SOURCE, range(3), site=site, source_position=4, target_position=4)
        np.testing.assert_allclose(result.kl, 0, atol=1e-6)
        assert result.kl.dims == ("source_layer",)
    moved = patchlib.transplant(model, SOURCE, SOURCE, range(3), source_position=4, target_position=5)
    assert (moved.kl[:2] > 1e-4).all()  # the last layer of gemma2 looks back a few tokens only


def test_positions_are_tokens_from_either_end_or_parts_of_the_text():
    model = load_tiny("gpt2")
    n = len(model.to_tokens(SOURCE)[0])
    word = patchlib.span_tokens(model, [SOURCE], "Mary")[0][-1]
    by_text, by_index, from_end = (
        patchlib.transplant(model, SOURCE, TARGET, 1, source_position=position) for position in ("Mary", word, word - n)
    )
    assert by_text.equals(by_index) and by_text.equals(from_end)
    assert by_text.attrs["source_token"] == " Mary" and by_text.attrs["source_position"] == word
    twice = patchlib.transplant(model, SOURCE, TARGET, 1, source_position=patchlib.Span("John", occurrence=-1))
    assert twice.attrs["source_position"] > word


def test_another_model_of_the_same_width_may_give_the_state():
    model, giver = load_tiny("gpt2"), load_tiny("gpt2", seed=1)
    result = patchlib.transplant(model, SOURCE, TARGET, 2, 1, source_model=giver)
    _, cache = giver.run_with_cache(SOURCE)

    def write(stream, hook):
        stream[:, -1] = cache["blocks.2.hook_resid_pre"][:, -1]

    with torch.no_grad():
        probs = model.run_with_hooks(TARGET, fwd_hooks=[("blocks.1.hook_resid_pre", write)])[0, -1].softmax(-1)
    assert result.prob.values.flat[0] == pytest.approx(float(probs.max()), abs=1e-5)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"source_layer": 3}, patchlib.SweepError, "source_layer .3. cannot be used"),
        ({"source_layer": []}, patchlib.SweepError, "source_layer .. cannot be used"),
        ({"target_layer": -1}, patchlib.SweepError, "target_layer .-1. cannot be used"),
        ({"source_position": 99}, patchlib.SweepError, "source_position 99 is outside the prompt"),
        ({"target_position": -99}, patchlib.SweepError, "target_position -99 is outside the prompt"),
        ({"source_position": 1.5}, patchlib.SweepError, "source_position cannot be a float"),
        ({"source_position": None}, patchlib.SweepError, "source_position cannot be a NoneType"),
        ({"source_position": "Peter"}, patchlib.TaskError, "'Peter' is not in"),
        ({"source_position": "John"}, patchlib.TaskError, "stands 2 times"),
        ({"source_position": patchlib.Span("Mary and", "all")}, patchlib.SweepError, "is 2 tokens: say which"),
        ({"source": [2, 3], "source_position": "Mary"}, patchlib.SweepError, "the prompt is token ids: give"),
        ({"site": "z"}, patchlib.SweepError, "transplanted at one of resid_pre, .*, not at 'z'"),
        ({"site": None}, patchlib.SweepError, "not at None"),
        ({"source": ""}, patchlib.TaskError, "A prompt must be a text"),
        ({"source": [99999]}, patchlib.TaskError, "has the token id 99999"),
        ({"target": []}, patchlib.TaskError, "must be a row of one or more ids"),
        ({"target": 1.5}, patchlib.TaskError, "must be"),
        ({"target": [2] * 200}, patchlib.TaskError, "reads at most 128"),
        ({"answer": " Mary John"}, patchlib.TaskError, "is 2 tokens: give one"),
        ({"answer": -1}, patchlib.TaskError, "answer must be a whole number"),
        ({"top_k": 0}, patchlib.SweepError, "top_k must be"),
        ({"top_k": 10**6}, patchlib.SweepError, "top_k must be"),
        ({"source_model": 3}, patchlib.SweepError, "The model is a int"),
        ({"batch_tokens": 0}, patchlib.SweepError, "batch_tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_transplanted_is_said_in_one_line(asked, error, message):
    model = load_tiny("gpt2")
    with pytest.raises(error, match=message) as raised:
        patchlib.transplant(model, **{"source": SOURCE, "target": TARGET, "source_layer": 1} | asked)
    assert "\n" not in str(raised.value)


def test_models_of_other_widths_are_refused():
    toy = patchlib.toys.or_gate(n_prompts=2)
    with pytest.raises(patchlib.SweepError, match="widths 60 and 32: a state of toy: or does not fit"):
        patchlib.transplant(load_tiny("gpt2"), [1, 2], TARGET, 1, source_model=toy.model)
