"""The shapes that files of prompts have: how each row says its prompts, its answers and its positions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from patchlib._util import is_index, listed, shown
from patchlib.errors import TaskError
from patchlib.tasks.spans import Span

Answer = str | int | list[str | int]
"""A text (of one token or several), an id, or a list of texts or ids of which any will do."""
PAIRS = ("clean", "corrupted", "answer", "wrong_answer")
SAME = {"corrupt": "corrupted", "answers": "answer", "wrong_answers": "wrong_answer"}
"""Other people's names for columns -> ours."""
IDS = {
    "correct_idx": "incorrect_idx",
    "country_idx": "corrupted_country_idx",
    "clean_answer_idx": "corrupted_answer_idx",
    "answers_idx": "corrupted_answers_idx",
}
"""EAP-IG's columns of token ids, right -> wrong."""
VERBS = {True: [" are", " were", " have", " do"], False: [" is", " was", " has", " does"]}
"""Is it plural -> verbs of that number; EAP-IG's agreement files say only which is right."""
MOST_NAMED, LONGEST_NAME = 8, 24
"""Columns that an error names, and characters of each."""
FIRST_COUNTERFACTUALS = ("s2_io_flip_counterfactual", "symbol_counterfactual")
"""Of MIB's, those that change the answer, where a file has several."""


@dataclass(frozen=True)
class Item:
    """What one row says, before it is tokenised.

    Attributes:
        clean, corrupted: A text, or token ids.
        right, wrong: As ``Answer``.
        label: A year of two digits instead of answers: years above are right, others wrong.
        positions: Name -> a ``Span``, a token index, or several.
        has_bos: Whether positions, and prompts given as ids, count BOS.
        is_sequence: An answer that is a list of ids goes on for several tokens.
        group, cluster: Labels, if any.
    """

    clean: str | list[int]
    corrupted: str | list[int]
    right: Answer = ""
    wrong: Answer = ""
    label: int | None = None
    positions: Mapping[str, Any] = field(default_factory=dict)
    has_bos: bool = True
    is_sequence: bool = False
    group: str = ""
    cluster: str = ""


@dataclass(frozen=True)
class Format:
    """One shape: which columns it has, and how a row of it is read.

    Attributes:
        ids: The columns that hold token ids of one tokenizer, which the file does not name.
    """

    name: str
    columns: str
    read: Callable[[Mapping[str, Any], Mapping[str, Any]], Item]
    ids: tuple[str, ...] = ()


def find_format(columns: tuple[str, ...], name: str | None, file: str) -> Format:
    """The format that has these columns, or the one that is named; TaskError where there is none."""
    known = {shape.name: shape for shape in _formats(columns)}
    if name is None:
        if known:
            return next(iter(known.values()))
        if not columns:
            raise TaskError(f"{file} has no rows with columns.")
        raise TaskError(
            f"{file} has the columns {_some(columns)}, which are no format that is known: "
            f"{'; '.join(f'{known_name!r} has {needs}' for known_name, needs in FORMATS.items())}. "
            f"Name yours: columns={{'clean': {shown(columns[0])}, ...}}."
        )
    if name not in FORMATS:
        raise TaskError(f"Unknown format {shown(name)}: choose {', '.join(map(repr, FORMATS))}.")
    if name not in known:
        raise TaskError(f"{file} has the columns {_some(columns)}, but format {name!r} has {FORMATS[name]}.")
    return known[name]


def _some(columns: tuple[str, ...]) -> str:
    """The first of a file's columns, each in short."""
    names = [name if len(name) < LONGEST_NAME else f"{name[:LONGEST_NAME]}..." for name in columns[:MOST_NAMED]]
    return ", ".join(names) + ", ..." * (len(columns) > MOST_NAMED)


FORMATS = {
    "pairs": "clean, corrupted, answer, wrong_answer",
    "eap-ig": "clean, corrupted, and correct_idx, incorrect_idx (or another pair of EAP-IG's columns of ids)",
    "greater-than": "clean, corrupted, and label, a year's last two digits",
    "agreement": "clean, corrupted, plural",
    "mib": "prompt, choices, answerKey and some *_counterfactual",
}
"""Name -> its columns; auto-circuit's JSON has those of "pairs" in its own words."""


def _formats(columns: tuple[str, ...]) -> list[Format]:
    """The formats that these columns can be."""
    there = {SAME.get(name, name) for name in columns}
    found = []
    if there >= {*PAIRS}:
        found.append(Format("pairs", FORMATS["pairs"], _pairs))
    if there >= {"clean", "corrupted"}:
        for right, wrong in IDS.items():
            if there >= {right, wrong}:
                found.append(Format("eap-ig", FORMATS["eap-ig"], _id_reader(right, wrong), (right, wrong)))
        if not found and there & {"label", "correct_idx"}:
            found.append(Format("greater-than", FORMATS["greater-than"], _greater_than))
        if "plural" in there:
            found.append(Format("agreement", FORMATS["agreement"], _agreement))
    if there >= {"prompt", "choices", "answerKey"} and (
        "corrupted" in there or any(name.endswith("_counterfactual") for name in there)
    ):
        found.append(Format("mib", FORMATS["mib"], _mib))
    return found


def _cell(values: Mapping[str, Any], name: str) -> Any:
    """What stands in a column, whatever it is called; TaskError where nothing does."""
    for column in (name, *(other for other, ours in SAME.items() if ours == name)):
        if values.get(column) is not None and values[column] != "":
            return values[column]
    raise TaskError(f"has nothing in the column {name!r}")


def _prompt(values: Mapping[str, Any], name: str) -> str | list[int]:
    if values.get(f"{name}_ids"):
        return _ids(values[f"{name}_ids"], f"{name}_ids")
    value = _cell(values, name)
    if isinstance(value, str):
        return value
    return _ids(value, name)


def _ids(value: Any, name: str) -> list[int]:
    """Token ids, from a list or its JSON."""
    try:
        ids = listed(json.loads(value) if isinstance(value, str) else value)
    except ValueError:
        ids = []
    ids = [whole(token) for token in ids]
    if not ids or None in ids:
        raise TaskError(f"has no token ids in {name!r}, but {shown(value)}")
    return [token for token in ids if token is not None]


def whole(value: Any) -> int | None:
    """A whole number of a cell, which may be text, or a float where a table had gaps."""
    try:
        number = float(value) if not is_index(value) else int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number == number and abs(number) != float("inf") and number == int(number) else None


def _answer(values: Mapping[str, Any], name: str) -> Answer:
    value = _cell(values, name)
    if isinstance(value, str) and value[:1] == "[":
        try:
            value = json.loads(value)
        except ValueError:
            return str(value)  # a bracket that is an answer
    if isinstance(value, dict | bool | float) or (isinstance(value, list) and not value):
        raise TaskError(f"has no text or texts in {name!r}, but {shown(value)}")
    if isinstance(value, str) or is_index(value):
        return value
    members = listed(value)
    if wrong := [member for member in members if not (isinstance(member, str) or is_index(member))]:
        raise TaskError(f"has {shown(wrong[0])} among the texts in {name!r}")
    return [str(member) for member in members]


def _pairs(values: Mapping[str, Any], about: Mapping[str, Any]) -> Item:
    positions: dict[str, Any] = {}
    for column, value in values.items():
        if ":" in str(column) and value not in (None, ""):
            kind, _, name = str(column).partition(":")
            if kind in ("role", "span", "position", "positions"):
                name, _, which = name.partition(":")
                if name in positions:
                    raise TaskError(f"names the position {name!r} in two columns, one of them {column!r}")
                positions[name] = _position(kind, which, value, str(column))
    word_idxs = about.get("word_idxs") or {}
    if not isinstance(word_idxs, dict) or not all(is_index(index) for index in word_idxs.values()):
        raise TaskError(f"has word_idxs that are no token indices: {shown(word_idxs)}")
    right, wrong, is_sequence = _right_and_wrong(values)
    return Item(
        _prompt(values, "clean"),
        _prompt(values, "corrupted"),
        right,
        wrong,
        positions=positions or word_idxs,
        has_bos=not word_idxs,
        is_sequence=is_sequence,
        group=_label(values, "group"),
        cluster=_label(values, "cluster"),
    )


def _label(values: Mapping[str, Any], name: str) -> str:
    """A label, which may be the number 0; nothing where there is none."""
    return "" if values.get(name) is None else str(values[name])


def _right_and_wrong(values: Mapping[str, Any]) -> tuple[Answer, Answer, bool]:
    """The answers, as ids where these were written, and whether ids are steps of one answer."""
    for column, is_sequence in (("answer_ids", False), ("answer_steps", True)):
        if values.get(column):
            right, wrong = (list[str | int](_ids(values.get(name), name)) for name in (column, f"wrong_{column}"))
            return right, wrong, is_sequence
    return _answer(values, "answer"), _answer(values, "wrong_answer"), False


def _position(kind: str, which: str, value: Any, column: str) -> Any:
    if kind == "position":
        if (index := whole(value)) is None:
            raise TaskError(f"has no token index in {column!r}, but {shown(value)}")
        return index
    if kind == "positions":
        return _ids(
            value if not isinstance(value, str) else json.dumps(value.strip("[]").replace(",", " ").split()), column
        )
    if which not in ("", "first", "last", "all"):
        raise TaskError(f"has the column {column!r}, whose last word must be first, last or all")
    if isinstance(value, str) and value[:1] == "{":  # of a CSV
        try:
            value = json.loads(value)
        except ValueError as error:
            raise TaskError(f"has no JSON in {column!r}, but {shown(value)}") from error
    if isinstance(value, dict):
        value, occurrence = value.get("text"), value.get("occurrence")
    else:
        occurrence = None
    return Span(value, which or ("all" if kind == "span" else "last"), occurrence)  # type: ignore[arg-type]  # checked


def _id_reader(right: str, wrong: str) -> Callable[[Mapping[str, Any], Mapping[str, Any]], Item]:
    def read(values: Mapping[str, Any], about: Mapping[str, Any]) -> Item:
        ids = (list[str | int](_ids(listed_text(_cell(values, name)), name)) for name in (right, wrong))
        right_ids, wrong_ids = ids
        return Item(_prompt(values, "clean"), _prompt(values, "corrupted"), right_ids, wrong_ids)

    return read


def listed_text(value: Any) -> Any:
    """A cell of ids as JSON of a list, where it is one number."""
    return value if isinstance(value, list) or str(value).lstrip().startswith("[") else f"[{value}]"


def _greater_than(values: Mapping[str, Any], about: Mapping[str, Any]) -> Item:
    name = "label" if "label" in values else "correct_idx"
    label = whole(_cell(values, name))
    if label is None or not 0 <= label <= 99:
        raise TaskError(f"has {shown(values[name])} in {name!r}, which is no year's last two digits")
    return Item(_prompt(values, "clean"), _prompt(values, "corrupted"), label=label)


def _agreement(values: Mapping[str, Any], about: Mapping[str, Any]) -> Item:
    word = str(_cell(values, "plural")).strip().lower()
    if word not in ("0", "1", "true", "false"):
        raise TaskError(f"has {shown(values['plural'])} in 'plural', which is neither 0 nor 1")
    plural = word in ("1", "true")
    right, wrong = (list[str | int](VERBS[number]) for number in (plural, not plural))
    return Item(_prompt(values, "clean"), _prompt(values, "corrupted"), right, wrong)


def _mib(values: Mapping[str, Any], about: Mapping[str, Any]) -> Item:
    names = [name for name in values if name.endswith("_counterfactual") and isinstance(values[name], dict)]
    chosen = values.get("corrupted")
    if chosen is None:
        if not names:
            raise TaskError("has no counterfactual")
        name = next((name for name in FIRST_COUNTERFACTUALS if name in names), names[0])
        chosen = values[name]
    if not isinstance(chosen, dict):
        raise TaskError(f"has a counterfactual that is no object with a prompt: {shown(chosen)}")
    right, wrong = _choice(values), _choice(chosen)
    if right == wrong:
        raise TaskError(
            f"has a counterfactual with the same answer, {right!r}: name another, columns={{'corrupted': "
            f"{next((name for name in names if values[name] is not chosen), '...')!r}}}"
        )
    return Item(str(_cell(values, "prompt")), str(_cell(chosen, "prompt")), right, wrong)


def _choice(values: Mapping[str, Any]) -> str:
    """The text of the right choice, with the space that its prompt lacks."""
    choices, key, prompt = _cell(values, "choices"), _cell(values, "answerKey"), str(_cell(values, "prompt"))
    labels = listed(choices.get("label", []) if isinstance(choices, dict) else choices)
    index = whole(key)
    if index is None and str(key) in labels:
        index = labels.index(str(key))
    if index is None or not 0 <= index < len(labels):
        raise TaskError(f"has the answerKey {shown(key)}, which is none of its {len(labels)} choices")
    text = str(labels[index])
    return text if text[:1].isspace() or prompt[-1:].isspace() else f" {text}"
