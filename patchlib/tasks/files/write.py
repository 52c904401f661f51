"""A task as a file, which ``read_pairs`` gives back token by token."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import first_line, shown
from patchlib.errors import TaskError
from patchlib.tasks.pairs import PromptPairs
from patchlib.tasks.spans import text_without_specials
from patchlib.tasks.tokens import following, text_of, tokenize_all, tokenizer_name

if TYPE_CHECKING:
    from patchlib.tasks.base import PatchingDataset


def to_jsonl(task: PatchingDataset | PromptPairs, model: TransformerBridge, path: str | Path) -> Path:
    """Write a task as one JSON object a line, in the columns that ``read_pairs`` reads.

    Args:
        task: Any. A ``compute_metric`` of its own is code, and is not written: give it again to what is read,
            ``dataclasses.replace(pairs, compute_metric=...)``.
        model: Whose tokenizer turns tokens into text. Where that text does not turn back into them, the ids are written
            beside it, with the tokenizer's name.
        path: The file, which is written anew.

    Returns:
        The path.

    Raises:
        TaskError: A file that cannot be written.

    Example:
        >>> file = patchlib.to_jsonl(task, model, tmp_path / "ioi.jsonl")
        >>> again = patchlib.read_pairs(file, model)
        >>> [row.tolist() for row in again.clean_tokens] == [row.tolist() for row in task.to_pairs(model).clean_tokens]
        True
        >>> again.name, list(again.roles)
        ('IOI (Indirect Object Identification)', ['IO', 'S1', 'S1+1', 'S2', 'END'])
    """
    lines = (
        json.dumps({name: value for name, value in row.items() if value is not None}) for row in _rows(task, model)
    )
    return _write(path, (f"{line}\n" for line in lines))


def to_csv(task: PatchingDataset | PromptPairs, model: TransformerBridge, path: str | Path) -> Path:
    """Write a task as CSV, in the columns that ``read_pairs`` reads; lists are JSON in their cells.

    Args:
        task, model, path: As for ``to_jsonl``.

    Returns:
        The path.

    Raises:
        TaskError: As ``to_jsonl``.

    Example:
        >>> file = patchlib.to_csv(task, model, tmp_path / "ioi.csv")
        >>> print(file.read_text().splitlines()[0][:60])
        task,seed,metadata,clean,corrupted,answer,wrong_answer,posit
        >>> patchlib.read_pairs(file, model).answers.tolist() == task.to_pairs(model).answers.tolist()
        True
    """
    rows = list(_rows(task, model))
    names = list(dict.fromkeys(name for row in rows for name in row))

    class Lines:
        """What the csv module writes to, one line at a time."""

        def __init__(self) -> None:
            self.lines: list[str] = []

        def write(self, line: str) -> None:
            self.lines.append(line.removesuffix("\r\n") + "\n")

    lines = Lines()
    writer = csv.writer(lines, lineterminator="\r\n")  # or a cell with a carriage return were not quoted
    writer.writerow(names)
    writer.writerows([[_cell(row.get(name)) for name in names] for row in rows])
    return _write(path, lines.lines)


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _write(path: str | Path, lines: Any) -> Path:
    try:
        path = Path(path).expanduser()
        with path.open("w", encoding="utf-8", newline="") as stream:
            stream.writelines(lines)
    except (OSError, TypeError, ValueError) as error:
        raise TaskError(f"{shown(str(path))} cannot be written ({first_line(error)}).") from error
    return path


def _rows(task: PatchingDataset | PromptPairs, model: TransformerBridge) -> Iterator[dict[str, Any]]:
    from patchlib.tasks.base import as_pairs  # base is where a task's methods are, which call this

    pairs = as_pairs(model, task)
    whose = None if model.tokenizer is None else tokenizer_name(model)
    for i in range(len(pairs)):
        row: dict[str, Any] = {"task": None, "seed": None, "metadata": None}
        if i == 0:
            row |= {"task": pairs.name, "seed": pairs.seed, "metadata": pairs.metadata or None}
            row |= {"keep_pads": True} if pairs.keep_pads else {}
            row |= {"duplicates": True} if _has_duplicates(pairs) else {}
        ids: dict[str, list[int]] = {}
        for name, tokens in (("clean", pairs.clean_tokens[i]), ("corrupted", pairs.corrupted_tokens[i])):
            row[name], comes_back = _text(model, tokens.tolist())
            if not comes_back:
                ids[f"{name}_ids"] = tokens.tolist()
        texts, answers = _answers(model, pairs, i, row["clean"])
        row |= texts
        row |= {f"position:{role}": int(index[i]) for role, index in pairs.roles.items() if role != "END"}
        row |= {f"positions:{name}": list(indices[i]) for name, indices in pairs.spans.items()}
        row |= {"group": pairs.groups[i]} if pairs.groups else {}
        row |= {"cluster": pairs.clusters[i]} if pairs.clusters else {}
        if ids or answers:
            row |= {**ids, **answers, "tokenizer": whose}
        yield row


def _has_duplicates(pairs: PromptPairs) -> bool:
    """Whether a prompt comes again, which in a task was meant, and in a file that people wrote is a mistake."""
    rows = zip(pairs.clean_tokens, pairs.corrupted_tokens, _members(pairs), strict=True)
    seen = {(tuple(clean.tolist()), tuple(corrupted.tolist()), str(answers)) for clean, corrupted, answers in rows}
    return len(seen) < len(pairs)


def _members(pairs: PromptPairs) -> Sequence[Any]:
    """The right and the wrong ids of each prompt."""
    return pairs.continuations or pairs.answer_sets or [[[token] for token in two] for two in pairs.answers.tolist()]


def _text(model: TransformerBridge, row: list[int]) -> tuple[str, bool]:
    """A prompt's text, and whether it turns back into these tokens."""
    if model.tokenizer is None:
        return text_of(model, row), False
    text = text_without_specials(model, row)
    is_text = bool(text.strip()) and "\0" not in text  # a zero byte is no text that a file should hold
    return text, is_text and tokenize_all(model, [text])[0] == row


def _answers(
    model: TransformerBridge, pairs: PromptPairs, i: int, clean: str
) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """The answers as texts, and as ids where these would not come back from them."""
    many = _members(pairs)
    column = "answer_steps" if pairs.continuations else "answer_ids"
    texts: dict[str, Any] = {}
    ids: dict[str, list[int]] = {}
    comes_back = True
    for prefix, members in zip(("", "wrong_"), many[i], strict=True):
        members = list(members)
        parts = [text_of(model, members)] if pairs.continuations else [text_of(model, [token]) for token in members]
        texts[f"{prefix}answer"] = parts if len(parts) > 1 else parts[0]
        ids[f"{prefix}{column}"] = members
        rows = [members] if pairs.continuations else [[token] for token in members]
        comes_back &= model.tokenizer is not None and all(
            part and part[:1] != "[" and following(model, clean, part) == row
            for part, row in zip(parts, rows, strict=True)
        )
    return texts, {} if comes_back else ids
