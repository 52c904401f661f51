"""IOI prompts: what they say, that corruptions change only the names, and that the default model solves them."""

import random
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from patchlib.errors import TaskError
from patchlib.models.load import load_model
from patchlib.tasks import ioi, words
from patchlib.tasks.base import as_pairs
from patchlib.tasks.ioi import IOIDataset, classify_ioi_head
from patchlib.tasks.tokens import single_tokens
from tests.tiny import load_tiny


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    return load_tiny(request.param)


def test_word_lists_are_large_and_fit_their_slots():
    wordings, names = words.IOI_WORDINGS, words.NAMES
    assert len(set(wordings)) >= 12 and len(set(names)) == len(names) >= 80
    assert len(set(words.PLACES)) == len(words.PLACES) >= 20
    assert len(set(words.OBJECTS)) == len(words.OBJECTS) >= 20
    assert not [word for word in words.OBJECTS if word[0] in "aeiou"]
    assert all(name.istitle() for name in names)
    for wording in wordings:
        slots = re.findall(r"{(\w+)}", wording)
        assert sorted(slots) == ["A", "B", "S", "object", "place"] and not wording.startswith("{A}")
        assert slots.index("A") < slots.index("B") < slots.index("S") and slots[-1] == "object"
        assert len(re.findall(r"\w+|[.,]", wording)) == 16


def test_without_a_number_the_five_built_ins_come(model):
    task = IOIDataset(model)
    assert task.name == "IOI (Indirect Object Identification)"
    assert len(task.templates) == 5 and task.templates[0] == ("Mary", "John", "store", "drink")
    assert task.get_clean_corrupt_pairs()[0] == (
        "When Mary and John went to the store, John gave a drink to",
        "When Mary and John went to the store, Mary gave a drink to",
    )
    assert task.get_target_tokens(0) == (model.to_single_token(" Mary"), model.to_single_token(" John"))
    assert IOIDataset(model, templates="BABA").get_clean_corrupt_pairs()[0][0].startswith("When John and Mary")


@pytest.mark.parametrize("templates", ["mixed", "ABBA", "BABA"])
@pytest.mark.parametrize("corruption", ["swap_subject", "swap_order", "abc", "random_subject"])
@pytest.mark.parametrize("n_prompts", [None, 12])
def test_roles_hold_the_names_and_corruptions_change_only_them(model, n_prompts, corruption, templates):
    task = IOIDataset(model, n_prompts, seed=1, templates=templates, corruption=corruption)
    made = as_pairs(model, task)
    count = n_prompts or 5
    assert len(made) == count and made.seed == 1 and len(made.buckets()) == 1
    answer = {"swap_subject": "wrong", "swap_order": "right"}.get(corruption, "none")
    settings = {"corruption": corruption, "templates": templates, "n_prompts": count}
    assert made.metadata == settings | {"corrupted_answer": answer}
    assert list(made.roles) == ["IO", "S1", "S1+1", "S2", "END"]
    rows = torch.arange(count)
    clean, corrupted = made.clean_batch(), made.corrupted_batch()
    io, subject = made.answers.unbind(1)
    roles = made.roles
    was = {role: clean[rows, roles[role]] for role in roles}
    now = {role: corrupted[rows, roles[role]] for role in roles}
    assert torch.equal(was["IO"], io) and torch.equal(was["S1"], subject) and torch.equal(was["S2"], subject)
    assert torch.equal(roles["S1+1"], roles["S1"] + 1) and (roles["END"] == clean.shape[1] - 1).all()
    turns = {"ABBA": [True], "BABA": [False], "mixed": [True, False]}[templates]
    assert (roles["IO"] < roles["S1"]).tolist() == (turns * count)[:count]
    untouched = torch.ones_like(clean, dtype=torch.bool)
    for role in ("IO", "S1", "S2"):
        untouched[rows, roles[role]] = False
    assert torch.equal(clean[untouched], corrupted[untouched])
    match corruption:
        case "swap_subject":
            assert torch.equal(now["S2"], io) and torch.equal(now["IO"], io) and torch.equal(now["S1"], subject)
        case "swap_order":
            assert torch.equal(now["IO"], subject) and torch.equal(now["S1"], io) and torch.equal(now["S2"], subject)
        case "abc":
            for i in range(count):
                names = [now[role][i].item() for role in ("IO", "S1", "S2")]
                assert len({*names, *made.answers[i].tolist()}) == 5
        case "random_subject":
            assert torch.equal(now["IO"], io) and torch.equal(now["S1"], subject)
            assert ((now["S2"] != io) & (now["S2"] != subject)).all()


def test_prompts_have_pairs_of_names_of_their_own_and_balanced_wordings(model):
    task = IOIDataset(model, 4 * len(words.IOI_WORDINGS), seed=3)
    assert len({frozenset(fill[:2]) for fill in task.templates}) == len(task.templates)
    orders, clusters, labels = defaultdict(Counter), task.to_pairs(model).clusters, defaultdict(set)
    rows = zip(task.get_clean_corrupt_pairs(), task.templates, clusters, strict=True)
    for (clean, _), (io, subject, place, thing), label in rows:
        order = "ABBA" if clean.index(io) < clean.index(subject) else "BABA"
        a, b = (io, subject) if order == "ABBA" else (subject, io)
        fill = {"A": a, "B": b, "S": subject, "place": place, "object": thing}
        (wording,) = [wording for wording in words.IOI_WORDINGS if wording.format(**fill) == clean]
        orders[wording][order] += 1
        labels[wording].add(label)
    assert all(len(of_wording) == 1 for of_wording in labels.values()), "prompts of a wording are one cluster"
    assert len(orders) == len(words.IOI_WORDINGS) == len(set(clusters))
    assert all(count == {"ABBA": 2, "BABA": 2} for count in orders.values())


def test_seeds_repeat_and_differ_and_fewer_prompts_are_the_first_of_more(model):
    def texts(**settings):
        return IOIDataset(model, **settings).get_clean_corrupt_pairs()

    assert texts(n_prompts=6, seed=2) == texts(n_prompts=6, seed=2) == texts(n_prompts=20, seed=2)[:6]
    assert texts(n_prompts=6, seed=2) != texts(n_prompts=6, seed=4)
    abc = texts(n_prompts=6, seed=2, corruption="abc")
    assert [clean for clean, _ in abc] == [clean for clean, _ in texts(n_prompts=6, seed=2)]
    assert abc == texts(n_prompts=9, seed=2, corruption="abc")[:6]
    assert texts(n_prompts=np.int64(6), seed=np.int64(2)) == texts(n_prompts=6, seed=2)


def test_the_global_random_generators_are_left_alone(model):
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    IOIDataset(model, 8, corruption="abc").to_pairs(model)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_prompts": 0}, "n_prompts must be a whole number of 1 or more, not 0"),
        ({"n_prompts": -3}, "n_prompts must be"),
        ({"n_prompts": True}, "n_prompts must be"),
        ({"n_prompts": "8"}, "n_prompts must be"),
        ({"n_prompts": 4.0}, "n_prompts must be"),
        ({"n_prompts": 10**6}, "n_prompts=1000000 is more than the .* pairs"),
        ({"seed": 1.5}, "seed must be"),
        ({"seed": -1}, "seed must be"),
        ({"corruption": "swap"}, "'swap': choose 'swap_subject'.* or 'random_subject'"),
        ({"templates": "AABB"}, "'AABB': choose 'mixed'.* or 'BABA'"),
        ({"templates": ""}, "choose 'mixed'"),
    ],
)
def test_bad_settings_are_refused(model, settings, message):
    with pytest.raises(TaskError, match=message):
        IOIDataset(model, **settings)


def test_too_few_single_token_words_are_counted(model, monkeypatch):
    monkeypatch.setattr(ioi, "NAMES", ("Mary", "John", "Sarah", "Zebulon", "Xanthippe"))
    assert len(IOIDataset(model, 3).templates) == 3
    with pytest.raises(TaskError, match="n_prompts=4 is more than the 3 pairs"):
        IOIDataset(model, 4)
    with pytest.raises(TaskError, match=r"Only 3 of 5 names .* 5 are needed"):
        IOIDataset(model, 2, corruption="abc")
    with pytest.raises(TaskError, match="built-in names Anna, David"):
        IOIDataset(model)
    monkeypatch.setattr(ioi, "PLACES", ("zzyzx",))
    with pytest.raises(TaskError, match="Only 0 of 1 places"):
        IOIDataset(model, 2)


def test_a_dataset_made_for_another_model_is_refused():
    task = IOIDataset(load_tiny("gpt2"), 4)
    task._name_ids = {name: token + 1 for name, token in task._name_ids.items()}
    with pytest.raises(TaskError, match="make the dataset with the model"):
        as_pairs(load_tiny("gpt2"), task)


def test_published_heads_of_gpt2_small():
    assert classify_ioi_head(9, 9) == "Name Mover" and classify_ioi_head(10, 7) == "Negative Name Mover"
    assert classify_ioi_head(8, 6) == "S-Inhibition" and classify_ioi_head(5, 9) == "Induction"
    assert classify_ioi_head(0, 10) == "Duplicate Token" and classify_ioi_head(4, 11) == "Previous Token"
    assert classify_ioi_head(11, 2) == "Backup Name Mover" and classify_ioi_head(6, 0) == "Other"
    heads = [head for heads in ioi.IOI_HEADS.values() for head in heads]
    assert len(heads) == len(set(heads)) == 26


@pytest.fixture(scope="module")
def default_model():
    return load_model(device="cpu")


def logit_diffs(model, task):
    made = as_pairs(model, task)
    with torch.no_grad():
        logits = [model(batch)[:, -1].gather(1, made.answers) for batch in (made.clean_batch(), made.corrupted_batch())]
    return [right_and_wrong[:, 0] - right_and_wrong[:, 1] for right_and_wrong in logits]


@pytest.mark.real_model
@pytest.mark.parametrize("templates", ["ABBA", "BABA"])
def test_the_default_model_solves_ioi_and_swap_subject_flips_it(default_model, templates):
    clean, corrupted = logit_diffs(default_model, IOIDataset(default_model, 32, templates=templates))
    assert (clean > 0).float().mean() >= 0.9 and (corrupted < 0).float().mean() >= 0.9
    assert clean.mean() > 3 and corrupted.mean() < -2.5


@pytest.mark.real_model
@pytest.mark.parametrize("corruption", ["swap_order", "abc", "random_subject"])
def test_swap_order_is_no_contrast_and_other_names_are_a_weaker_one(default_model, corruption):
    clean, corrupted = logit_diffs(default_model, IOIDataset(default_model, 16, corruption=corruption))
    assert (clean > 0).float().mean() >= 0.9
    if corruption == "swap_order":  # the answer stays the same
        assert (corrupted > 0).float().mean() >= 0.9 and (clean - corrupted).mean().abs() < 1
    else:  # no name is the right one any more
        assert corrupted.mean().abs() < 1.5 and (clean - corrupted).mean() > 2.5


@pytest.mark.real_model
def test_most_words_are_single_tokens_of_the_default_model(default_model):
    for word_list, least in ((words.NAMES, 80), (words.PLACES, 20), (words.OBJECTS, 20)):
        assert len(single_tokens(default_model, word_list)) >= max(least, 0.9 * len(word_list))
    made = as_pairs(default_model, IOIDataset(default_model, 64))
    assert len(made.buckets()) == 1
