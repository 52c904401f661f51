"""A file of prompts before anyone sweeps it: what does not fit, the likeliest mend, and whether there is a contrast."""

from __future__ import annotations

import random
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from patchlib import stats
from patchlib._util import check_count
from patchlib.errors import AnswerWarning, TaskError
from patchlib.patching.sweeps import baseline
from patchlib.tasks.files.fit import Fitted, Misfit
from patchlib.tasks.files.read import Reading, misfit_table
from patchlib.tasks.pairs import PromptPairs
from patchlib.tasks.tokens import text_of

MENDS = {
    "unreadable": "mend these rows, or leave them out with on_misfit='drop'",
    "length": "choose words that take as many tokens in both prompts, or leave these rows out with on_misfit='drop'",
    "same prompts": "let the prompts differ in the one thing that decides the answer",
    "too long": "shorten the prompts, or take a model that reads more",
    "answers": "give answers that part at their first token, each with the space before it where a word follows",
    "positions": "give a text that stands in the clean prompt once, in the same spelling",
    "duplicate": "leave one of each out with on_misfit='drop'",
}
"""Reason -> what most likely helps."""
WHAT_IS_WRONG = {
    "unreadable": "cells that cannot be read",
    "too long": "prompts that are too long",
    "answers": "unusable answers",
    "positions": "unusable positions",
}
MOST_SHOWN = 10
"""Rows that do not fit, as a report prints them."""


@dataclass(frozen=True)
class FileReport:
    """What ``check_file`` found.

    Attributes:
        file: Its name.
        format: Of ``read_pairs``.
        n_rows: How many it has.
        n_fit: How many can be patched.
        dropped: The others: ``row`` (from 1, without the header), ``line``, ``reason`` and ``detail``.
        pairs: The rows that were measured, as a task; None where none fit.
        contrast: Of these, as ``stats.contrast`` gives it; empty where none fit.
        mends: What most likely helps, a sentence each; empty where nothing has to.
        seconds: That it took.

    Example:
        >>> file = patchlib.to_csv(task, model, tmp_path / "ioi.csv")
        >>> report = patchlib.check_file(file, model)
        >>> report.usable, report.n_fit, report.mends
        (True, 4, ())
    """

    file: str
    format: str
    n_rows: int
    n_fit: int
    dropped: pd.DataFrame
    pairs: PromptPairs | None
    contrast: pd.DataFrame
    mends: tuple[str, ...]
    seconds: float

    @property
    def usable(self) -> bool:
        """Whether every row fits, and the first metric gives a contrast that can be divided by."""
        return not len(self.dropped) and len(self.contrast) > 0 and bool(self.contrast.usable.iloc[0])

    def __str__(self) -> str:
        lines = [f"{self.file} ({self.format}): {self.n_fit} of {self.n_rows} rows fit."]
        if len(self.dropped):
            shown = self.dropped.head(MOST_SHOWN)
            lines += [f"  row {row.row}, {row.reason}: {row.detail}" for row in shown.itertuples()]
            if more := len(self.dropped) - len(shown):
                lines.append(f"  and {more} more")
        if self.pairs is not None:
            lengths = Counter(len(row) for row in self.pairs.clean_tokens)
            n = len(self.pairs)
            part = "all of them" if n == self.n_fit else f"{n} drawn from them"
            shortest, longest = min(lengths), max(lengths)
            tokens = f"{longest}" if shortest == longest else f"{shortest} to {longest}"
            lines.append(f"Prompts of {tokens} tokens; positions: {', '.join(self.pairs.positions)}.")
            lines.append(f"Contrast, measured on {part}:")
            columns = ["clean", "corrupted", "difference", "ci_low", "ci_high", "usable", "reason"]
            lines.append(self.contrast[columns].round(3).to_string())
        lines += [f"-> {mend}" for mend in self.mends]
        return "\n".join(lines)


def check_file(
    path: str | Path,
    model: TransformerBridge,
    *,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    tokenizer: str | None = None,
    n_measured: int = 32,
) -> FileReport:
    """Read a file of prompts row by row, and say what does not fit, what would help, and what contrast there is.

    Args:
        path, model, format, columns, limit, seed, tokenizer: As for ``read_pairs``.
        n_measured: Rows, drawn at random from those that fit, on which the contrast is measured.

    Returns:
        The report; printed, it is a page.

    Raises:
        TaskError: A file that cannot be read at all.

    Example:
        >>> file = tmp_path / "pets.csv"
        >>> written = file.write_text('''clean,corrupted,answer,wrong_answer
        ... I have a dog and you have a,I have a cat and you have a, dog, cat
        ... I have a dog and you have a,I have a rhinoceros and you have a, dog, cat
        ... ''')
        >>> report = patchlib.check_file(file, model)
        >>> print(report.dropped[["row", "reason"]].to_string(index=False))
         row reason
           2 length
        >>> print(report.dropped.detail[0])
        has a clean prompt of 9 tokens and a corrupted one of 10: ' dog' takes 1 where ' rhinoceros' takes 2
        >>> print(report.mends[0])
        1 row differs in length: choose words that take as many tokens in both prompts, or leave these rows out ...
    """
    start = time.perf_counter()
    check_count("n_measured", n_measured, error=TaskError)
    reading = Reading(path, model, format, columns, limit, seed, tokenizer)
    fitted: list[Fitted] = []
    misfits: list[Misfit] = []
    for row in reading.rows():
        if isinstance(row, Fitted):
            fitted.append(row)
        else:
            misfits.append(row)
    chosen = sorted(random.Random(seed).sample(range(len(fitted)), min(n_measured, len(fitted))))
    pairs = reading.pairs([fitted[i] for i in chosen], {}) if fitted else None
    contrast, mends = _contrast(model, pairs) if pairs is not None else (pd.DataFrame(), [])
    mends = [*_missing_space(model, fitted), *mends]
    return FileReport(
        reading.name,
        reading.shape.name,
        reading.n_rows,
        len(fitted),
        misfit_table(misfits),
        pairs,
        contrast,
        (*_mends(misfits), *mends),
        time.perf_counter() - start,
    )


def _mends(misfits: list[Misfit]) -> list[str]:
    """The likeliest mend of each kind of misfit, the commonest first."""
    said = {"length": "in length", "same prompts": "in nothing"}
    counts = Counter(misfit.reason for misfit in misfits)
    mends = []
    for reason, n in counts.most_common():
        rows = f"{n} row{'s' * (n > 1)}"
        if reason in said:
            what = f"{rows} differ{'s' * (n == 1)} {said[reason]}"
        elif reason == "duplicate":
            what = f"{rows} {'are' if n > 1 else 'is'} there already"
        else:
            what = f"{rows} {'have' if n > 1 else 'has'} {WHAT_IS_WRONG[reason]}"
        mends.append(f"{what}: {MENDS[reason]}.")
    return mends


def _missing_space(model: TransformerBridge, fitted: list[Fitted]) -> list[str]:
    """What is to be said of answers that go on the prompt's last word, as in "gave a drink toMary"."""
    if model.tokenizer is None:
        return []
    glued = []
    for row in fitted:
        # Of special tokens and of bytes that are no letter there is nothing to say; digits may go on a year.
        end, answer = text_of(model, row.clean[-1:])[-1:], text_of(model, row.answers[0][:1])
        if (end.isalpha() or end in ",;:") and end and answer[:1].isalpha():
            glued.append((row, answer))
    if not glued:
        return []
    row, answer = glued[0]
    end = text_of(model, row.clean[-2:])
    rows = f"{len(glued)} rows have" if len(glued) > 1 else "1 row has"
    return [
        f"{rows} an answer without the space before a word, the first {row.row}: {answer!r} behind {end!r} reads "
        f"{end + answer!r}. If a new word begins there, write {' ' + answer!r}."
    ]


def _contrast(model: TransformerBridge, pairs: PromptPairs) -> tuple[pd.DataFrame, list[str]]:
    """The contrast of some prompts, and what is to be said of it and of their answers."""
    metrics = ["logit_diff", *(["prob_diff"] if pairs.answer_sets else ["prob"])]
    if pairs.metadata.get("corrupted_answer") != "none":  # else no answer of a corrupted prompt is right
        metrics.append("accuracy")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", AnswerWarning)
        table = stats.contrast(baseline(model, pairs, metrics))
    mends = [str(warning.message) for warning in caught if issubclass(warning.category, AnswerWarning)]
    if not table.usable.iloc[0]:
        mends.append(stats.why_unusable(table.iloc[[0]]))
    if pairs.continuations:
        mends.append(
            "Answers of several tokens: sweep, path_patch and baseline sum their log-probabilities; everything else "
            "reads first tokens, with dataclasses.replace(pairs, continuations=())."
        )
    return table, mends
