"""Prompts that are padding in part, and answers that are other tokens than was thought (A3, A9)."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

import patchlib
from patchlib.errors import AnswerWarning, ContrastWarning, TaskError
from tests.attacks.case import Refusal, case, refused
from tests.helpers import taught, text_pairs
from tests.tiny import load_tiny

LONG, LONG_CORRUPTED = (
    "When Mary and John went to the store, John gave a",
    "When Mary and John went to the store, Mary gave a",
)
SHORT, SHORT_CORRUPTED = "Mary gave a book to", "John gave a book to"
IOI = "When Mary and John went to the store, John gave a drink to"
IOI_CORRUPTED = "When Mary and John went to the store, Mary gave a drink to"


def gpt2_like() -> Any:
    """A model whose tokenizer has one token for BOS, EOS and padding, as GPT-2's."""
    model = load_tiny("gpt2", seed=77)  # nobody else's
    model.tokenizer.pad_token = model.tokenizer.eos_token = model.tokenizer.bos_token
    return model


def names(model: Any) -> list[tuple[int, int]]:
    """The answers Mary and John, for two pairs."""
    return [(model.to_single_token(" Mary"), model.to_single_token(" John"))] * 2


def padded(model: Any, side: str = "right") -> patchlib.PromptPairs:
    """Two pairs of two lengths, padded to one."""
    clean, corrupted = (
        model.to_tokens(texts, padding_side=side) for texts in ([LONG, SHORT], [LONG_CORRUPTED, SHORT_CORRUPTED])
    )
    return patchlib.PromptPairs(clean, corrupted, names(model))


def by_hand(model: Any, pairs: patchlib.PromptPairs) -> np.ndarray:
    """The clean logit differences, a plain forward for each prompt."""
    rows = zip(pairs.clean_tokens, pairs.answers.tolist(), strict=True)
    return np.array([float((logits := model(row[None])[0, -1])[right] - logits[wrong]) for row, (right, wrong) in rows])


def as_by_hand(model: Any, pairs: patchlib.PromptPairs) -> str:
    """`baseline` gives the same numbers as a forward for each prompt."""
    clean = patchlib.baseline(model, pairs).clean.values[0]
    np.testing.assert_allclose(clean, by_hand(model, pairs), atol=1e-4)
    return " ".join(f"{value:.2f}" for value in clean)


@case("A3", "PromptPairs(model.to_tokens(texts of two lengths)), padded right")
def padded_right() -> Refusal:
    model = load_tiny("gpt2")
    return refused(lambda: patchlib.baseline(model, padded(model)), "padding", "its own length", by=TaskError)


@case("A3", "the same, padded left")
def padded_left() -> Refusal:
    model = load_tiny("gpt2")
    return refused(lambda: patchlib.baseline(model, padded(model, "left")), "padding", by=TaskError)


@case("A3", "padded where one token is BOS, EOS and padding, on either side, with BOS or without")
def padded_gpt2() -> Refusal:
    model = gpt2_like()
    said = refused(lambda: patchlib.baseline(model, padded(model, "right")), "padding")
    refused(lambda: patchlib.baseline(model, padded(model, "left")), "BOS twice")
    for side in ("right", "left"):
        clean, corrupted = (
            model.to_tokens(texts, prepend_bos=False, padding_side=side)
            for texts in (["Mary gave it to", "He gave it"], ["John gave it to", "She gave it"])
        )
        pairs = patchlib.PromptPairs(clean, corrupted, names(model))
        refused(lambda pairs=pairs: patchlib.baseline(model, pairs), "padding")
    return said


@case("A3", "the same prompts, each a row of its own length; a leading BOS is no padding")
def rows_of_their_own() -> str:
    said = []
    for model in (load_tiny("gpt2"), gpt2_like()):
        clean, corrupted = (
            [model.to_tokens(text) for text in texts] for texts in ([LONG, SHORT], [LONG_CORRUPTED, SHORT_CORRUPTED])
        )
        said.append(as_by_hand(model, patchlib.PromptPairs(clean, corrupted, names(model))))
    return ", ".join(said)


@case("A3", "rows without BOS, where the model has one: they are run as they are")
def without_bos() -> str:
    model = load_tiny("gpt2")
    clean, corrupted = (
        [model.to_tokens(text, prepend_bos=False) for text in texts]
        for texts in ([LONG, SHORT], [LONG_CORRUPTED, SHORT_CORRUPTED])
    )
    return as_by_hand(model, patchlib.PromptPairs(clean, corrupted, names(model)))


@case("A3", "BOS twice, through tensors and written out in a text")
def bos_twice() -> Refusal:
    model = load_tiny("gpt2")
    text = model.tokenizer.bos_token
    rows = [model.to_tokens(text + prompt) for prompt in (SHORT, SHORT_CORRUPTED)]
    assert rows[0][0, :2].tolist() == [0, 0]
    pairs = patchlib.PromptPairs(*rows, names(model)[:1])
    three = text_pairs(model, [(text * 2 + SHORT, text * 2 + SHORT_CORRUPTED)])  # one is dropped, as ever
    refused(lambda: patchlib.baseline(model, three), "BOS twice")
    assert [row.tolist() for row in text_pairs(model, [(text + SHORT, text + SHORT_CORRUPTED)]).clean_tokens] == [
        model.to_tokens(SHORT)[0].tolist()
    ]
    return refused(lambda: patchlib.baseline(model, pairs), "BOS twice")


@case("A3", "padded by torch's pad_sequence with zeros, by NumPy, by a tokenizer's own call, in lists")
def padded_by_others() -> Refusal:
    model = load_tiny("gpt2")
    texts = ([LONG, SHORT], [LONG_CORRUPTED, SHORT_CORRUPTED])
    rows = [[model.to_tokens(text)[0] for text in two] for two in texts]
    sets = [[pad_sequence(two, batch_first=True) for two in rows]]
    sets.append([model.tokenizer(two, padding=True, return_tensors="np")["input_ids"] for two in texts])
    sets.append([model.tokenizer(two, padding=True)["input_ids"] for two in texts])
    sets.append([[*two[:1], torch.cat([two[1], torch.zeros(3, dtype=torch.long)])] for two in rows])
    for clean, corrupted in sets:
        pairs = patchlib.PromptPairs(clean, corrupted, names(model))
        said = refused(lambda pairs=pairs: patchlib.baseline(model, pairs), "padding")
    return said


@case("A3", "a single row that was cut out of a padded batch; a part of a padded task")
def cut_out() -> Refusal:
    model = load_tiny("gpt2")
    pairs = padded(model)
    cut = patchlib.PromptPairs(pairs.clean_tokens[1:], pairs.corrupted_tokens[1:], pairs.answers[1:])
    refused(lambda: patchlib.baseline(model, cut), "padding")
    return refused(lambda: patchlib.baseline(model, pairs.select([1])), "padding")


@case("A3", "padded prompts given to everything else that takes a task")
def padded_everywhere() -> Refusal:
    model = load_tiny("gpt2")
    pairs, row = padded(model), padded(model).clean_tokens[1]
    calls = [
        lambda: patchlib.sweep(model, pairs, progress=False),
        lambda: patchlib.path_patch(model, pairs, progress=False),
        lambda: patchlib.Ablation(model, pairs),
        lambda: patchlib.Ablation(model, text_pairs(model, [(LONG, LONG_CORRUPTED)]), reference=pairs),
        lambda: patchlib.token_losses(model, pairs),
        lambda: patchlib.direct_logit_attribution(model, pairs),
        lambda: patchlib.attention_patterns(model, row, [(0, 0)]),
        lambda: patchlib.ActivationPatcher(model).run_patching_experiment(pairs, ["blocks.0.hook_mlp_out"]),
    ]
    return [refused(call, "padding") for call in calls][-1]


@case("A3", "a prompt that ends in EOS and means it")
def ends_in_eos() -> str:
    model = load_tiny("gpt2")
    rows = [torch.cat([model.to_tokens(text)[0], torch.tensor([1])]) for text in (SHORT, SHORT_CORRUPTED)]
    refused(lambda: patchlib.baseline(model, patchlib.PromptPairs(rows[:1], rows[1:], names(model)[:1])), "keep_pads")
    pairs = patchlib.PromptPairs(rows[:1], rows[1:], names(model)[:1], keep_pads=True)
    as_by_hand(model, pairs.select([0]).reversed().reversed())
    return as_by_hand(model, pairs)


@case("A3", "random tokens, of which none is a special one")
def random_rows() -> str:
    model = load_tiny("gpt2")
    pairs = patchlib.repeated_tokens(model, n_rows=60, seq_len=25)
    special = [row for row in pairs.clean_tokens if {0, 1} & set(row[1:].tolist())]
    assert not special, "special tokens were drawn"
    return as_by_hand(model, pairs)


def warned(call: Any, *words: str, category: type[Warning] = AnswerWarning) -> str:
    """The first warning of this category, of one line and with all these words in it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    said = next(str(warning.message) for warning in caught if issubclass(warning.category, category))
    assert all(word in said for word in words) and "\n" not in said, said
    return said


def ioi(model: Any, right: str, wrong: str, end: str = "") -> patchlib.PromptPairs:
    """One IOI pair with these answers and this end of the prompts."""
    answers = [(model.to_single_token(right), model.to_single_token(wrong))]
    return patchlib.PromptPairs(model.to_tokens(IOI + end), model.to_tokens(IOI_CORRUPTED + end), answers)


@case("A9", "an answer without its leading space")
def without_space() -> str:
    model = taught("gpt2")
    top = int(model(model.to_tokens(IOI))[0, -1].argmax())
    assert model.to_string([top]) == " Mary"
    return warned(lambda: patchlib.baseline(model, ioi(model, "Mary", " John")), "'Mary'", "' Mary'", "right answer")


@case("A9", "a wrong answer without its leading space")
def wrong_without_space() -> str:
    model = taught("gpt2")
    return warned(lambda: patchlib.baseline(model, ioi(model, " Mary", "John")), "'John'", "' John'", "wrong answer")


@case("A9", "a prompt that ends in a space")
def ends_in_space() -> str:
    model = taught("llama")
    with_space, without = (model(model.to_tokens(IOI + end))[0, -1].softmax(-1) for end in (" ", ""))
    answer = model.to_single_token(" Mary")
    assert with_space[answer] < without[answer] / 10, "this model does not mind the space: take another"
    pairs = ioi(model, " Mary", " John", end=" ")
    return warned(lambda: patchlib.baseline(model, pairs), "ends in a space", "' Mary'", f"{without[answer]:.2g}")


@case("A9", "a prompt that ends in a space, which the model does not mind")
def ends_in_harmless_space() -> str:
    model = taught("gpt2")
    pairs = ioi(model, " Mary", " John", end=" ")
    with warnings.catch_warnings():
        warnings.simplefilter("error", AnswerWarning)
        return as_by_hand(model, pairs)


@case("A9", "a text task with such answers, swept, ablated and path patched")
def in_every_method() -> str:
    model = taught("gpt2")

    class Task(patchlib.PatchingDataset):
        name = "without spaces"

        def get_clean_corrupt_pairs(self):
            return [(IOI, IOI_CORRUPTED)]

        def get_target_tokens(self, pair_idx):
            return model.to_single_token("Mary"), model.to_single_token(" John")

    calls = [
        lambda: patchlib.sweep(model, Task(), layers=[0], progress=False),
        lambda: patchlib.path_patch(model, Task(), layers=[0], progress=False),
        lambda: patchlib.Ablation(model, Task(), source="zero"),
    ]
    return [warned(call, "without spaces", "' Mary'") for call in calls][-1]


@case("A9", "an answer that is BOS, as to_tokens(word)[0, 0] gives it")
def answer_is_bos() -> str:
    model = taught("gpt2")
    answers = [(int(model.to_tokens(" Mary")[0, 0]), model.to_single_token(" John"))]
    pairs = patchlib.PromptPairs(model.to_tokens(IOI), model.to_tokens(IOI_CORRUPTED), answers)
    return warned(lambda: patchlib.baseline(model, pairs), "BOS", "to_single_token")


@case("A9", "answers as they should be, and answers that are hard: no warning")
def no_warning() -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error", AnswerWarning)
        for model in (taught("gpt2"), load_tiny("gpt2"), load_tiny("llama")):
            patchlib.baseline(model, ioi(model, " Mary", " John"))
            patchlib.baseline(model, ioi(model, " Alice", " Bob"))
            patchlib.baseline(model, patchlib.IOIDataset(model, n_prompts=4))
            patchlib.baseline(model, patchlib.InductionDataset(model, n_prompts=4, seq_len=8))
    return "silent"


@case("A9", "an answer with braces, quotes or a line break in its text")
def strange_texts() -> str:
    model = taught("gpt2")
    answers = [(model.to_single_token("{"), model.to_single_token("'"))]
    pairs = patchlib.PromptPairs(model.to_tokens(IOI + "\n"), model.to_tokens(IOI_CORRUPTED + "\n"), answers)
    return as_by_hand(model, pairs)


@case("A9", "right and wrong answer swapped")
def swapped() -> str:
    model = taught("gpt2")
    pairs = patchlib.IOIDataset(model).to_pairs(model)
    turned = patchlib.PromptPairs(pairs.clean_tokens, pairs.corrupted_tokens, pairs.answers.flip(1))
    cells = {"site": "resid_pre", "over": ("layer",), "layers": [0], "progress": False}
    assert not patchlib.contrast(patchlib.baseline(model, turned)).usable.item()
    for metric in ("logit_diff", "prob"):
        said = warned(
            lambda metric=metric: patchlib.sweep(model, turned, metric=metric, **cells),
            "swapped",
            category=ContrastWarning,
        )
    result = patchlib.sweep(model, pairs, **cells)  # as they should be: whole
    assert patchlib.contrast(result).usable.item() and abs(float(result.effect.item()) - 1) < 1e-3
    return said


@case("A9", "one pair alone with its answers swapped")
def one_swapped() -> str:
    model = taught("gpt2")
    pairs = ioi(model, " John", " Mary")
    return warned(lambda: patchlib.sweep(model, pairs, layers=[0], progress=False), "swapped", category=ContrastWarning)


@case("A9", "a corruption that leaves the answer as it is: nothing is said of swapping")
def not_swapped() -> str:
    model = taught("gpt2")
    task = patchlib.IOIDataset(model, corruption="swap_order")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patchlib.sweep(model, task, layers=[0], progress=False)
    (said,) = [str(warning.message) for warning in caught if issubclass(warning.category, ContrastWarning)]
    assert "swapped" not in said and "corruption" in said
    return said


@case("A3", "ids of another tokenizer, beyond the vocabulary, below 0, halves, too large for any computer")
def impossible_ids() -> Refusal:
    model = load_tiny("gpt2")
    for row in ([0, 99999], [0, -100], [0, 1.5], [0, 2**70], [True, False], ["a"], [[1], [2]]):
        corrupted = [row[0], 5] if len(row) > 1 else [5]
        said = refused(
            lambda row=row, corrupted=corrupted: patchlib.baseline(
                model, patchlib.PromptPairs([row], [corrupted], [(2, 3)])
            ),
            by=TaskError,
        )
    return said
