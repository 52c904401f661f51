"""Spans of text: which tokens of a prompt a word or a phrase is, by character offsets."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_choice, check_text, is_index, listed, shown
from patchlib.errors import TaskError
from patchlib.models.check import check_model
from patchlib.tasks.pairs import PromptPairs
from patchlib.tasks.tokens import text_of, tokenize, tokenizer_of

if TYPE_CHECKING:
    from patchlib.tasks.base import PatchingDataset

WHICH = ("first", "last", "all")
Offsets = list[tuple[int, int]]
"""Of each token, where its characters begin and end in the text; equal for tokens that stand for none, such as BOS."""


@dataclass(frozen=True)
class Span:
    """A part of a prompt, by its text or its characters.

    A text that stands in the prompt as a word of its own is that word: "he" is not found in "the" where "he" stands
    elsewhere too.

    Args:
        text: As it stands in the prompt; or (start, end) in characters, counted from 0.
        which: Of its tokens: the first, the last, or all of them.
        occurrence: Which one, where the text stands in the prompt more than once: from 0, or -1 for the last.

    Example:
        >>> patchlib.Span("Mary", which="all", occurrence=-1)
        Span(text='Mary', which='all', occurrence=-1)
    """

    text: str | tuple[int, int]
    which: Literal["first", "last", "all"] = "last"
    occurrence: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.text, str):
            check_text("The text of a span", self.text, TaskError)
        elif len(listed(self.text)) != 2 or not all(map(is_index, listed(self.text))):
            raise TaskError(f"A span is a text or (start, end) in characters, not {shown(self.text)}.")
        check_choice("which", self.which, WHICH, TaskError)
        if self.occurrence is not None and not is_index(self.occurrence):
            raise TaskError(
                f"occurrence must be a whole number from 0, or -1 for the last, not {shown(self.occurrence)}."
            )


def span_tokens(
    model: TransformerBridge,
    prompts: PatchingDataset | PromptPairs | Sequence[str],
    span: str | tuple[int, int] | Span | Sequence[str | tuple[int, int] | Span],
    occurrence: int | None = None,
) -> list[list[int]]:
    """Which tokens of each prompt a span is, found by the tokenizer's character offsets.

    A token belongs to a span if it has at least one of its characters; a space before a word does not count. Prompts
    may differ in length and wording.

    Args:
        model: Whose tokenizer reads them; BOS is counted where the model's default has it.
        prompts: Texts, or a task, of which the clean prompts are meant.
        span: The same for all prompts, or one for each: a text, (start, end) in characters, or a ``Span``. For a task,
            the name of one of its roles or spans too.
        occurrence: Which one, where a text stands in a prompt more than once: from 0, or -1 for the last.

    Returns:
        For each prompt the indices of the span's tokens, in order; all of them, or those that ``Span.which`` says.

    Raises:
        TaskError: A span that is not in a prompt, or more than once; the message has the prompt's number.

    Example:
        >>> texts = ["The Space Needle is in", "In Paris stands the Eiffel Tower"]
        >>> patchlib.span_tokens(model, texts, ["Space Needle", "Eiffel Tower"])  # " Need" and "le" are two tokens
        [[2, 3, 4], [5, 6, 7]]
        >>> patchlib.span_tokens(model, task, "S2")
        [[12], [12], [12], [11]]
    """
    check_model(model)
    if isinstance(prompts, PromptPairs) or hasattr(prompts, "to_pairs"):
        pairs = prompts if isinstance(prompts, PromptPairs) else prompts.to_pairs(model)
        if isinstance(span, str) and span in pairs.spans:
            return [list(indices) for indices in pairs.spans[span]]
        if isinstance(span, str) and span in pairs.roles:
            return [[index] for index in pairs.roles[span].tolist()]
        rows = [row.tolist() for row in pairs.clean_tokens]
        texts = [text_without_specials(model, row) for row in rows]
    else:
        texts = [check_text("A prompt", text, TaskError) for text in listed(prompts)]
        rows = [tokenize(model, text).tolist() for text in texts]
    is_one = isinstance(span, str | Span) or (isinstance(span, tuple) and len(span) == 2 and all(map(is_index, span)))
    spans: list[Any] = [span] * len(texts) if is_one else listed(span)
    if len(spans) != len(texts):
        raise TaskError(f"{len(spans)} spans were given for {len(texts)} prompts: give one for all, or one for each.")
    wanted = [entry if isinstance(entry, Span) else Span(entry, "all", occurrence) for entry in spans]
    offsets = token_offsets(model, texts, rows)
    indices = []
    for i in range(len(texts)):
        try:
            indices.append(find_span(texts[i], offsets[i], wanted[i]))
        except TaskError as error:
            raise TaskError(f"Prompt {i}: {error}") from error
    return indices


def find_span(text: str, offsets: Offsets, span: Span) -> list[int]:
    """The tokens of a span in one prompt; TaskError where it is not there, or more than once."""
    start, end = _characters(text, span)
    indices = [i for i, (begin, stop) in enumerate(offsets) if begin < stop and begin < end and start < stop]
    if not indices:
        raise TaskError(f"the span {shown(span.text)} has no token of its own in {shown(text)}.")
    match span.which:
        case "first":
            return indices[:1]
        case "last":
            return indices[-1:]
        case _:
            return indices


def _characters(text: str, span: Span) -> tuple[int, int]:
    if not isinstance(span.text, str):
        start, end = span.text
        if not 0 <= start < end <= len(text):
            raise TaskError(f"characters {start} to {end} are not in {shown(text)}, which has {len(text)}.")
        return start, end
    word = span.text.strip()
    starts = [match.start() for match in re.finditer(f"(?={re.escape(word)})", text)]
    ends = [start + len(word) for start in starts]
    # A word of its own goes before a part of another word: "he" is not meant in "the".
    alone = [
        i
        for i, (start, end) in enumerate(zip(starts, ends, strict=True))
        if not (text[:start][-1:].isalnum() and word[0].isalnum())
        and not (text[end:][:1].isalnum() and word[-1].isalnum())
    ]
    chosen = [(starts[i], ends[i]) for i in (alone or range(len(starts)))]
    if not chosen:
        raise TaskError(
            f"the span {word!r} is not in {shown(text)}: give a text that stands there, in the same spelling."
        )
    if span.occurrence is None and len(chosen) > 1:
        raise TaskError(
            f"the span {word!r} stands {len(chosen)} times in {shown(text)}: "
            "say which with occurrence=0 for the first, -1 for the last."
        )
    occurrence = span.occurrence or 0
    if not -len(chosen) <= occurrence < len(chosen):
        raise TaskError(f"the span {word!r} has no occurrence {occurrence} in {shown(text)}: there are {len(chosen)}.")
    return chosen[occurrence]


def token_offsets(model: TransformerBridge, texts: Sequence[str], rows: Sequence[Sequence[int]]) -> list[Offsets]:
    """Where each token's characters are in its text: from the tokenizer, else found by decoding longer and longer rows.

    Args:
        model: Whose tokenizer read them.
        texts: The prompts.
        rows: Their tokens, with BOS where the model wants it.
    """
    tokenizer = tokenizer_of(model)
    ids: list[Any] = [None] * len(texts)
    offsets: list[Any] = ids
    if getattr(tokenizer, "is_fast", False) and texts:
        encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    return [
        _placed(list(row), known, where) or _by_decoding(tokenizer, text, list(row))
        for text, row, known, where in zip(texts, rows, ids, offsets, strict=True)
    ]


def _placed(row: list[int], ids: list[int] | None, offsets: Offsets) -> Offsets | None:
    """The offsets of a row that is the tokenizer's ids with special tokens around them; None where it is not."""
    if ids is None:
        return None
    for before in range(len(row) - len(ids), -1, -1):  # BOS stands first much more often than EOS last
        if row[before : before + len(ids)] == ids:
            behind = len(row) - before - len(ids)
            return [(0, 0)] * before + [(int(start), int(end)) for start, end in offsets] + [(0, 0)] * behind
    return None


def _by_decoding(tokenizer: Any, text: str, row: list[int]) -> Offsets:
    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    whole = decode(row)
    shift = text.find(whole.strip()) - (len(whole) - len(whole.lstrip()))
    if whole.strip() not in text:
        raise TaskError(
            f"The tokens of {shown(text)} do not turn back into it, so that no span can be found: give token positions."
        )
    # Half a character decodes into a sign that the whole text does not have: it counts with the token that ends it.
    ends = [_n_shared(decode(row[:n]), whole) for n in range(len(row) + 1)]
    return [(max(0, start + shift), end + shift) for start, end in pairwise(ends)]


def _n_shared(start: str, whole: str) -> int:
    """How many characters both begin with."""
    return next((i for i, (a, b) in enumerate(zip(start, whole, strict=False)) if a != b), min(len(start), len(whole)))


def text_without_specials(model: TransformerBridge, row: list[int]) -> str:
    """A prompt's text without special tokens."""
    if model.tokenizer is None:
        return text_of(model, row)
    return str(model.tokenizer.decode(row, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def named_positions(
    model: TransformerBridge,
    texts: Sequence[str],
    rows: Sequence[Int[Tensor, " pos"]],
    named: Sequence[Mapping[str, Any]],
    row_name: Callable[[int], str],
) -> tuple[dict[str, Int[Tensor, " example"]], dict[str, tuple[tuple[int, ...], ...]]]:
    """Roles, of one token in each prompt, and spans, of several, from what people call them.

    Args:
        model: Whose tokenizer read the prompts.
        texts: The clean prompts.
        rows: Their tokens.
        named: For each prompt {name: a text, (text, occurrence), a ``Span``, or a token index, below 0 from the end};
            the same names for all.
        row_name: What an error calls prompt i.
    """
    if not any(named):
        return {}, {}
    lists = [row.tolist() for row in rows]
    has_text = [any(not is_index(value) for value in names.values()) for names in named]
    looked_up = [i for i, wanted in enumerate(has_text) if wanted]
    known = token_offsets(model, [texts[i] for i in looked_up], [lists[i] for i in looked_up]) if looked_up else []
    offsets = dict(zip(looked_up, known, strict=True))
    found: dict[str, list[list[int]]] = {name: [] for name in named[0]}
    is_span = {name: isinstance(value, Span) and value.which == "all" for name, value in named[0].items()}
    for i, names in enumerate(named):
        if names.keys() != found.keys():
            raise TaskError(
                f"{row_name(i)} names the positions {', '.join(names) or 'none'}, but {row_name(0)} "
                f"{', '.join(found) or 'none'}: give the same names for all."
            )
        for name, value in names.items():
            try:
                found[name].append(_indices(texts[i], len(lists[i]), offsets.get(i, []), value))
            except TaskError as error:
                raise TaskError(f"{row_name(i)}, position {name!r}: {error}") from error
    roles = {name: torch.tensor([indices[0] for indices in found[name]]) for name in found if not is_span[name]}
    spans = {name: tuple(map(tuple, found[name])) for name in found if is_span[name]}
    return roles, spans


def _indices(text: str, n_pos: int, offsets: Offsets, value: Any) -> list[int]:
    if is_index(value):
        if not -n_pos <= value < n_pos:
            raise TaskError(f"there is no token {value}: the prompt has {n_pos}.")
        return [value % n_pos]
    match value:
        case Span():
            span = value
        case (str() as part, occurrence):
            span = Span(part, occurrence=occurrence)
        case str():
            span = Span(value)
        case _:
            raise TaskError(f"give a text, (text, occurrence), a Span or a token index, not {shown(value)}.")
    return find_span(text, offsets, span)
