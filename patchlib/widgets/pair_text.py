"""What somebody types as a pair of prompts, as tokens, and tokens as what somebody would type."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import shown
from patchlib.errors import TaskError
from patchlib.tasks.pairs import PromptPairs
from patchlib.tasks.tokens import check_pair, text_of, tokenize, tokenizer_of

Rows: TypeAlias = tuple[Int[Tensor, " pos"], Int[Tensor, " pos"]]
Named: TypeAlias = Mapping[str, Sequence[tuple[int, int]]]
"""Name -> index and id of each of its tokens in the clean prompt: where the id is another, the name has lost them."""
WORDS = re.compile(r'\s*"([^"]+)"\s*|([^,]+)')
"""Answers between commas; in quotes as they stand, such as "43", and else after a space."""


def answer_ids(model: TransformerBridge, which: str, answer: str) -> list[int]:
    """The tokens of which any is this answer; TaskError where there is none, or a word is more than one.

    Args:
        model: Whose tokenizer reads them.
        which: What an error calls the answer.
        answer: A word, or several between commas; each gets the space that it has after a prompt, but none in quotes.
    """
    found = [quoted or f" {word.strip()}" for quoted, word in WORDS.findall(answer) if quoted or word.strip()]
    if not found:
        raise TaskError(f"The {which} answer is empty: give one word, or several with commas between them.")
    rows = tokenizer_of(model)(found, add_special_tokens=False)["input_ids"]
    for word, ids in zip(found, rows, strict=True):
        if len(ids) != 1:
            parts = " + ".join(repr(text_of(model, [token])) for token in ids)
            raise TaskError(f"The {which} answer {word.strip()!r} is {len(ids)} tokens ({parts}): give a word of one.")
    return list(dict.fromkeys(int(ids[0]) for ids in rows))


def answer_text(texts: Sequence[str]) -> str:
    """Answers as ``answer_ids`` reads them."""
    return ", ".join(text[1:] if re.fullmatch(r' [^\s",]+', text) else f'"{text}"' for text in texts)


def rows_of(model: TransformerBridge, clean: str, corrupted: str) -> Rows:
    """Two texts as tokens; TaskError or AlignmentError where a patch between them has no meaning."""
    if not clean.strip() or not corrupted.strip():
        raise TaskError("A prompt is empty: type two that differ in one thing.")
    rows = tokenize(model, clean), tokenize(model, corrupted)
    check_pair(0, *rows, lambda token: repr(model.to_string([token])))
    return rows


def typed_pair(model: TransformerBridge, rows: Rows, answers: Sequence[Sequence[int]], named: Named) -> PromptPairs:
    """One pair as a task: a name of one token is a role, of several a span; a name that lost its tokens is left out."""
    right, wrong = answers
    if both := {*right} & {*wrong}:
        text = text_of(model, [min(both)])
        raise TaskError(f"The answer {text!r} is among the right and the wrong ones: leave it out of one of them.")
    indices = {name: tuple(index for index, _ in named[name]) for name in standing(named, rows[0].tolist())}
    return PromptPairs(
        (rows[0],),
        (rows[1],),
        [({*right}, {*wrong})],  # type: ignore[arg-type]  # sets of ids, which become tensors
        roles={name: torch.tensor(where) for name, where in indices.items() if len(where) == 1},
        spans={name: (where,) for name, where in indices.items() if len(where) > 1},
        name="your prompts",
    )


def standing(named: Named, row: Sequence[int]) -> list[str]:
    """The names whose tokens are still where they were in the clean prompt."""
    return [
        name
        for name, tokens in named.items()
        if all(index < len(row) and row[index] == token for index, token in tokens)
    ]


def check_name(name: str, chosen: Sequence[int]) -> str:
    """A name for these tokens; TaskError for one that results and files cannot have."""
    name = name.strip()
    if not chosen:
        raise TaskError("No token is selected: select one or several in the list, with Shift or Ctrl.")
    if not name or ":" in name:
        raise TaskError(f"A name of tokens cannot be {shown(name)}: give a word, such as verb.")
    if name.upper() == "END":
        raise TaskError("END is the last token, always: give these another name.")
    return name


def token_rows(model: TransformerBridge, clean: str, corrupted: str) -> tuple[list[int], list[int]]:
    """Both prompts' tokens, none for a prompt that is empty, whether they fit each other or not."""
    clean_row, corrupted_row = (tokenize(model, text).tolist() if text.strip() else [] for text in (clean, corrupted))
    return clean_row, corrupted_row


def side_by_side(model: TransformerBridge, rows: tuple[list[int], list[int]], named: Named) -> str:
    """Both prompts' tokens one above the other, those that differ marked, and below them what they are called."""
    n_pos, shortest = max(map(len, rows)), min(map(len, rows))
    lines = []
    for name, row, other in (("clean", *rows), ("corrupted", *rows[::-1])):
        cells = []
        for i in range(n_pos):
            token = html.escape(model.to_string([row[i]])) if i < len(row) else "&empty;"
            differs = i >= shortest or row[i] != other[i]
            # White on this red is 6.5:1 on any theme.
            cells.append((token, ";font-weight:bold;background:#B2182B;color:#fff" if differs else ""))
        lines.append(_line(name, cells))
    if names := standing(named, rows[0]):
        labels = [", ".join(name for name in names if i in dict(named[name])) for i in range(n_pos)]
        lines.append(_line("called", [(html.escape(label), "") for label in labels]))
    label = "tokens of both prompts; those that differ are bold"
    return scrolling(f"<table aria-label='{label}'>{''.join(lines)}</table>", label)


def _line(name: str, cells: Sequence[tuple[str, str]]) -> str:
    head = f"<th scope='row' style='text-align:left;padding-right:8px'>{name}</th>"
    body = "".join(f"<td style='padding:2px 5px;border:1px solid #767676{style}'>{cell}</td>" for cell, style in cells)
    return f"<tr>{head}{body}</tr>"


def scrolling(table: str, label: str) -> str:
    """A table that is moved inside its own box, with the keyboard too."""
    style = "overflow:auto;max-height:260px;line-height:1.6"
    return f"<div tabindex='0' role='region' aria-label='{html.escape(label)}' style='{style}'>{table}</div>"
