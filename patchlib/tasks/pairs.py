"""PromptPairs: clean and corrupted prompts as tokens, lined up position by position."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import LARGEST, check_flag, check_kind, check_seed, check_text, listed, shown
from patchlib.errors import TaskError
from patchlib.models.check import check_model
from patchlib.tasks.answer_sets import TwoIds, padded, resolve_answers
from patchlib.tasks.tokens import as_ids, as_rows, check_pair, check_rows, check_spans, text_of

MOST_NAMED = 4
"""Answers of a set that a label names."""
TaskMetric = Callable[[Float[Tensor, "1 pos d_vocab"], int], float]


def _savable(setting: str, value: Any) -> str | int | float:
    """What a file can hold of a setting; TaskError for anything else."""
    if isinstance(value, str) and not value:
        return value
    if isinstance(value, str):
        return check_text(f"metadata {setting!r}", value, TaskError)
    if isinstance(value, Integral) and abs(int(value)) <= LARGEST:
        return value if isinstance(value, bool) else int(value)
    if isinstance(value, Real) and not isinstance(value, Integral):
        return float(value)
    raise TaskError(f"metadata {setting!r} must be a str, int or float to be saved, not {shown(value)}.")


@dataclass(frozen=True, eq=False)
class PromptPairs:
    """Clean and corrupted prompts as tokens, aligned position by position, with two answers for each pair.

    Rows and answers may be given as tensors or as lists of ids; they are stored as int64 tensors on the CPU.
    The metric reads the last position of each prompt. BOS, where the model wants one, is part of the row.

    Args:
        clean_tokens: One row of token ids per example: a 2-D tensor, or rows whose lengths may differ.
        corrupted_tokens: As many rows, each as long as its clean partner and not equal to it.
        answers: Token ids, (right, wrong) for the *clean* prompt. Either may be a Python set of ids, of which any is
            right (wrong), or a list of ids, an answer of several tokens; here its first is kept, and all of them in
            ``answer_sets`` or ``continuations``.
        roles: Named positions, such as "S2": one token index per example, the same in clean and corrupted. END, the
            last position, is added where it is not given.
        name: What plots and results call the task.
        seed: The random seed that drew the prompts, None where nothing was drawn.
        compute_metric: The task's own metric ``(logits[1 pos d_vocab], i) -> float``, None for the default.
        metadata: Settings that results record. Where ``corrupted_answer`` is "none", neither answer is right for the
            corrupted prompts, and ``accuracy`` is refused.
        groups: A label for each pair; prompts with the same one differ in their fillings alone, so that a mean over
            them, position by position, is one of like with like. Empty: prompts of one length are alike.
        clusters: A label for each pair; prompts with the same one share a wording, or whatever else makes a model treat
            them alike, so that they are not independent: intervals and tests count them as one cluster. Empty: the
            groups, where there are any, else each pair is its own.
        keep_pads: Rows may begin or end in the tokenizer's padding token, which often is its end-of-text token too.
            Otherwise a model refuses such rows, as they come from padding prompts of several lengths to one.
        spans: Named positions of several tokens: for each example their indices.
        answer_sets: For each pair two rows of ids, the right and the wrong answers. Empty: those in ``answers``.
        continuations: For each pair two rows of ids, a right and a wrong answer of several tokens. Empty: one token.

    Attributes:
        index: Each pair's number in the task, which ``select`` keeps: a metric of your own is given some of a task's
            prompts at a time, and finds what belongs to them as ``data[pairs.index]``.

    Raises:
        AlignmentError: A pair's rows differ in length.
        TaskError: Anything else that cannot be patched: no prompts, identical rows, equal answers.

    Example:
        Prompts that differ in one token, which decides between two answers; position 0 is BOS:

        >>> are, is_ = model.to_single_token(" are"), model.to_single_token(" is")
        >>> pairs = patchlib.PromptPairs(
        ...     clean_tokens=model.to_tokens("The keys to the cabinet"),
        ...     corrupted_tokens=model.to_tokens("The key to the cabinet"),
        ...     answers=[(are, is_)],
        ...     roles={"noun": [2]},
        ...     name="number agreement",
        ... )
        >>> pairs
        PromptPairs('number agreement', 1 pair of 6 tokens)
        >>> [model.to_string(pairs.clean_tokens[0][i]) for i in pairs.roles["noun"]]
        [' keys']
    """

    clean_tokens: tuple[Int[Tensor, " pos"], ...]
    corrupted_tokens: tuple[Int[Tensor, " pos"], ...]
    answers: Int[Tensor, "example 2"]
    roles: dict[str, Int[Tensor, " example"]] = field(default_factory=dict)
    name: str = "prompt pairs"
    seed: int | None = None
    compute_metric: TaskMetric | None = None
    metadata: dict[str, str | int | float] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    clusters: tuple[str, ...] = ()
    keep_pads: bool = False
    spans: dict[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    answer_sets: TwoIds = ()
    continuations: TwoIds = ()
    index: Int[Tensor, " example"] = field(init=False)

    def __post_init__(self) -> None:
        check_text("The name of PromptPairs", self.name, TaskError)
        clean, corrupted = as_rows(self.clean_tokens, "clean"), as_rows(self.corrupted_tokens, "corrupted")
        answers, sets, continuations = resolve_answers(self.answers, self.answer_sets, self.continuations)
        given_roles = check_kind("roles", self.roles, Mapping, "give {role: a position in each prompt}", TaskError)
        roles = {
            check_text("A role's name", role, TaskError): as_ids(positions, f"role {role!r}")
            for role, positions in given_roles.items()
        }
        seed = None if self.seed is None else check_seed(self.seed, error=TaskError)
        groups, clusters = self._labels("group", self.groups), self._labels("cluster", self.clusters)
        if self.compute_metric is not None and not callable(self.compute_metric):
            raise TaskError(
                f"compute_metric must be a function (logits, i) -> float, not {shown(self.compute_metric)}."
            )
        check_flag("keep_pads", self.keep_pads, TaskError)
        if not clean:
            raise TaskError(f"{self.name!r} has no prompts: give at least one pair.")
        if len(clean) != len(corrupted) or answers.shape != (len(clean), 2):
            raise TaskError(
                f"{self.name!r} has {len(clean)} clean and {len(corrupted)} corrupted prompts and answers of "
                f"shape {list(answers.shape)}: give as many of each, the answers as [example, 2]."
            )
        many = (("answer_sets", sets), ("continuations", continuations))
        for kind, labels in (("groups", groups), ("clusters", clusters), *many):
            if labels and len(labels) != len(clean):
                raise TaskError(f"{self.name!r} has {len(clean)} pairs and {len(labels)} {kind}: give one for each.")
        for i, (right, wrong) in enumerate(answers.tolist()):
            check_pair(i, clean[i], corrupted[i], str)
            if right == wrong or min(right, wrong) < 0:
                raise TaskError(
                    f"Pair {i} has the answers {right} (right) and {wrong} (wrong): they must be two "
                    "different token ids, or the logit difference says nothing."
                )
        lengths = torch.tensor([len(row) for row in clean])
        for role, positions in roles.items():
            if positions.shape != lengths.shape or not ((positions >= 0) & (positions < lengths)).all():
                raise TaskError(
                    f"Role {role!r} must give one position inside each of the {len(clean)} prompts, "
                    f"not {shown(positions.tolist())}."
                )
        roles.setdefault("END", lengths - 1)
        spans = check_spans(self.spans, lengths.tolist(), roles)
        metadata = check_kind("metadata", self.metadata, Mapping, "give {setting: value}", TaskError)
        metadata = {
            check_text("A setting's name", name, TaskError): _savable(name, metadata[name]) for name in metadata
        }
        # The class is frozen, so that nobody edits prompts under a sweep: only here are values put into their form.
        vars(self).update(clean_tokens=clean, corrupted_tokens=corrupted, answers=answers)
        vars(self).update(roles=roles, metadata=metadata, seed=seed, groups=groups, clusters=clusters or groups)
        vars(self).update(spans=spans, answer_sets=sets, continuations=continuations, index=torch.arange(len(clean)))

    def _labels(self, kind: str, labels: Sequence[str]) -> tuple[str, ...]:
        if isinstance(labels, str):
            raise TaskError(f"{kind}s must be a label for each pair, not {shown(labels)}.")
        return tuple(check_text(f"A {kind}", label, TaskError) for label in listed(labels))

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.clean_tokens)

    def __repr__(self) -> str:
        lengths = sorted({len(row) for row in self.clean_tokens})
        count = f"{len(self)} pair{'s' if len(self) > 1 else ''}"
        tokens = " or ".join(map(str, lengths)) if len(lengths) < 3 else f"{lengths[0]} to {lengths[-1]}"
        return f"PromptPairs({self.name!r}, {count} of {tokens} tokens)"

    @property
    def positions(self) -> tuple[str, ...]:
        """The names of its roles and spans: what ``positions=`` of a sweep may be beside token indices."""
        return (*self.roles, *self.spans)

    def buckets(self) -> list[Int[Tensor, " example"]]:
        """Indices of the pairs of equal length, one tensor a length, shortest first.

        Returns:
            Index tensors for ``select``: prompts of several lengths run bucket by bucket, never padded.

        Example:
            >>> mixed = patchlib.PromptPairs([[1, 2, 3], [4, 5], [6, 7]], [[1, 0, 3], [4, 0], [6, 0]], [[1, 2]] * 3)
            >>> mixed.buckets()
            [tensor([1, 2]), tensor([0])]
        """
        lengths = [len(row) for row in self.clean_tokens]
        return [torch.tensor([i for i, n in enumerate(lengths) if n == length]) for length in sorted(set(lengths))]

    def select(self, indices: Int[Tensor, " chosen"] | Sequence[int]) -> PromptPairs:
        """The pairs at `indices`, in that order; ``index`` and ``compute_metric`` still have each pair's own number.

        Args:
            indices: Numbers of pairs, from 0.

        Returns:
            Fewer pairs, with their roles, answers and groups.

        Raises:
            TaskError: An index out of range, or none given.

        Example:
            >>> pairs = task.to_pairs(model)
            >>> pairs.select([2, 0]).answers.tolist() == pairs.answers[[2, 0]].tolist()
            True
        """
        chosen = as_ids(listed(indices), "indices").tolist()
        if not chosen or any(isinstance(i, list) for i in chosen) or not all(0 <= i < len(self) for i in chosen):
            raise TaskError(f"Cannot select pairs {shown(chosen)}: give some of 0 to {len(self) - 1}.")
        metric = self.compute_metric
        selected = replace(
            self,
            clean_tokens=tuple(self.clean_tokens[i] for i in chosen),
            corrupted_tokens=tuple(self.corrupted_tokens[i] for i in chosen),
            answers=self.answers[chosen],
            roles={role: positions[chosen] for role, positions in self.roles.items()},
            spans={name: tuple(rows[i] for i in chosen) for name, rows in self.spans.items()},
            answer_sets=tuple(self.answer_sets[i] for i in chosen) if self.answer_sets else (),
            continuations=tuple(self.continuations[i] for i in chosen) if self.continuations else (),
            groups=tuple(self.groups[i] for i in chosen) if self.groups else (),
            clusters=tuple(self.clusters[i] for i in chosen) if self.clusters else (),
            compute_metric=None if metric is None else lambda logits, i: metric(logits, chosen[i]),
        )
        vars(selected).update(index=self.index[chosen])
        return selected

    def reversed(self) -> PromptPairs:
        """Clean and corrupted change places, and the right and the wrong answer with them.

        Returns:
            The same pairs, asked the other way round.

        Example:
            >>> pairs = task.to_pairs(model)
            >>> text, back = (p.example_prompts(model) for p in (pairs, pairs.reversed()))
            >>> text["answer"][0], back["answer"][0]
            (' Melissa', ' Edward')
        """
        return replace(
            self,
            clean_tokens=self.corrupted_tokens,
            corrupted_tokens=self.clean_tokens,
            answers=self.answers.flip(1),
            answer_sets=tuple((wrong, right) for right, wrong in self.answer_sets),
            continuations=tuple((wrong, right) for right, wrong in self.continuations),
            name=f"{self.name}, reversed",
        )

    def clean_batch(self) -> Int[Tensor, "example pos"]:
        """The clean prompts as one tensor.

        Returns:
            Token ids, one row per example.

        Raises:
            TaskError: Their lengths differ.

        Example:
            >>> task.to_pairs(model).clean_batch().shape
            torch.Size([4, 17])
        """
        return self._batch(self.clean_tokens)

    def corrupted_batch(self) -> Int[Tensor, "example pos"]:
        """The corrupted prompts as one tensor.

        Returns:
            Token ids, one row per example.

        Raises:
            TaskError: Their lengths differ.

        Example:
            Only the second subject is another token:

            >>> pairs = task.to_pairs(model)
            >>> changed = pairs.clean_batch() != pairs.corrupted_batch()
            >>> changed.nonzero()[:, 1].tolist() == pairs.roles["S2"].tolist()
            True
        """
        return self._batch(self.corrupted_tokens)

    def _batch(self, rows: tuple[Int[Tensor, " pos"], ...]) -> Int[Tensor, "example pos"]:
        lengths = sorted({len(row) for row in rows})
        if len(lengths) > 1:
            raise TaskError(f"Prompts of {lengths} tokens make no one batch: select one of buckets() first.")
        return torch.stack(rows)  # [example pos]

    def example_prompts(self, model: TransformerBridge) -> dict[str, list[str]]:
        """Texts for labels, one per pair.

        Args:
            model: Whose tokenizer turns ids back into text.

        Returns:
            Lists by ``clean_prompt``, ``corrupted_prompt``, ``answer`` and ``wrong_answer``; of ids, where the model
            has no tokenizer.

        Raises:
            SweepError: This is no model.

        Example:
            >>> texts = task.to_pairs(model).example_prompts(model)
            >>> texts["clean_prompt"][0]
            '<|im_start|>The old friends Melissa and Edward met at the barn. Edward gave the bowl to'
            >>> texts["answer"][0]
            ' Melissa'
        """
        check_model(model)
        return {
            "clean_prompt": [text_of(model, row) for row in self.clean_tokens],
            "corrupted_prompt": [text_of(model, row) for row in self.corrupted_tokens],
            "answer": [self._answer_text(model, i, 0) for i in range(len(self))],
            "wrong_answer": [self._answer_text(model, i, 1) for i in range(len(self))],
        }

    def _answer_text(self, model: TransformerBridge, i: int, which: int) -> str:
        if self.continuations:
            return text_of(model, self.continuations[i][which])
        ids = self.answer_sets[i][which] if self.answer_sets else self.answers[i, which : which + 1].tolist()
        texts = [text_of(model, [token]) for token in ids[:MOST_NAMED]]
        return "|".join(texts) + (f"|... ({len(ids)})" if len(ids) > MOST_NAMED else "")

    def answer_ids(self) -> Int[Tensor, "example 2 *member"]:
        """What metrics read: ``answers``, or where a pair has several, the sets, filled up with -1.

        Returns:
            Token ids, (right, wrong), of one set to an axis where there are sets.

        Example:
            >>> pairs = patchlib.PromptPairs([[1, 2]], [[1, 3]], [({5, 6}, {7})])
            >>> pairs.answers.tolist(), pairs.answer_ids().tolist()
            ([[5, 7]], [[[5, 6], [7, -1]]])
        """
        return padded(self.answer_sets) if self.answer_sets else self.answers


def check_fits(model: TransformerBridge, pairs: PromptPairs) -> PromptPairs:
    """The same pairs; TaskError where the model cannot read them, or would read padding as text."""
    check_rows(model, [*pairs.clean_tokens, *pairs.corrupted_tokens], pairs.name, pairs.keep_pads)
    # Positions below 0 and answers of several tokens are counted from END: another token of that name would move them.
    for i, (row, end) in enumerate(zip(pairs.clean_tokens, pairs.roles["END"].tolist(), strict=True)):
        if end != len(row) - 1:
            raise TaskError(
                f"{pairs.name!r} names token {end} of prompt {i} END, whose last token is {len(row) - 1}: END is the "
                "last one, and is there without being given; call yours something else."
            )
    many = [torch.tensor(ids) for two in pairs.answer_sets or pairs.continuations for ids in two]
    check_rows(model, many or list(pairs.answers), pairs.name, keep_pads=True)
    return pairs
