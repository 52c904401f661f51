"""Induction prompts: that they repeat, that texts and tokens say the same, and that the default model copies."""

import random
import re
from collections import Counter
from dataclasses import replace

import pytest
import torch

import patchlib
from patchlib.errors import TaskError
from patchlib.models.load import load_model
from patchlib.tasks.base import as_pairs
from patchlib.tasks.induction import InductionDataset
from patchlib.tasks.tokens import tokenize
from patchlib.tasks.words import BETWEEN
from tests.tiny import load_tiny


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    return load_tiny(request.param)


@pytest.mark.parametrize("seq_len", [4, 7, 16])
def test_induction_prompts_repeat_and_break_off_before_the_answer(model, seq_len):
    task = InductionDataset(model, n_prompts=5, seed=1, seq_len=seq_len)
    made = as_pairs(model, task)
    settings = {"corruption": "next_token", "kind": "words", "gap": 0, "seq_len": seq_len, "n_prompts": 5}
    assert made.metadata == settings | {"corrupted_answer": "wrong"} and made.seed == 1
    rows, roles = torch.arange(5), made.roles
    clean, corrupted = made.clean_batch(), made.corrupted_batch()
    right, wrong = made.answers.unbind(1)
    assert clean.shape[1] == 1 + seq_len + seq_len // 2 + 1 and (clean[:, 0] == model.tokenizer.bos_token_id).all()
    assert torch.equal(clean[:, 1 + seq_len :], clean[:, 1 : 2 + seq_len // 2])
    assert (roles["current"] == clean.shape[1] - 1).all() and torch.equal(roles["source+1"], roles["source"] + 1)
    assert torch.equal(clean[rows, roles["source"]], clean[rows, roles["current"]])
    assert torch.equal(clean[rows, roles["source+1"]], right) and torch.equal(corrupted[rows, roles["source+1"]], wrong)
    assert ((clean != corrupted).sum(1) == 1).all()
    assert all(len(set(row.tolist())) == seq_len for row in clean[:, 1 : 1 + seq_len])
    first, _ = task.get_clean_corrupt_pairs()[0]
    assert re.fullmatch(r"( [A-Za-z]{3,})+", first) and tokenize(model, first).tolist() == clean[0].tolist()


def test_seeds_repeat_and_differ_and_the_global_generators_are_left_alone(model):
    before = random.getstate(), torch.get_rng_state().tolist()
    first, same, other = (InductionDataset(model, 3, seed=seed).get_clean_corrupt_pairs() for seed in (0, 0, 1))
    assert first == same != other
    assert before == (random.getstate(), torch.get_rng_state().tolist())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_prompts": 0}, "n_prompts must be a whole number of 1 or more"),
        ({"seq_len": 3}, "seq_len must be a whole number of 4 or more"),
        ({"seq_len": 100_000}, "whole words, and seq_len=100000 needs 100001"),
        ({"seq_len": 100}, "at most 128"),
        ({"seed": None}, "seed must be"),
        ({"kind": "letters"}, "Unknown kind 'letters': choose 'words'.* or 'names'"),
        ({"corruption": "abc"}, "Unknown corruption 'abc': choose 'next_token' or 'token'"),
        ({"gap": -1}, "gap must be a whole number of 0 or more"),
        ({"gap": 50_000, "kind": "tokens"}, "with gap=50000"),
    ],
)
def test_bad_induction_settings_are_refused(model, settings, message):
    with pytest.raises(TaskError, match=message):
        InductionDataset(model, **settings)


def test_induction_words_that_do_not_turn_back_are_refused(model):
    task = InductionDataset(model, 2)
    task._prompts = [replace(prompt, clean=prompt.clean[::-1]) for prompt in task._prompts]
    task.get_clean_corrupt_pairs = lambda: InductionDataset(model, 2).get_clean_corrupt_pairs()
    with pytest.raises(TaskError, match="do not turn back"):
        task.to_pairs(model)


@pytest.mark.parametrize("corruption", ["next_token", "token"])
@pytest.mark.parametrize(("kind", "gap"), [("words", 3), ("tokens", 0), ("tokens", 5)])
def test_a_corruption_breaks_exactly_one_thing(model, kind, gap, corruption):
    made = InductionDataset(model, 6, seq_len=8, kind=kind, gap=gap, corruption=corruption).to_pairs(model)
    rows, roles = torch.arange(6), made.roles
    clean, corrupted = made.clean_batch(), made.corrupted_batch()
    assert clean.shape[1] == 1 + 8 + gap + 5
    assert (roles["current"] - roles["source"] == 8 + gap).all()
    assert torch.equal(clean[rows, roles["source"]], clean[rows, roles["current"]])
    assert torch.equal(clean[rows, roles["source+1"]], made.answers[:, 0])
    changed = roles["source+1"] if corruption == "next_token" else roles["source"]
    assert torch.equal((clean != corrupted).nonzero()[:, 1], changed)
    if corruption == "next_token":
        assert torch.equal(corrupted[rows, changed], made.answers[:, 1])
    else:  # nothing comes back, and the wrong answer is there as well
        last = corrupted[rows, roles["current"]]
        assert not (corrupted[:, :-1] == last[:, None]).any()
        assert (corrupted == made.answers[:, 1:]).any(1).all()
    assert not set(model.tokenizer.all_special_ids) & set(clean[:, 1:].flatten().tolist())


@pytest.mark.real_model
@pytest.mark.parametrize("corruption", ["next_token", "token"])
def test_names_in_text_come_back_by_the_first_name(corruption):
    model = load_model(device="cpu")
    task = InductionDataset(model, 12, kind="names", gap=2, corruption=corruption)
    made = as_pairs(model, task)
    wordings = {re.sub("|".join(map(re.escape, BETWEEN)), "", group) for group in made.groups}
    assert len(wordings) == 6 and "seq_len" not in made.metadata
    reference = task.reference(model, per_template=3)
    assert Counter(reference.groups) == dict.fromkeys(made.groups, 3)
    assert {len(row) for row in reference.clean_tokens} == {len(row) for row in made.clean_tokens}
    for i, (clean, corrupted) in enumerate(task.get_clean_corrupt_pairs()):
        first, last = (model.to_string([made.clean_tokens[i][made.roles[role][i]]]) for role in ("source", "source+1"))
        right, wrong = (model.to_string([answer]) for answer in made.answers[i].tolist())
        assert clean.endswith(first) and clean.count(first) == 2 and last == right != wrong
        assert f"{first}{last}" in clean and clean.count(".") == 3
        if corruption == "next_token":
            assert corrupted == clean.replace(f"{first}{last}", f"{first}{wrong}")
        else:
            assert corrupted.count(first) == 1 and corrupted.endswith(first) and last in corrupted


@pytest.mark.real_model
@pytest.mark.parametrize("settings", [{"kind": "names", "gap": 1}, {"kind": "tokens", "gap": 8, "seq_len": 24}])
def test_the_default_model_tells_what_has_to_follow(settings):
    model = load_model(device="cpu")
    for corruption in ("next_token", "token"):
        contrast = patchlib.contrast(
            patchlib.baseline(model, InductionDataset(model, 16, corruption=corruption, **settings))
        ).iloc[0]
        assert contrast.usable and contrast.clean > 2, corruption


def test_too_few_names_and_too_many_prompts_are_refused(model, monkeypatch):
    monkeypatch.setattr("patchlib.tasks.induction.LAST_NAMES", ("Qqqqqqqqq",))
    with pytest.raises(TaskError, match="Only 0 of 1 last names are single tokens"):
        InductionDataset(model, kind="names")


@pytest.mark.real_model
def test_the_default_model_continues_a_repeated_sequence():
    model = load_model(device="cpu")
    made = as_pairs(model, InductionDataset(model, 16))
    answers = made.answers
    for batch, better, worse in ((made.clean_batch(), 0, 1), (made.corrupted_batch(), 1, 0)):
        with torch.no_grad():
            logits = model(batch)[:, -1].gather(1, answers)
        assert (logits[:, better] > logits[:, worse]).float().mean() >= 0.9
