"""Rows of a file as tokens of a model, and of each row that does not fit, why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import is_index, shown
from patchlib.errors import TaskError
from patchlib.models.context import longest_prompt
from patchlib.tasks.files.formats import Answer, Format, Item
from patchlib.tasks.files.rows import Row
from patchlib.tasks.spans import Offsets, Span, find_span, token_offsets
from patchlib.tasks.tokens import following, text_of, tokenize_all, tokenizer_name, tokenizer_of
from patchlib.tasks.years import year_answers

BATCH = 1000
"""Rows that are tokenised together."""
MOST_LOOKED_AT = 100
"""Rows whose ids are looked at for whether they can be this tokenizer's."""
OCCURRENCE = '{"text": ..., "occurrence": 0}'
"""How a file says which, where a text stands in a prompt more than once."""
REASONS = ("unreadable", "length", "same prompts", "too long", "answers", "positions", "duplicate")
"""Why a row does not fit, in one or two words."""


@dataclass(frozen=True)
class Fitted:
    """A row as tokens."""

    row: Row
    clean: list[int]
    corrupted: list[int]
    answers: tuple[list[int], list[int]]
    has_steps: bool
    positions: dict[str, list[int]]
    spans: frozenset[str]
    group: str
    cluster: str


@dataclass(frozen=True)
class Misfit:
    """A row that cannot be patched, and why."""

    row: Row
    reason: str
    detail: str


class _DoesNotFit(Exception):
    """Why a row does not, as (reason, detail)."""


@dataclass
class Fitter:
    """Turns rows of one file into tokens of one model.

    Attributes:
        model: Whose tokenizer reads them.
        shape: The file's format.
        about: What the file says of all rows.
        columns: Our name of a column -> the file's.
        tokenizer: Whose ids the file has, as the user says.
        keep_duplicates: Whether the file says that it has them on purpose.
    """

    model: TransformerBridge
    shape: Format
    about: Mapping[str, Any]
    columns: Mapping[str, str]
    tokenizer: str | None = None
    keep_duplicates: bool = False
    _seen: dict[int, int] = field(default_factory=dict)
    _answer_ids: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    _names: list[frozenset[str]] = field(default_factory=list)
    _years: dict[int, tuple[list[int], list[int]]] = field(default_factory=dict)
    _own_name: str = ""
    _n_looked_at: int = 0

    def fit(self, rows: Iterable[Row]) -> Iterator[Fitted | Misfit]:
        """Each row, in order."""
        left = iter(rows)
        while batch := list(islice(left, BATCH)):
            items = [self._item(row) for row in batch]
            texts = {text for item in items if isinstance(item, Item) for text in (item.clean, item.corrupted)
                     if isinstance(text, str)}  # fmt: skip
            rows_of = self._tokenized(sorted(texts))
            offsets = self._offsets(items, rows_of)
            for row, item in zip(batch, items, strict=True):
                try:
                    if isinstance(item, Misfit):
                        yield item
                        continue
                    yield self._fitted(row, item, rows_of, offsets)
                except _DoesNotFit as why:
                    yield Misfit(row, *why.args)

    def _item(self, row: Row) -> Item | Misfit:
        if row.fault:
            return Misfit(row, "unreadable", row.fault)
        values = row.values | {ours: row.values.get(name) for ours, name in self.columns.items()}
        try:
            item = self.shape.read(values, self.about)
        except TaskError as error:
            return Misfit(row, "unreadable", str(error))
        self._check_ids(row, item, values.get("tokenizer"))
        return item

    def _check_ids(self, row: Row, item: Item, named: Any) -> None:
        """TaskError where a row has token ids that may be another tokenizer's."""
        answers = [token for side in (item.right, item.wrong) for token in (side if isinstance(side, list) else [side])]
        ids = [token for token in answers if is_index(token)]
        prompts = [text for text in (item.clean, item.corrupted) if isinstance(text, str)]
        if (not ids and len(prompts) == 2) or self.model.tokenizer is None:
            return
        self._own_name = self._own_name or tokenizer_name(self.model)
        whose = str(named or self.tokenizer or "")
        if whose:
            own = {self._own_name, self._own_name.rpartition(":")[0], str(self.model.cfg.model_name)}
            if whose.lower() not in {name.lower() for name in own}:
                raise TaskError(
                    f"{row} has token ids of the tokenizer {whose}, but this model's is {self._own_name}: load "
                    "the model that they belong to, or give texts."
                )
            return
        if self._n_looked_at >= MOST_LOOKED_AT:
            return
        self._n_looked_at += 1
        wrong = next((token for token in ids if self._text(token) not in " ".join(prompts)), None)
        if wrong is None and len(prompts) == 2:
            return
        mean = "" if wrong is None else f" (here {wrong} is {self._text(wrong)!r}, which stands in neither prompt)"
        raise TaskError(
            f"{row} has token ids{mean}, which belong to one tokenizer, and nothing says to which: if they are "
            f"this model's, say so with tokenizer={self._own_name!r}; else load the model that they belong to, or give "
            "texts."
        )

    def _text(self, token: int) -> str:
        known = 0 <= token < int(self.model.cfg.d_vocab)
        return text_of(self.model, [token]).strip() if known else "no token of it"

    def _tokenized(self, texts: list[str]) -> dict[str, list[int] | str]:
        """Text -> its tokens, or why it has none."""
        try:
            return dict(zip(texts, tokenize_all(self.model, texts), strict=True)) if texts else {}
        except TaskError:
            return {text: self._tokenized_alone(text) for text in texts}

    def _tokenized_alone(self, text: str) -> list[int] | str:
        try:
            return tokenize_all(self.model, [text])[0]
        except TaskError as error:
            return f"cannot be read: {error}"

    def _offsets(self, items: list[Item | Misfit], rows_of: Mapping[str, list[int] | str]) -> dict[str, Offsets]:
        texts = [
            item.clean
            for item in items
            if isinstance(item, Item)
            and isinstance(item.clean, str)
            and isinstance(rows_of[item.clean], list)
            and any(isinstance(value, Span) for value in item.positions.values())
        ]
        found = token_offsets(self.model, texts, [rows_of[text] for text in texts]) if texts else []  # type: ignore[misc]
        return dict(zip(texts, found, strict=True))

    def _fitted(
        self, row: Row, item: Item, rows_of: Mapping[str, list[int] | str], offsets: Mapping[str, Offsets]
    ) -> Fitted:
        clean, corrupted = (self._row(prompt, rows_of) for prompt in (item.clean, item.corrupted))
        if clean == corrupted:
            raise _DoesNotFit("same prompts", "has a corrupted prompt that is the clean one, token by token")
        if len(clean) != len(corrupted):
            raise _DoesNotFit("length", self._lengths(clean, corrupted))
        if len(clean) > (most := longest_prompt(self.model)):
            raise _DoesNotFit("too long", f"has prompts of {len(clean)} tokens, but the model reads at most {most}")
        try:
            answers, has_steps = self._answers(item, clean)
        except TaskError as error:
            raise _DoesNotFit("answers", str(error)) from error
        positions, spans = self._positions(item, clean, offsets)
        key = hash((tuple(clean), tuple(corrupted), *map(tuple, answers)))
        if key in self._seen and not self.keep_duplicates:
            raise _DoesNotFit("duplicate", f"is the same as row {self._seen[key]}")
        self._seen[key] = row.number
        return Fitted(row, clean, corrupted, answers, has_steps, positions, spans, item.group, item.cluster)

    def _row(self, prompt: str | list[int], rows_of: Mapping[str, list[int] | str]) -> list[int]:
        row = rows_of[prompt] if isinstance(prompt, str) else prompt
        if isinstance(row, str):
            raise _DoesNotFit("unreadable", row)
        d_vocab = int(self.model.cfg.d_vocab)
        if outside := [token for token in row if not 0 <= token < d_vocab]:
            raise _DoesNotFit("unreadable", f"has the token id {outside[0]}, but the model knows 0 to {d_vocab - 1}")
        return row

    def _lengths(self, clean: list[int], corrupted: list[int]) -> str:
        """Both lengths, and the words where the prompts part and come together again."""
        both = [*zip(clean, corrupted, strict=False)]
        start = next((i for i, (a, b) in enumerate(both) if a != b), len(both))
        same = next((i for i, (a, b) in enumerate(zip(clean[::-1], corrupted[::-1], strict=False)) if a != b), 0)
        same = min(same, len(both) - start)
        parts = [text_of(self.model, row[start : len(row) - same]) for row in (clean, corrupted)]
        tokens = [len(row) - same - start for row in (clean, corrupted)]
        return (
            f"has a clean prompt of {len(clean)} tokens and a corrupted one of {len(corrupted)}: {shown(parts[0])} "
            f"takes {tokens[0]} where {shown(parts[1])} takes {tokens[1]}"
        )

    def _answers(self, item: Item, clean: list[int]) -> tuple[tuple[list[int], list[int]], bool]:
        """Right and wrong ids, and whether these are the steps of one answer."""
        if item.label is not None:
            if item.label not in self._years:
                self._years[item.label] = year_answers(self.model, item.label)
            return self._years[item.label], False
        (right, right_steps), (wrong, wrong_steps) = (
            self._ids(side, item.clean, item.is_sequence) for side in (item.right, item.wrong)
        )
        d_vocab = int(self.model.cfg.d_vocab)
        if outside := [token for token in (*right, *wrong) if not 0 <= token < d_vocab]:
            raise TaskError(f"has the token id {outside[0]}, but the model knows 0 to {d_vocab - 1}")
        if right_steps or wrong_steps:
            if (len(right) > 1 and not right_steps) or (len(wrong) > 1 and not wrong_steps):
                raise TaskError("has several answers beside one of several tokens")
            if right[0] == wrong[0]:
                raise TaskError(
                    "has a right and a wrong answer that begin with the same token, "
                    f"{text_of(self.model, right[:1])!r}: choose answers that part at once"
                )
        elif both := {*right} & {*wrong}:
            raise TaskError(f"has {text_of(self.model, [min(both)])!r} among its right and among its wrong answers")
        return (right, wrong), right_steps or wrong_steps

    def _ids(self, side: Answer, prompt: str | list[int], is_sequence: bool) -> tuple[list[int], bool]:
        """One side's ids, and whether they are steps."""
        members = side if isinstance(side, list) else [side]
        rows = [[int(member)] if is_index(member) else self._tokens(str(member), prompt) for member in members]
        if len(rows) == 1:
            return rows[0], len(rows[0]) > 1
        if several := [str(member) for member, row in zip(members, rows, strict=True) if len(row) > 1]:
            raise TaskError(f"has {several[0]!r} among several answers, which takes more than one token")
        ids = list(dict.fromkeys(row[0] for row in rows)) if not is_sequence else [row[0] for row in rows]
        return ids, is_sequence

    def _tokens(self, answer: str, prompt: str | list[int]) -> list[int]:
        """An answer's tokens, as they follow the prompt where that is text."""
        if not answer:
            raise TaskError("has an empty answer")
        before = prompt if isinstance(prompt, str) else ""
        key = (answer, before[before.rstrip().rfind(" ") + 1 :])  # tokens do not reach over the last space
        if key not in self._answer_ids:
            self._answer_ids[key] = following(self.model, before, answer)
        if not self._answer_ids[key]:
            raise TaskError(f"has the answer {answer!r}, which has no token")
        return self._answer_ids[key]

    def _positions(
        self, item: Item, clean: list[int], offsets: Mapping[str, Offsets]
    ) -> tuple[dict[str, list[int]], frozenset[str]]:
        """Name -> token indices, and the names that stand for several."""
        n_before = 0 if item.has_bos else self._n_bos(item.clean, clean)
        positions: dict[str, list[int]] = {}
        spans = []
        for name, value in item.positions.items():
            try:
                if isinstance(value, Span):
                    if not isinstance(item.clean, str):
                        raise TaskError("has a span of text, but its prompt is token ids: give token indices")
                    indices = find_span(item.clean, offsets[item.clean], value)
                else:
                    given = value if isinstance(value, list) else [value]
                    indices = [index + n_before if index >= 0 else index + len(clean) for index in given]
                    if len(set(indices)) < len(indices):
                        raise TaskError(f"has a token twice: {shown(value)}")
                    if not all(0 <= index < len(clean) for index in indices):
                        raise TaskError(f"there is no token {shown(value)}: the prompt has {len(clean)}")
            except TaskError as error:
                why = str(error).rstrip(".").replace("occurrence=0", OCCURRENCE)
                raise _DoesNotFit("positions", f"has no position {name!r}: {why}") from error
            # It is there without being said; auto-circuit's files call it "end".
            if (name if item.has_bos else name.upper()) == "END" and indices == [len(clean) - 1]:
                continue
            if name == "END":
                raise _DoesNotFit("positions", "names END, but not as its last token")
            positions[name] = indices
            if isinstance(value, list) or (isinstance(value, Span) and value.which == "all"):
                spans.append(name)
        names, several = frozenset(positions), frozenset(spans)
        if not self._names:
            self._names = [names, several]
        if names != self._names[0]:
            others = ", ".join(sorted(self._names[0])) or "none"
            raise _DoesNotFit("positions", f"names {', '.join(sorted(names)) or 'none'}, the rows before it {others}")
        if other := several ^ self._names[1]:
            raise _DoesNotFit(
                "positions", f"names {min(other)!r} as one token or as several, unlike the rows before it"
            )
        return positions, several

    def _n_bos(self, prompt: str | list[int], clean: list[int]) -> int:
        """How many tokens stand before a text's own."""
        if not isinstance(prompt, str):
            return 0
        (ids,) = tokenizer_of(self.model)([prompt], add_special_tokens=False)["input_ids"]
        return len(clean) - len(ids)
