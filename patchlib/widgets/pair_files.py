"""A file of prompts in the playground: its rows, what each lacks, and one more row for the pair that was typed."""

import csv
import html
import json
import os
import re
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import first_line, is_index, shown
from patchlib.errors import TaskError
from patchlib.tasks.files.fit import Fitted, Misfit
from patchlib.tasks.files.formats import SAME, Answer
from patchlib.tasks.files.read import SETTINGS, Reading
from patchlib.tasks.files.rows import DELIMITERS, open_rows
from patchlib.tasks.files.write import to_csv, to_jsonl
from patchlib.tasks.pairs import PromptPairs
from patchlib.tasks.spans import text_without_specials
from patchlib.tasks.tokens import text_of
from patchlib.widgets.pair_text import answer_text, scrolling

MOST_ROWS = 200
"""Of a file that are shown; of more, so many are drawn."""
WRITERS = {".csv": to_csv, ".jsonl": to_jsonl}


@dataclass(frozen=True)
class FileRows:
    """A file's rows, as they fit a model.

    Attributes:
        reading: The file.
        rows: Each row, or those that were drawn, in the file's order.
        texts: For each what stands in the fields ``clean``, ``corrupted``, ``right`` and ``wrong``; empty where it
            cannot be read.
    """

    reading: Reading
    rows: list[Fitted | Misfit]
    texts: list[dict[str, str]]

    @property
    def fitted(self) -> list[Fitted]:
        """The rows that can be patched."""
        return [row for row in self.rows if isinstance(row, Fitted)]

    def pairs(self) -> PromptPairs:
        """The rows that fit, as a task."""
        if not self.fitted:
            raise TaskError(f"{self.reading.name} has no row that fits.")
        return self.reading.pairs(self.fitted, {})

    def __str__(self) -> str:
        drawn = f", drawn from {self.reading.n_rows:,}" if self.reading.n_rows > len(self.rows) else ""
        return (
            f"{self.reading.name} ({self.reading.shape.name}): {len(self.fitted)} of {len(self.rows)} rows fit{drawn}."
        )

    def table(self) -> str:
        """The rows as HTML, each with what does not fit."""
        label = f"rows of {self.reading.name}"
        head = "".join(
            f"<th scope='col' style='text-align:left;padding:2px 6px'>{name}</th>"
            for name in ("row", "fits", "clean", "corrupted", "right", "wrong")
        )
        lines = [f"<tr>{head}</tr>"]
        for row, texts in zip(self.rows, self.texts, strict=True):
            fits = "yes" if isinstance(row, Fitted) else f"<b>no, {row.reason}</b>: {html.escape(row.detail)}"
            cells = [str(row.row.number), fits, *(html.escape(texts.get(name, "")) for name in FIELDS)]
            lines.append("".join(["<tr>", *(f"<td style='{CELL}'>{cell}</td>" for cell in cells), "</tr>"]))
        return scrolling(f"<table aria-label='{html.escape(label)}'>{''.join(lines)}</table>", label)


FIELDS = ("clean", "corrupted", "right", "wrong")
CELL = "padding:2px 6px;border:1px solid #767676;text-align:left;vertical-align:top;max-width:26em"


def load_rows(model: TransformerBridge, path: str) -> FileRows:
    """A file's rows; TaskError for one that cannot be read."""
    if not path.strip():
        raise TaskError("No file is named: type its path.")
    reading = Reading(path.strip(), model, limit=MOST_ROWS)
    rows = list(reading.rows())
    return FileRows(reading, rows, [_texts(model, reading, row) for row in rows])


def _texts(model: TransformerBridge, reading: Reading, row: Fitted | Misfit) -> dict[str, str]:
    if isinstance(row, Fitted):
        prompts = [text_without_specials(model, ids) for ids in (row.clean, row.corrupted)]
        answers = [[text_of(model, ids)] if row.has_steps else [text_of(model, [token]) for token in ids]
                   for ids in row.answers]  # fmt: skip
        return dict(zip(FIELDS, [*prompts, *map(answer_text, answers)], strict=True))
    try:
        item = reading.shape.read(row.row.values, reading.source.about)
    except TaskError:  # what the row's detail says
        return {}
    prompts = [prompt if isinstance(prompt, str) else shown(prompt) for prompt in (item.clean, item.corrupted)]
    return dict(zip(FIELDS, [*prompts, *(_side(model, side) for side in (item.right, item.wrong))], strict=True))


def _side(model: TransformerBridge, side: Answer) -> str:
    """Answers of a row that does not fit, whose ids may be no tokens at all."""
    members = side if isinstance(side, list) else [side]
    texts = [
        (text_of(model, [member]) if 0 <= member < int(model.cfg.d_vocab) else str(member))
        if is_index(member)
        else str(member)
        for member in members
    ]
    return answer_text([text for text in texts if text])


def put_beside(name: str, content: bytes) -> Path:
    """A file that came through the browser, put where the notebook runs, and never over another one.

    Args:
        name: Its name there.
        content: Its bytes.

    Returns:
        Its path.

    Raises:
        TaskError: Another file of that name is there, or it cannot be written.
    """
    file = Path(re.split(r"[/\\]", name)[-1])
    try:
        is_another = file.exists() and file.read_bytes() != content
        if not is_another:
            file.write_bytes(content)
    except (OSError, ValueError) as error:
        raise TaskError(f"{file} cannot be written ({first_line(error)}).") from error
    if is_another:
        raise TaskError(f"{file} is there already, with other content: rename the file that you upload.")
    return file


def append_pair(model: TransformerBridge, pair: PromptPairs, path: str) -> tuple[Path, int]:
    """Put a pair behind a file's rows, where it comes back token by token, and nothing else of the file is touched.

    Args:
        model: Whose tokenizer it is for.
        pair: One.
        path: A CSV or JSONL file, made if it is missing.

    Returns:
        The file, and the row's number.

    Raises:
        TaskError: A file of another kind, without room for what the pair has, or in which it does not fit.
    """
    file = Path(path.strip()).expanduser()
    suffix = file.suffix.lower()
    if suffix not in WRITERS:
        raise TaskError(f"A pair cannot be saved to {shown(str(path))}: give a path that ends in .csv or .jsonl.")
    with TemporaryDirectory() as folder:
        one = WRITERS[suffix](replace(pair, name=file.stem or "your prompts"), model, Path(folder, f"one{suffix}"))
        copy, content = Path(folder, file.name), one.read_bytes()
        try:
            if file.exists() and file.stat().st_size:
                content = _joined(file, one)
            copy.write_bytes(content)
            reading = Reading(copy, model)
            rows = list(reading.rows())
            _check_last(rows[-1], pair, file.name)
            reading.pairs([row for row in rows if isinstance(row, Fitted)], {})  # or its rows have two kinds of answers
            part = file.with_name(f"{file.name}.part")  # the file is whole at any moment
            part.write_bytes(content)
            os.replace(part, file)
        except (OSError, ValueError) as error:
            raise (
                error if isinstance(error, TaskError) else TaskError(f"{file} cannot be written ({first_line(error)}).")
            ) from error
    return file.resolve(), rows[-1].row.number


def _check_last(last: Fitted | Misfit, pair: PromptPairs, name: str) -> None:
    if isinstance(last, Misfit):
        raise TaskError(f"{name} cannot take the pair, which {last.detail.rstrip('.')}: mend it, or name another file.")
    prompts = [pair.clean_tokens[0].tolist(), pair.corrupted_tokens[0].tolist()]
    if [last.clean, last.corrupted] != prompts:
        raise TaskError(f"{name} would not give back the pair's tokens: name another file.")


def _joined(file: Path, one: Path) -> bytes:
    """A file's content with one more row, in the file's own columns."""
    content = file.read_bytes()
    content += b"" if content.endswith(b"\n") else b"\n"
    if file.suffix.lower() == ".jsonl":
        (row,) = (json.loads(line) for line in one.read_text(encoding="utf-8").splitlines())
        row = {name: value for name, value in row.items() if name not in SETTINGS}
        return content + json.dumps(row).encode() + b"\n"
    columns = open_rows(file).columns
    with one.open(encoding="utf-8", newline="") as stream:
        (row,) = csv.DictReader(stream)
    values: dict[str, Any] = {name: value for name, value in row.items() if value and name not in SETTINGS}
    ours = [SAME.get(column, column) for column in columns]
    if missing := [name for name in values if name not in ours]:
        raise TaskError(f"{file.name} has no column {missing[0]!r}, which the pair needs: name another file.")
    first = content.partition(b"\n")[0].decode(errors="replace")
    line = StringIO()
    csv.writer(line, delimiter=max(DELIMITERS, key=first.count), lineterminator="\r\n").writerow(
        [values.get(name, "") for name in ours]
    )
    return content + line.getvalue().encode()
