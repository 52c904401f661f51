"""Rows of a file, one after the other, with their numbers: CSV, TSV, JSON, JSONL and Parquet."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from patchlib._util import first_line, listed, shown
from patchlib.errors import TaskError

KINDS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")
DELIMITERS = (",", "\t", ";")
MOST_CHARACTERS = 10**7
"""In one cell or line: more comes of a quote that nobody closed."""
PROMPTS = "prompts"
"""The key under which auto-circuit's JSON has its rows; what stands beside it is said of all of them."""


@dataclass(frozen=True)
class Row:
    """One row: its number from 1, without the header, and its line in the file where it has one.

    Attributes:
        fault: Why it cannot be read, if it cannot.
    """

    number: int
    line: int | None
    values: dict[str, Any]
    fault: str = ""

    def __str__(self) -> str:
        return f"row {self.number}" + ("" if self.line is None else f" (line {self.line})")


@dataclass(frozen=True)
class Source:
    """A file that was opened: its columns, what it says of all rows, and the rows, read as they are asked for."""

    path: Path
    columns: tuple[str, ...]
    about: dict[str, Any]
    rows: Iterator[Row]


def open_rows(path: str | Path) -> Source:
    """The rows of a file; TaskError for a file that there is not, or that is none of the kinds that are read."""
    try:
        path = Path(path).expanduser()
        is_file = path.is_file()
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        raise TaskError(f"The path of a file of prompts cannot be {shown(path)} ({first_line(error)}).") from error
    if not is_file:
        kind = "is a folder, not a file" if path.is_dir() else "is not there"
        raise TaskError(f"{path} {kind}: give the path of a file of prompts ({', '.join(KINDS)}).")
    suffix = path.suffix.lower()
    if suffix not in KINDS:
        raise TaskError(f"{path.name} is no kind of file that is read here: name it {', '.join(KINDS)}.")
    try:
        if path.stat().st_size == 0:
            raise TaskError(f"{path.name} is empty.")
        match suffix:
            case ".csv" | ".tsv":
                return _csv(path)
            case ".parquet":
                return _parquet(path)
            case ".json":
                return _json(path)
            case _:
                return _from_rows(path, {}, _json_lines(path))
    except OSError as error:
        raise TaskError(f"{path.name} cannot be read ({error.strerror or type(error).__name__}).") from error


def sampled(rows: Iterable[Row], limit: int | None, seed: int) -> tuple[list[Row] | Iterable[Row], list[int]]:
    """All rows, or ``limit`` of them drawn without holding more (Vitter 1985, algorithm R), in the file's order.

    Returns:
        The rows, and a list that has how many there are once they were read.
    """
    count = [0]

    def counted() -> Iterator[Row]:
        for row in rows:
            count[0] += 1
            yield row

    if limit is None:
        return counted(), count
    rng = random.Random(seed)
    drawn: list[Row] = []
    for row in counted():
        if len(drawn) < limit:
            drawn.append(row)
        elif (place := rng.randrange(count[0])) < limit:
            drawn[place] = row
    return sorted(drawn, key=lambda row: row.number), count


def _lines(path: Path) -> Iterator[str]:
    """A text file's lines; TaskError for one that is not UTF-8."""
    with path.open("rb") as stream:
        start = stream.read(4)
        if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise TaskError(f"{path.name} is UTF-16: save it as UTF-8.")
        stream.seek(3 if start[:3] == b"\xef\xbb\xbf" else 0)  # the mark that some programs put first
        for number, line in enumerate(stream, start=1):
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                raise TaskError(
                    f"{path.name} is not UTF-8 (byte 0x{byte:02x} in line {number}): save it as UTF-8."
                ) from error


def _csv(path: Path) -> Source:
    csv.field_size_limit(MOST_CHARACTERS)
    first = next(_lines(path), "")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(DELIMITERS, key=first.count)
    if "\r" in first.rstrip("\r\n"):
        raise TaskError(f"{path.name} ends its lines with CR alone: save it with the line ends of Unix or Windows.")
    reader = csv.reader(_lines(path), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader)]
    except (csv.Error, StopIteration) as error:
        raise TaskError(f"{path.name} has no header that can be read ({first_line(error)}).") from error
    if twice := [name for i, name in enumerate(header) if name in header[:i]]:
        raise TaskError(f"{path.name} has the column {twice[0]!r} twice: name each column once.")

    def rows() -> Iterator[Row]:
        number = 0
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise TaskError(
                    f"{path.name}, row {number + 1} (line {reader.line_num}) cannot be read ({first_line(error)}): "
                    'put cells with quotes or commas in "...", and write a quote inside as "".'
                ) from error
            if not cells:  # a blank line
                continue
            number += 1
            fault = ""
            if len(cells) != len(header):
                fault = f"has {len(cells)} cells, but the header {len(header)} (put cells with {delimiter!r} in quotes)"
            elif not any(cell.strip() for cell in cells):
                fault = "is empty"
            yield Row(number, reader.line_num, dict(zip(header, cells, strict=False)), fault)

    return Source(path, tuple(header), {}, rows())


def _json_lines(path: Path) -> Iterator[Row]:
    number = 0
    for line_number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        number += 1
        try:
            value, fault = json.loads(line), ""
        except (ValueError, RecursionError) as error:
            value, fault = {}, f"is no JSON ({first_line(error)})"
        yield _row(number, line_number, value, fault)


def _row(number: int, line: int | None, value: Any, fault: str = "") -> Row:
    if not fault and not isinstance(value, dict):
        fault = f"is no object with columns, but {shown(value)}"
    if not fault and not value:
        fault = "is empty"
    return Row(number, line, value if isinstance(value, dict) else {}, fault)


def _json(path: Path) -> Source:
    try:
        content = json.loads("".join(_lines(path)))
    except (ValueError, RecursionError) as error:
        if isinstance(error, TaskError):
            raise
        hint = ""
        if "Extra data" in str(error):
            hint = ": one object a line is JSONL, name the file .jsonl"
        raise TaskError(f"{path.name} is no JSON ({first_line(error)}){hint}.") from error
    about: dict[str, Any] = {}
    if isinstance(content, dict) and isinstance(content.get(PROMPTS), list):
        about = {name: value for name, value in content.items() if name != PROMPTS}
        content = content[PROMPTS]
    elif isinstance(content, dict) and content and all(isinstance(column, list) for column in content.values()):
        lengths = {name: len(column) for name, column in content.items()}
        if len(set(lengths.values())) > 1:
            raise TaskError(f"{path.name} has columns of different lengths: {lengths}.")
        content = [dict(zip(content, values, strict=True)) for values in zip(*content.values(), strict=True)]
    if not isinstance(content, list):
        raise TaskError(f"{path.name} has no rows: give a list of objects, or an object of columns.")
    return _from_rows(path, about, (_row(i, None, value) for i, value in enumerate(content, start=1)))


def _parquet(path: Path) -> Source:
    try:
        table = pd.read_parquet(path)
    except Exception as error:  # the readers that pandas takes have errors of many kinds
        raise TaskError(f"{path.name} cannot be read as Parquet ({first_line(error)}).") from error
    values = (_plain(value) for value in table.to_dict("records"))
    return _from_rows(path, {}, (_row(i, None, value) for i, value in enumerate(values, start=1)))


def _plain(value: Any) -> Any:
    """What pandas has of a cell in Python's own kinds."""
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list) or hasattr(value, "tolist"):
        many = listed(value)
        return [_plain(part) for part in many] if getattr(value, "ndim", 1) else many[0]
    return None if isinstance(value, float) and value != value else value


def _from_rows(path: Path, about: dict[str, Any], rows: Iterator[Row]) -> Source:
    """A source whose columns are those of its first row that can be read."""
    before: list[Row] = []
    for row in rows:
        before.append(row)
        if not row.fault:
            break

    def again() -> Iterator[Row]:
        yield from before
        yield from rows

    if before and before[-1].fault:
        raise TaskError(f"{path.name} has no row with columns; the first, {before[0]}, {before[0].fault}.")
    return Source(path, tuple(map(str, before[-1].values)) if before else (), about, again())
