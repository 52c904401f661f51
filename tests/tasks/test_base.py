"""What PromptPairs takes and refuses, and how texts become tokens that line up."""

import re
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from patchlib import IOIDataset, PatchingDataset, PromptPairs
from patchlib.errors import AlignmentError, TaskError
from patchlib.tasks.base import as_pairs
from patchlib.tasks.tokens import single_tokens, tokenize
from tests.tiny import load_tiny

CLEAN, CORRUPTED, ANSWERS = [[5, 6, 7], [5, 6, 8]], [[5, 9, 7], [5, 9, 8]], [[1, 2], [3, 4]]


def pairs(**changes):
    return PromptPairs(**{"clean_tokens": CLEAN, "corrupted_tokens": CORRUPTED, "answers": ANSWERS, **changes})


class TextTask(PatchingDataset):
    """A task made of whatever texts and answers a test gives it."""

    name = "text task"

    def __init__(self, model, prompts, answers=(" Mary", " John")):
        self.model, self.prompts, self.answers = model, prompts, answers

    def get_clean_corrupt_pairs(self):
        return self.prompts

    def get_target_tokens(self, pair_idx):
        return tuple(self.model.to_single_token(a) if isinstance(a, str) else a for a in self.answers)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request):
    return load_tiny(request.param)


# ---- PromptPairs


@pytest.mark.parametrize(
    "shape",
    [torch.tensor, list, lambda rows: [torch.tensor([row], dtype=torch.int32) for row in rows], np.array],
)
def test_pairs_take_tensors_and_lists_and_keep_int64_rows(shape):
    made = PromptPairs(shape(CLEAN), shape(CORRUPTED), ANSWERS, roles={"X": [1, 2]}, name="mine")
    assert isinstance(made.clean_tokens, tuple) and len(made) == 2
    assert [row.tolist() for row in made.clean_tokens] == CLEAN
    assert {row.dtype for row in (*made.clean_tokens, *made.corrupted_tokens, made.answers)} == {torch.int64}
    assert made.corrupted_batch().tolist() == CORRUPTED and made.roles["X"].tolist() == [1, 2]
    assert repr(made) == "PromptPairs('mine', 2 pairs of 3 tokens)"
    with pytest.raises(FrozenInstanceError):
        made.name = "other"


def test_buckets_group_by_length_and_select_keeps_order_and_metric_numbers():
    mixed = PromptPairs(
        [[1, 2, 3], [4, 5], [6, 7, 8], [9, 10]],
        [[1, 0, 3], [4, 0], [6, 0, 8], [9, 0]],
        [[1, 2]] * 4,
        roles={"last": [2, 1, 2, 1]},
        compute_metric=lambda logits, i: float(i),
    )
    assert [bucket.tolist() for bucket in mixed.buckets()] == [[1, 3], [0, 2]]
    with pytest.raises(TaskError, match=r"\[2, 3\] tokens.*buckets\(\)"):
        mixed.clean_batch()
    part = mixed.select(mixed.buckets()[1]).select([1])
    assert part.clean_batch().tolist() == [[6, 7, 8]] and part.roles["last"].tolist() == [2]
    assert part.compute_metric(None, 0) == 2.0


def test_prompts_of_a_group_are_one_cluster_unless_clusters_are_given():
    rows = [[1, 2], [3, 4], [5, 6]], [[1, 0], [3, 0], [5, 0]], [[1, 2]] * 3
    assert PromptPairs(*rows).clusters == ()
    assert PromptPairs(*rows, groups=("a", "b", "a")).clusters == ("a", "b", "a")
    both = PromptPairs(*rows, groups=("a", "b", "a"), clusters=("x", "x", "y"))
    assert both.select([2, 0]).clusters == ("y", "x") and both.reversed().clusters == ("x", "x", "y")
    with pytest.raises(TaskError, match="3 pairs and 2 clusters: give one for each"):
        PromptPairs(*rows, clusters=("x", "y"))


@pytest.mark.parametrize("indices", [[], [2], [-1], [0.5], [True, False]])
def test_select_refuses_what_is_not_there(indices):
    with pytest.raises(TaskError):
        pairs().select(indices)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clean_tokens": [], "corrupted_tokens": [], "answers": []}, "no prompts"),
        ({"corrupted_tokens": CORRUPTED[:1]}, "2 clean and 1 corrupted"),
        ({"answers": ANSWERS[:1]}, r"shape \[1, 2\]"),
        ({"answers": [1, 2]}, r"shape \[2\]"),
        ({"answers": [[1, 2], [3, 3]]}, "Pair 1 has the answers 3"),
        ({"answers": [[1, 2], [3, -4]]}, "two different token ids"),
        ({"answers": [["Mary", "John"]] * 2}, "answers cannot be read"),
        ({"corrupted_tokens": [CORRUPTED[0], CLEAN[1]]}, "pair 1 are the same tokens"),
        ({"clean_tokens": [CLEAN[0], []]}, "clean prompt 1 must be a row"),
        ({"clean_tokens": [5, 6]}, "clean prompt 0 must be a row"),
        ({"clean_tokens": torch.rand(2, 3)}, "whole numbers"),
        ({"roles": {"S2": [0, 3]}}, "'S2'.*inside each"),
        ({"roles": {"S2": [-1, 0]}}, "'S2'.*inside each"),
        ({"roles": {"S2": [0]}}, "'S2'.*each of the 2 prompts"),
        ({"metadata": {"words": ["a"]}}, "'words'"),
    ],
)
def test_bad_pairs_are_refused_with_one_clear_message(changes, message):
    with pytest.raises(TaskError, match=message) as caught:
        pairs(**changes)
    assert "\n" not in str(caught.value)


def test_unequal_rows_are_shown_side_by_side_with_ids():
    with pytest.raises(AlignmentError) as caught:
        pairs(corrupted_tokens=[CORRUPTED[0], [5, 9, 8, 8]])
    first, head, *rows = str(caught.value).splitlines()
    assert first.startswith("The clean prompt of pair 1 has 3 tokens and its corrupted prompt 4")
    assert head.split() == ["clean", "corrupted"]
    assert [row.split() for row in rows] == [
        ["0", "5", "5"],
        ["1", "6", "9", "<-", "they", "part", "here"],
        ["2", "8", "8"],
        ["3", "(nothing)", "8"],
    ]


def test_long_unequal_rows_are_shown_around_where_they_part():
    clean = list(range(100, 300))
    with pytest.raises(AlignmentError) as caught:
        PromptPairs([clean], [[*clean[:150], 7, 7, *clean[151:]]], [[1, 2]])
    text = str(caught.value)
    assert "(140 equal positions left out)" in text and "(21 more)" in text
    assert re.search(r"150 +250 +7 +<- they part here", text) and len(text.splitlines()) == 44


# ---- text to PromptPairs


def test_unequal_texts_are_shown_side_by_side_with_strings(model):
    prompts = [("When Mary and John went", "When Mary and Zebulon went")]
    with pytest.raises(AlignmentError) as caught:
        as_pairs(model, TextTask(model, prompts))
    text = str(caught.value)
    assert "pair 0" in text and re.search(r"4 +' John' +'.+' +<- they part here", text)
    assert re.search(r"0 +'<bos>' +'<bos>'", text) and text.count("(nothing)") > 0


def test_the_readme_task_of_the_seed_runs_unchanged(model):
    class MyTask(PatchingDataset):
        def __init__(self, model):
            self.model = model

        @property
        def name(self) -> str:
            return "My Custom Task"

        def get_clean_corrupt_pairs(self):
            return [("The cat sat on the mat", "The dog sat on the mat")]

        def get_target_tokens(self, pair_idx):
            return (self.model.to_single_token(" cat"), self.model.to_single_token(" dog"))

        def compute_metric(self, logits, pair_idx):
            correct, incorrect = self.get_target_tokens(pair_idx)
            return (logits[0, -1, correct] - logits[0, -1, incorrect]).item()

    made = as_pairs(model, MyTask(model))
    assert made.name == "My Custom Task" and len(made) == 1 and made.seed is None
    assert made.example_prompts(model) == {
        "clean_prompt": ["<bos>The cat sat on the mat"],
        "corrupted_prompt": ["<bos>The dog sat on the mat"],
        "answer": [" cat"],
        "wrong_answer": [" dog"],
    }
    logits = model(made.clean_batch())
    right, wrong = made.answers[0].tolist()
    assert made.compute_metric(logits, 0) == pytest.approx((logits[0, -1, right] - logits[0, -1, wrong]).item())


def test_the_default_metric_is_the_logit_difference_and_is_not_passed_on(model):
    task = TextTask(model, [("Mary saw John", "Mary saw Tom")])
    logits = torch.randn(1, 4, model.cfg.d_vocab)
    right, wrong = task.get_target_tokens(0)
    assert task.compute_metric(logits, 0) == pytest.approx((logits[0, -1, right] - logits[0, -1, wrong]).item())
    assert as_pairs(model, task).compute_metric is None


def test_bos_comes_once_even_where_the_text_has_it(model):
    plain = tokenize(model, "When Mary went")
    assert plain.tolist() == model.to_tokens("When Mary went")[0].tolist()
    assert tokenize(model, "<bos>When Mary went").tolist() == plain.tolist()
    assert (plain == model.tokenizer.bos_token_id).sum() == 1


@pytest.mark.parametrize(
    ("prompts", "answers", "message"),
    [
        ([], (" Mary", " John"), "no prompts"),
        ([("", " ")], (" Mary", " John"), "text with words"),
        ([("Mary", None)], (" Mary", " John"), "text with words"),
        ([("Mary", "John", "Tom")], (" Mary", " John"), "must give pairs"),
        ([("Mary saw", "Mary saw")], (" Mary", " John"), "pair 0 are the same tokens"),
        ([("Mary saw", "John saw")], (" Zebulon", " John"), "Pair 0 of 'text task'.* Zebulon is not a single"),
        ([("Mary saw", "John saw")], (" Mary", " Mary"), "two different"),
        ([("Mary saw", "John saw")], (5, 10**6), "token id 1000000"),
        ([("Mary saw", "John saw")], (5, 6.5), "two ids"),
        ([("Mary saw", "John saw")], (5, 6, 7), "two ids"),
        ([("Mary" + " old" * 200, "John" + " old" * 200)], (5, 6), "at most 128"),
    ],
)
def test_bad_texts_are_refused_with_one_clear_message(model, prompts, answers, message):
    with pytest.raises(TaskError, match=message):
        as_pairs(model, TextTask(model, prompts, answers))


def test_as_pairs_takes_tasks_and_pairs_only(model):
    made = pairs()
    assert as_pairs(model, made) is made
    with pytest.raises(TaskError, match="not IOIDataset"):
        as_pairs(model, IOIDataset)
    with pytest.raises(TaskError, match="not list"):
        as_pairs(model, [("a", "b")])
    with pytest.raises(TaskError, match="knows 0 to"):
        as_pairs(model, pairs(clean_tokens=[[5, 6, 10**6], CLEAN[1]]))


def test_single_tokens_leaves_out_words_in_pieces(model):
    found = single_tokens(model, ["Mary", "Zebulon", "store"])
    assert found == {word: model.to_single_token(f" {word}") for word in ("Mary", "store")}
