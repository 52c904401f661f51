"""A file of prompts as a task."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_choice, check_count, check_kind, check_seed, check_text, sha256_of, shown
from patchlib.errors import TaskError
from patchlib.models.check import check_model
from patchlib.tasks.files.fit import Fitted, Fitter, Misfit
from patchlib.tasks.files.formats import PAIRS, SAME, find_format, whole
from patchlib.tasks.files.rows import Row, Source, open_rows, sampled
from patchlib.tasks.pairs import PromptPairs, check_fits

SETTINGS = ("task", "seed", "metadata", "keep_pads", "duplicates")
"""Columns that say something of all rows; the first row has them."""


def read_pairs(
    path: str | Path,
    model: TransformerBridge,
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    on_misfit: Literal["raise", "drop"] = "raise",
    limit: int | None = None,
    seed: int = 0,
    tokenizer: str | None = None,
) -> PromptPairs:
    r"""Prompts from a CSV, TSV, JSON, JSONL or Parquet file, in the shapes that people have, as a task.

    A row has a clean and a corrupted prompt, and a right and a wrong answer to the clean one: texts, with the space
    before a word that follows a space. A JSON list of texts is a set, of which any is right (wrong); a text of several
    tokens is an answer of several tokens. Columns ``role:NAME`` name the last token of a text in the clean prompt
    (``role:NAME:first`` its first), ``span:NAME`` all its tokens, ``position:NAME`` a token index (below 0 from the
    end), ``positions:NAME`` several; ``group`` and ``cluster`` are labels, as in ``PromptPairs``. END, the last token,
    is always there. In JSON a span may be ``{"text": "John", "occurrence": -1}``.

    Formats:
        pairs: The columns clean, corrupted (or corrupt), answer and wrong_answer (or answers, wrong_answers). With
            ``prompts`` and ``word_idxs``, auto-circuit's JSON (Miller et al. 2024).
        eap-ig: clean, corrupted, correct_idx, incorrect_idx (Hanna et al. 2024). The ids belong to one tokenizer, which
            the file does not name: they are taken where each stands in its prompts, or with ``tokenizer=``.
        greater-than: clean, corrupted, label: a year's last two digits; later years are right.
        agreement: clean, corrupted, plural: forms of be, have and do, of the right and of the wrong number.
        mib: prompt, choices, answerKey and a counterfactual of them (Mueller et al. 2025); ``columns={"corrupted":
            "abc_counterfactual"}`` names another.

    Args:
        path: The file; its name ends in .csv, .tsv, .json, .jsonl or .parquet, its text is UTF-8.
        model: Whose tokenizer reads the prompts.
        format: One of the five; found from the columns when None.
        columns: Our name of a column -> the file's, as {"clean": "prompt"}.
        on_misfit: What becomes of a row that cannot be patched: an error with its number, or it is left out.
            ``check_file`` lists them.
        limit: Rows to draw, when there are more; the others are not held in memory.
        seed: Of that draw.
        tokenizer: Whose token ids the file has, where it has some.

    Returns:
        The task, whose metadata have the file's name and sha256, its number of rows, and how many were left out.

    Raises:
        TaskError: A file that cannot be read, a column that is missing, or a row that does not fit; in one line, with
            the row's number, counted from 1 without the header.

    Example:
        >>> file = tmp_path / "pets.csv"
        >>> lines = [
        ...     "clean,corrupted,answer,wrong_answer,role:animal",
        ...     '"The dog barked, and then the","The cat barked, and then the"," dog"," cat",dog',
        ...     "My mother has a dog and my father a,My mother has a cat and my father a, dog, cat,dog",
        ... ]
        >>> written = file.write_text("\n".join(lines))
        >>> pets = patchlib.read_pairs(file, model)
        >>> pets
        PromptPairs('pets', 2 pairs of 9 or 10 tokens)
        >>> pets.roles
        {'animal': tensor([2, 5]), 'END': tensor([8, 9])}
    """
    reading = Reading(path, model, format, columns, limit, seed, tokenizer)
    check_choice("on_misfit", on_misfit, ("raise", "drop"), TaskError)
    fitted, misfits = [], []
    for row in reading.rows():
        if isinstance(row, Fitted):
            fitted.append(row)
        elif on_misfit == "drop":
            misfits.append(row)
        else:
            raise TaskError(
                f"{reading.name}, {row.row} {row.detail.rstrip('.')}. on_misfit='drop' leaves such rows out; "
                "patchlib check lists them."
            )
    if not fitted:
        why = f"; the first, {misfits[0].row}, {misfits[0].detail.rstrip('.')}" if misfits else ""
        raise TaskError(f"{reading.name} has no row that fits ({reading.n_rows} rows{why}).")
    return reading.pairs(fitted, {"n_dropped": len(misfits)} if misfits else {})


class Reading:
    """One file, being read for one model.

    Args:
        path, model, format, columns, limit, seed, tokenizer: As for ``read_pairs``.
    """

    def __init__(
        self,
        path: str | Path,
        model: TransformerBridge,
        format: str | None = None,
        columns: Mapping[str, str] | None = None,
        limit: int | None = None,
        seed: int = 0,
        tokenizer: str | None = None,
    ) -> None:
        check_model(model)
        if limit is not None:
            check_count("limit", limit, error=TaskError)
        if tokenizer is not None:
            check_text("tokenizer", tokenizer, TaskError)
        self.model, self.limit, self.seed = model, limit, check_seed(seed, error=TaskError)
        self.source: Source = open_rows(path)
        self.name = self.source.path.name
        columns = check_columns(columns, self.source)
        self.shape = find_format((*self.source.columns, *columns), format, self.name)
        self._fitter = Fitter(model, self.shape, self.source.about, columns, tokenizer)
        self._count = [0]
        self._settings: dict[str, Any] = {}

    @property
    def n_rows(self) -> int:
        """How many the file has; known once they were read."""
        return self._count[0]

    def rows(self) -> Iterable[Fitted | Misfit]:
        """What becomes of each row, or of those that were drawn."""
        rows, self._count = sampled(map(self._with_settings, self.source.rows), self.limit, self.seed)
        try:
            yield from self._fitter.fit(rows)
        except TaskError as error:
            raise TaskError(str(error) if self.name in str(error) else f"{self.name}, {error}") from error

    def _with_settings(self, row: Row) -> Row:
        if row.number == 1:
            given = {name: row.values.get(name) for name in SETTINGS}
            self._settings = {name: value for name, value in given.items() if value not in (None, "")}
            self._fitter.keep_duplicates = str(self._settings.get("duplicates")) == "True"
        return row

    def pairs(self, fitted: Sequence[Fitted], counts: Mapping[str, int]) -> PromptPairs:
        """The rows that fit, as a task."""
        try:
            return self._pairs(fitted, counts)
        except TaskError as error:
            raise TaskError(str(error) if self.name in str(error) else f"{self.name}: {error}") from error

    def _pairs(self, fitted: Sequence[Fitted], counts: Mapping[str, int]) -> PromptPairs:
        has_steps = any(row.has_steps for row in fitted)
        has_sets = any(len(ids) > 1 for row in fitted if not row.has_steps for ids in row.answers)
        if has_steps and has_sets:
            steps, sets = (
                next(
                    row.row for row in fitted if row.has_steps is wanted and (wanted or max(map(len, row.answers)) > 1)
                )
                for wanted in (True, False)
            )
            raise TaskError(
                f"{self.name}, {steps} has an answer of several tokens and {sets} several right or wrong ones: a task "
                "has one kind."
            )
        many = tuple((tuple(right), tuple(wrong)) for right, wrong in (row.answers for row in fitted))
        spans = fitted[0].spans
        seed = self._settings.get("seed")
        if seed is not None and (seed := whole(seed)) is None:
            raise TaskError(f"{self.name}, row 1 has a seed that is no whole number: {shown(self._settings['seed'])}.")
        pairs = PromptPairs(
            clean_tokens=tuple(torch.tensor(row.clean) for row in fitted),
            corrupted_tokens=tuple(torch.tensor(row.corrupted) for row in fitted),
            answers=torch.tensor([(right[0], wrong[0]) for right, wrong in many]),
            answer_sets=many if has_sets else (),
            continuations=many if has_steps else (),
            roles={
                name: torch.tensor([row.positions[name][0] for row in fitted])
                for name in fitted[0].positions
                if name not in spans
            },
            spans={
                name: tuple(tuple(row.positions[name]) for row in fitted)
                for name in fitted[0].positions
                if name in spans
            },
            name=str(self._settings.get("task") or self.source.path.stem),
            seed=seed,
            metadata=self._metadata(len(fitted), counts),
            groups=_labels("group", fitted),
            clusters=_labels("cluster", fitted),
            keep_pads=str(self._settings.get("keep_pads")) == "True",
        )
        return check_fits(self.model, pairs)

    def _metadata(self, n_prompts: int, counts: Mapping[str, int]) -> dict[str, str | int | float]:
        written = self._settings.get("metadata") or {}
        if isinstance(written, str):
            try:
                written = json.loads(written)
            except ValueError as error:
                raise TaskError(f"{self.name}, row 1 has metadata that are no JSON: {shown(written)}.") from error
        drawn = (
            {}
            if self.limit is None or self.n_rows <= self.limit
            else {"file_sample": self.limit, "file_seed": self.seed}
        )
        return {
            **check_kind("metadata of the file", written, dict, "give an object of settings", TaskError),
            "file": self.name,
            "file_sha256": sha256_of(self.source.path),
            "file_format": self.shape.name,
            "file_rows": self.n_rows,
            "n_prompts": n_prompts,
            **drawn,
            **counts,
        }


def _labels(kind: str, fitted: Sequence[Fitted]) -> tuple[str, ...]:
    """Each row's label; none where no row has one, and TaskError where some have."""
    labels = tuple(str(getattr(row, kind)) for row in fitted)
    if any(labels) and not all(labels):
        raise TaskError(
            f"{fitted[labels.index('')].row} has no {kind}, and others have one: give all rows one, or none."
        )
    return labels if all(labels) else ()


def check_columns(columns: Mapping[str, str] | None, source: Source) -> dict[str, str]:
    """Our names for a file's columns; TaskError for one that the file does not have."""
    given = check_kind("columns", columns or {}, Mapping, "give {'clean': the file's name for it}", TaskError)
    for ours, name in given.items():
        check_text("A column's name", ours, TaskError)
        if name not in source.columns:
            raise TaskError(
                f"{source.path.name} has no column {shown(name)}, which columns= names for {ours!r}: it has "
                f"{', '.join(source.columns) or 'none'}."
            )
        if (
            ours not in (*PAIRS, *SAME, "group", "cluster", "prompt", "choices", "answerKey", "label", "plural")
            and ":" not in ours
        ):
            raise TaskError(
                f"columns= names {ours!r}, which is no column that is read: choose {', '.join(PAIRS)} or role:NAME."
            )
    return dict(given)


def misfit_table(misfits: Sequence[Misfit]) -> pd.DataFrame:
    """What was left out: ``row`` (from 1), ``line`` of the file, ``reason`` and ``detail``."""
    rows = [(misfit.row.number, misfit.row.line, misfit.reason, misfit.detail) for misfit in misfits]
    table = pd.DataFrame(rows, columns=["row", "line", "reason", "detail"])
    return table.astype({"row": "int64", "line": "Int64"})
