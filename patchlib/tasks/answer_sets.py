"""Answers of more than one token: several that are right or wrong, or one that goes on for several steps."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor

from patchlib._util import is_index, listed, shown
from patchlib.errors import TaskError
from patchlib.tasks.tokens import as_ids

if TYPE_CHECKING:
    from patchlib.tasks.pairs import PromptPairs

Ids = tuple[int, ...]
TwoIds = tuple[tuple[Ids, Ids], ...]
"""(right, wrong) of each pair, each a row of token ids."""
NO_ID = -1
"""Fills a set up to the size of the largest."""


def resolve_answers(
    answers: Any, answer_sets: Sequence[Any], continuations: Sequence[Any]
) -> tuple[Int[Tensor, "example 2"], TwoIds, TwoIds]:
    """The first right and wrong token of each pair, the sets and the continuations; TaskError for unusable ones.

    Args:
        answers: (right, wrong) of each pair: ids, Python sets of ids, or lists of ids, an answer of several tokens.
            Sets or lists here take the place of the other two arguments.
        answer_sets: Such sets, where ``answers`` has their first members.
        continuations: Such lists, where ``answers`` has their first tokens.
    """
    entries = answers if isinstance(answers, Tensor) or hasattr(answers, "dtype") else listed(answers)
    if isinstance(entries, list) and any(map(_is_nested, entries)):
        pairs = [[part if is_many(part) else [part] for part in _two(i, entry)] for i, entry in enumerate(entries)]
        have_sets = any(isinstance(part, set | frozenset) for pair in pairs for part in pair)
        if have_sets and any(isinstance(part, list | tuple) and len(part) > 1 for pair in pairs for part in pair):
            raise TaskError(
                "answers hold sets (several right tokens) and lists (an answer of several tokens): give one kind."
            )
        answer_sets, continuations = (pairs, ()) if have_sets else ((), pairs)
        entries = None
    sets = _checked("the answer set", answer_sets)
    sequences = _checked("the continuation", continuations)
    if sets and sequences:
        raise TaskError("A task has sets of answers or answers of several tokens, not both.")
    for i, (right, wrong) in enumerate(sets):
        if both := sorted({*right} & {*wrong}):
            raise TaskError(
                f"Pair {i} has the token {both[0]} among its right and among its wrong answers: "
                "leave it out of one of them."
            )
    for i, (right, wrong) in enumerate(sequences):
        if right[0] == wrong[0]:
            raise TaskError(
                f"Pair {i} has a right and a wrong answer that begin with the same token ({right[0]}), so that the "
                "prompt does not decide between them: choose answers that part at once, or put what they share "
                "at the end of the prompt."
            )
    # What a set of one or a continuation of one token says, plain answers say too: one form for one thing.
    first = [(right[0], wrong[0]) for right, wrong in sets or sequences]
    sets, sequences = (many if any(len(ids) > 1 for two in many for ids in two) else () for many in (sets, sequences))
    if entries is None:
        return as_ids(first, "answers"), sets, sequences
    ids = as_ids(entries, "answers")
    if first and ids.tolist() != [list(two) for two in first]:
        raise TaskError(
            "answers are not the first tokens of answer_sets or continuations: set these to () where answers are new."
        )
    return ids, sets, sequences


def is_many(part: Any) -> bool:
    """Whether this is a set of answers, or an answer of several tokens."""
    return isinstance(part, set | frozenset | list | tuple) or getattr(part, "ndim", 0) == 1


def _is_nested(entry: Any) -> bool:
    return isinstance(entry, list | tuple) and any(map(is_many, entry))


def _two(i: int, entry: Any) -> list[Any]:
    if not isinstance(entry, list | tuple) or len(entry) != 2:
        raise TaskError(f"Pair {i} needs two answers, (right, wrong), not {shown(entry)}.")
    return list(entry)


def _checked(kind: str, many: Sequence[Any]) -> TwoIds:
    """Each pair's two rows of ids; a set's in order, each once."""
    rows = []
    for i, entry in enumerate(listed(many)):
        two = []
        for part in _two(i, list(entry) if isinstance(entry, list | tuple) else entry):
            ids = sorted(part) if isinstance(part, set | frozenset) and all(map(is_index, part)) else listed(part)
            if not ids or not all(is_index(token) and token >= 0 for token in ids):
                raise TaskError(f"Pair {i} has {kind} {shown(part)}, which is no row of token ids.")
            ids = [int(token) for token in ids]
            two.append(tuple(dict.fromkeys(ids) if "set" in kind else ids))
        rows.append((two[0], two[1]))
    return tuple(rows)


def check_one_token(pairs: "PromptPairs", what: str) -> None:
    """TaskError where a pair has several right or wrong answers, or one of several tokens."""
    if pairs.answer_sets or pairs.continuations:
        kind = "sets of answers" if pairs.answer_sets else "answers of several tokens"
        raise TaskError(
            f"{pairs.name!r} has {kind}, but {what} reads one right and one wrong token: give it "
            "dataclasses.replace(pairs, answer_sets=(), continuations=()), which keeps the first of each."
        )


def padded(sets: TwoIds) -> Int[Tensor, "example 2 member"]:
    """The sets as one tensor, filled up with ``NO_ID``."""
    size = max(len(ids) for two in sets for ids in two)
    return torch.tensor([[[*ids, *[NO_ID] * (size - len(ids))] for ids in two] for two in sets])
