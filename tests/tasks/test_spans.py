"""Spans of text, END and positions from the end: found by characters, patched where they are."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import patchlib
from patchlib.errors import SweepError, TaskError
from patchlib.tasks.spans import token_offsets
from patchlib.tasks.tokens import tokenize
from tests.helpers import contrast_pairs, make_pairs, mixed_pairs, sweep, taught
from tests.tiny import load_tiny

TEXTS = ["Then Mary and John went to the store, John", "The unbelievable café of Müller, said Mary", "Mary"]


class Shop(patchlib.PatchingDataset):
    """IOI's built-in prompts as a user would write them: in text, with names for words."""

    name = "shop"

    def __init__(self, model, roles):
        self.ioi, self.roles = patchlib.IOIDataset(model), roles

    def get_clean_corrupt_pairs(self):
        return self.ioi.get_clean_corrupt_pairs()

    def get_target_tokens(self, pair_idx):
        return self.ioi.get_target_tokens(pair_idx)

    def get_roles(self, pair_idx):
        io, subject, place, _ = self.ioi.templates[pair_idx]
        return self.roles(io, subject, place)


def test_a_span_is_all_tokens_that_have_one_of_its_characters():
    model = load_tiny("llama")  # BOS is counted
    for text, span in [
        (TEXTS[0], "Mary and"),
        (TEXTS[1], "unbelievable café"),
        (TEXTS[1], "Müller"),
        (TEXTS[2], "Mary"),
    ]:
        (indices,) = patchlib.span_tokens(model, [text], span)
        row = tokenize(model, text)
        assert model.to_string(row[indices]).strip() == span and indices == list(range(indices[0], indices[-1] + 1))
    assert patchlib.span_tokens(model, TEXTS[:1], (5, 9)) == patchlib.span_tokens(model, TEXTS[:1], "Mary")
    # A token that is cut through belongs to it: "ary" is a part of " Mary".
    assert patchlib.span_tokens(model, TEXTS[:1], "ary") == patchlib.span_tokens(model, TEXTS[:1], "Mary")


def test_a_tokenizer_without_offsets_gives_the_same_spans():
    model = load_tiny("llama")
    rows = [tokenize(model, text).tolist() for text in TEXTS]

    class Slow:
        is_fast = False

        def decode(self, *args, **how):
            return model.tokenizer.decode(*args, **how)

    slow = SimpleNamespace(tokenizer=Slow())
    fast, decoded = (token_offsets(m, TEXTS, rows) for m in (model, slow))
    for text, a, b, row in zip(TEXTS, fast, decoded, rows, strict=True):
        # The spaces before words belong to a token or to none, and half characters to the token that ends them.
        assert len(a) == len(b) == len(row)
        for word in text.replace(",", "").split():
            span = patchlib.Span(word, "last", occurrence=0)
            assert patchlib.tasks.spans.find_span(text, a, span) == patchlib.tasks.spans.find_span(text, b, span), word


def test_a_span_that_is_not_there_or_there_twice_is_one_line():
    model = load_tiny("gpt2")
    for span, says in [
        ("Bob", r"Prompt 0: the span 'Bob' is not in 'Then Mary"),
        ("John", r"Prompt 0: the span 'John' stands 2 times in .*: say which with occurrence=0"),
        (patchlib.Span("John", occurrence=2), r"has no occurrence 2"),
        ((3, 900), "characters 3 to 900 are not in"),
    ]:
        with pytest.raises(TaskError, match=says) as error:
            patchlib.span_tokens(model, TEXTS[:1], span)
        assert "\n" not in str(error.value)
    with pytest.raises(TaskError, match="2 spans were given for 1 prompts"):
        patchlib.span_tokens(model, TEXTS[:1], ["Mary", "John"])
    first, last = (patchlib.span_tokens(model, TEXTS[:1], "John", occurrence=i) for i in (0, -1))
    assert first[0][0] < last[0][0] == len(tokenize(model, TEXTS[0])) - 1
    # "he" is a part of "the", "Then" and "she", and once a word of its own.
    assert len(patchlib.span_tokens(model, ["Then the man said that he"], "he")[0]) == 1


def test_own_tasks_name_words_and_get_the_roles_of_ioi():
    model = load_tiny("gpt2")
    task = Shop(model, lambda io, s, place: {"IO": io, "S1": (s, 0), "S2": patchlib.Span(s, occurrence=-1), "five": 5})
    pairs, ioi = task.to_pairs(model), patchlib.IOIDataset(model).to_pairs(model)
    for role in ("IO", "S1", "S2", "END"):
        assert torch.equal(pairs.roles[role], ioi.roles[role])
    assert pairs.roles["five"].tolist() == [5] * 5
    for roles, says in [
        (lambda io, s, place: {"S": s}, "Pair 0 of 'shop', position 'S': the span 'John' stands 2 times"),
        (lambda io, s, place: {"S": "Zoe"}, "Pair 0 of 'shop', position 'S': the span 'Zoe' is not in"),
        (lambda io, s, place: {"p": 99}, "Pair 0 of 'shop', position 'p': there is no token 99"),
        (lambda io, s, place: {"p": None}, "give a text, .* or a token index, not None"),
        (lambda io, s, place: {place: 1}, "Pair 1 of 'shop' names the positions park, but Pair 0 of 'shop' store"),
        (lambda io, s, place: [place], r"get_roles\(\) cannot be a list: give \{name: text\}"),
    ]:
        with pytest.raises(TaskError, match=says):
            Shop(model, roles).to_pairs(model)


def test_end_is_everywhere_and_sweeps_over_roles_need_nothing_else():
    model = load_tiny("gpt2")
    pairs = replace(contrast_pairs(model), roles={})
    assert pairs.roles["END"].tolist() == [8] * 4 and pairs.select([2]).roles["END"].tolist() == [8]
    over_roles = sweep(model, pairs, "resid_pre", ("layer", "role"))
    over_pos = sweep(model, pairs, "resid_pre", ("layer", "pos"))
    assert over_roles.role.values.tolist() == ["END"]
    np.testing.assert_array_equal(over_roles.patched.sel(role="END"), over_pos.patched.sel(pos=8))


def test_discovery_and_head_types_run_on_a_task_in_text():
    model = taught()
    task = Shop(model, lambda io, s, place: {"IO": io, "S2": patchlib.Span(s, occurrence=-1)})
    with pytest.warns(patchlib.FewPromptsWarning):
        one_prompt = task.to_pairs(model).select([0])  # of a single prompt nothing is asked to be more than chance
        search = patchlib.discover(model, one_prompt, depth=2, max_heads=2, min_share=0.01, progress=False)
    assert set(search.positions) == {"IO", "S2", "END"} and len(search.head_types)
    assert set(search.head_types.looks_at) <= {"IO", "S2", "END"}


def test_a_span_is_patched_as_its_tokens_are_together_and_negative_positions_count_from_the_end():
    model = load_tiny("llama")
    pairs = replace(contrast_pairs(model), spans={"two": [[4, 5]] * 4})
    named = sweep(model, pairs, "resid_pre", ("layer",), positions="two")
    for engine in ("fast", "plain"):
        by_index = sweep(model, pairs, "resid_pre", ("layer",), positions=[4, 5], engine=engine)
        np.testing.assert_allclose(named.patched, by_index.patched, atol=1e-5)
    apart = replace(pairs, spans={"two": [[4, 5], [5], [5, 8], [6]]})  # each prompt has its own
    several = sweep(model, apart, "resid_pre", ("layer",), positions="two")
    for i, indices in enumerate(apart.spans["two"]):
        alone = sweep(model, pairs.select([i]), "resid_pre", ("layer",), positions=list(indices))
        np.testing.assert_allclose(several.patched[..., i], alone.patched[..., 0], atol=1e-5)
    both = sweep(model, pairs, "resid_pre", ("layer", "role"), positions=["two", "END"])
    np.testing.assert_allclose(both.patched.sel(role="two"), named.patched, atol=1e-5)
    mixed = mixed_pairs(model)  # of 7 and 9 tokens
    result = sweep(model, mixed, "resid_pre", ("layer", "pos"), positions=[-1, -2, 1])
    end = sweep(model, mixed, "resid_pre", ("layer", "role"), positions="END")
    np.testing.assert_allclose(result.patched.sel(pos=-1), end.patched.sel(role="END"), atol=1e-5)
    assert result.pos_label.values[0] == "<END>"
    before = sweep(model, mixed.select([1, 3]), "resid_pre", ("layer",), positions=5)
    np.testing.assert_allclose(result.patched.sel(pos=-2)[..., [1, 3]], before.patched, atol=1e-5)
    with pytest.raises(SweepError, match="Position -10 is outside the prompts"):
        sweep(model, mixed, "resid_pre", ("layer",), positions=-10)


def test_spans_keep_to_their_prompts():
    pairs = replace(make_pairs(load_tiny("gpt2")), spans={"two": [[1, 2], [2, 3], [3], [4]]})
    assert pairs.select([2, 0]).spans == {"two": ((3,), (1, 2))} and pairs.reversed().spans == pairs.spans
    assert pairs.positions == ("first", "varied", "END", "two")
    for spans, says in [
        ({"two": [[1, 2]] * 3}, "Span 'two' must give tokens inside each prompt"),
        ({"two": [[1, 9]] * 4}, "Span 'two' must give tokens inside each prompt"),
        ({"two": [[]] * 4}, "Span 'two' must give tokens inside each prompt"),
        ({"END": [[1]] * 4}, "Span 'END' is the name of a role too"),
        ([1], "spans cannot be a list"),
    ]:
        with pytest.raises(TaskError, match=says):
            replace(pairs, spans=spans)


def test_another_token_named_end_is_one_line():
    model = load_tiny("gpt2")
    pairs = make_pairs(model)
    moved = replace(pairs, roles={"END": pairs.roles["first"]})
    with pytest.raises(TaskError, match=r"names token 5 of prompt 0 END, whose last token is 8"):
        patchlib.baseline(model, moved)


def test_a_span_of_spaces_is_one_line():
    with pytest.raises(TaskError, match="span"):
        patchlib.span_tokens(load_tiny("gpt2"), ["The cat sat"], " ")
