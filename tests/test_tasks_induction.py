"""Induction prompts: that they repeat, that texts and tokens say the same, and that the default model copies."""

import random
import re

import pytest
import torch

from patchlib.errors import TaskError
from patchlib.models import load_model
from patchlib.tasks import InductionDataset, as_pairs
from patchlib.tasks.tokens import tokenize
from tests.tiny import load_tiny


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    return load_tiny(request.param)


@pytest.mark.parametrize("seq_len", [4, 7, 16])
def test_induction_prompts_repeat_and_break_off_before_the_answer(model, seq_len):
    task = InductionDataset(model, n_prompts=5, seed=1, seq_len=seq_len)
    made = as_pairs(model, task)
    assert made.metadata == {"corruption": "next_token", "seq_len": seq_len, "n_prompts": 5} and made.seed == 1
    rows, at = torch.arange(5), made.roles
    clean, corrupted = made.clean_batch(), made.corrupted_batch()
    right, wrong = made.answers.unbind(1)
    assert clean.shape[1] == 1 + seq_len + seq_len // 2 + 1 and (clean[:, 0] == model.tokenizer.bos_token_id).all()
    assert torch.equal(clean[:, 1 + seq_len :], clean[:, 1 : 2 + seq_len // 2])
    assert (at["current"] == clean.shape[1] - 1).all() and torch.equal(at["source+1"], at["source"] + 1)
    assert torch.equal(clean[rows, at["source"]], clean[rows, at["current"]])
    assert torch.equal(clean[rows, at["source+1"]], right) and torch.equal(corrupted[rows, at["source+1"]], wrong)
    assert ((clean != corrupted).sum(1) == 1).all()
    assert all(len(set(row.tolist())) == seq_len for row in clean[:, 1 : 1 + seq_len])
    first, _ = task.get_clean_corrupt_pairs()[0]
    assert re.fullmatch(r"( [A-Za-z]{3,})+", first) and tokenize(model, first).tolist() == clean[0].tolist()


def test_seeds_repeat_and_differ_and_the_global_generators_are_left_alone(model):
    before = random.getstate(), torch.get_rng_state().tolist()
    one, same, other = (InductionDataset(model, 3, seed=seed).get_clean_corrupt_pairs() for seed in (0, 0, 1))
    assert one == same != other
    assert before == (random.getstate(), torch.get_rng_state().tolist())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_prompts": 0}, "n_prompts must be a whole number of 1 or more"),
        ({"seq_len": 3}, "seq_len must be a whole number of 4 or more"),
        ({"seq_len": 100_000}, "whole words, and seq_len=100000 needs 100001"),
        ({"seq_len": 100}, "at most 128"),
        ({"seed": None}, "seed must be"),
    ],
)
def test_bad_induction_settings_are_refused(model, settings, message):
    with pytest.raises(TaskError, match=message):
        InductionDataset(model, **settings)


def test_induction_words_that_do_not_turn_back_are_refused(model):
    task = InductionDataset(model, 2)
    task._rows = [(row[::-1], other) for row, other in task._rows]
    task.get_clean_corrupt_pairs = lambda: InductionDataset(model, 2).get_clean_corrupt_pairs()
    with pytest.raises(TaskError, match="do not turn back"):
        task.to_pairs(model)


@pytest.mark.real_model
def test_the_default_model_continues_a_repeated_sequence():
    model = load_model(device="cpu")
    made = as_pairs(model, InductionDataset(model, 16))
    answers = made.answers
    for batch, better, worse in ((made.clean_batch(), 0, 1), (made.corrupted_batch(), 1, 0)):
        with torch.no_grad():
            logits = model(batch)[:, -1].gather(1, answers)
        assert (logits[:, better] > logits[:, worse]).float().mean() >= 0.9
