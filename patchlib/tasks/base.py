"""A task: pairs of clean and corrupted prompts, as text that users write and as tokens that a sweep runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib.errors import TaskError
from patchlib.tasks.tokens import as_ids, as_row, check_pair, tokenize

TaskMetric = Callable[[Float[Tensor, "1 pos d_vocab"], int], float]


@dataclass(frozen=True, eq=False)
class PromptPairs:
    """Clean and corrupted prompts as tokens, aligned position by position, with two answers for each pair.

    Rows and answers may be given as tensors or as lists of ids; they are stored as int64 tensors on the CPU.
    The metric reads the last position of each prompt. BOS, where the model wants one, is part of the row.

    Attributes:
        clean_tokens: One row of token ids per example: a 2-D tensor, or rows whose lengths may differ.
        corrupted_tokens: As many rows, each as long as its clean partner and not equal to it.
        answers: Token ids, (right, wrong) for the *clean* prompt.
        roles: Named positions, such as "S2": one token index per example, the same in clean and corrupted.
        name: What plots and results call the task.
        seed: The random seed that drew the prompts, None where nothing was drawn.
        compute_metric: The task's own metric ``(logits[1 pos d_vocab], i) -> float``, None for the default.
        metadata: Settings that results record.
        groups: A label for each pair; prompts with the same one differ in their fillings alone, so that a mean over
            them, position by position, is one of like with like. Empty: prompts of one length are alike.

    Raises:
        AlignmentError: A pair's rows differ in length.
        TaskError: Anything else that cannot be patched: no prompts, identical rows, equal answers.
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

    def __post_init__(self) -> None:
        clean = tuple(as_row(row, f"clean prompt {i}") for i, row in enumerate(self.clean_tokens))
        corrupted = tuple(as_row(row, f"corrupted prompt {i}") for i, row in enumerate(self.corrupted_tokens))
        answers = as_ids(self.answers, "answers")
        if not clean:
            raise TaskError(f"{self.name!r} has no prompts: give at least one pair.")
        if len(clean) != len(corrupted) or answers.shape != (len(clean), 2):
            raise TaskError(
                f"{self.name!r} has {len(clean)} clean and {len(corrupted)} corrupted prompts and answers of "
                f"shape {list(answers.shape)}: give as many of each, the answers as [example, 2]."
            )
        for i, (one, other) in enumerate(zip(clean, corrupted, strict=True)):
            check_pair(i, one, other, str)
            right, wrong = answers[i].tolist()
            if right == wrong or min(right, wrong) < 0:
                raise TaskError(
                    f"Pair {i} has the answers {right} (right) and {wrong} (wrong): they must be two "
                    "different token ids, or the logit difference says nothing."
                )
        roles = {role: as_ids(positions, f"role {role!r}") for role, positions in self.roles.items()}
        lengths = torch.tensor([len(row) for row in clean])
        for role, positions in roles.items():
            if positions.shape != lengths.shape or not ((positions >= 0) & (positions < lengths)).all():
                raise TaskError(
                    f"Role {role!r} must give one position inside each of the {len(clean)} prompts, "
                    f"not {positions.tolist()}."
                )
        if self.groups and len(self.groups) != len(clean):
            raise TaskError(f"{self.name!r} has {len(clean)} pairs and {len(self.groups)} groups: give one for each.")
        for key, value in self.metadata.items():
            if not isinstance(value, str | int | float):
                raise TaskError(f"metadata {key!r} must be a str, int or float to be saved, not {value!r}.")
        tokens = {"clean_tokens": clean, "corrupted_tokens": corrupted, "answers": answers}
        for attribute, normalised in {**tokens, "roles": roles, "metadata": dict(self.metadata)}.items():
            object.__setattr__(self, attribute, normalised)

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.clean_tokens)

    def __repr__(self) -> str:
        lengths = sorted({len(row) for row in self.clean_tokens})
        return f"PromptPairs({self.name!r}, {len(self)} pairs of {' or '.join(map(str, lengths))} tokens)"

    def buckets(self) -> list[Int[Tensor, " example"]]:
        """Indices of the pairs of equal length, one tensor a length, shortest first."""
        lengths = torch.tensor([len(row) for row in self.clean_tokens])
        return [torch.nonzero(lengths == length).flatten() for length in lengths.unique()]

    def select(self, indices: Int[Tensor, " chosen"] | Sequence[int]) -> PromptPairs:
        """The pairs at `indices`, in that order; ``compute_metric`` still sees each pair's own number.

        Raises:
            TaskError: An index out of range, or none given.
        """
        chosen = as_ids(indices, "indices").flatten().tolist()
        if not chosen or not all(0 <= i < len(self) for i in chosen):
            raise TaskError(f"Cannot select pairs {chosen}: give some of 0 to {len(self) - 1}.")
        metric = self.compute_metric
        return replace(
            self,
            clean_tokens=tuple(self.clean_tokens[i] for i in chosen),
            corrupted_tokens=tuple(self.corrupted_tokens[i] for i in chosen),
            answers=self.answers[chosen],
            roles={role: positions[chosen] for role, positions in self.roles.items()},
            groups=tuple(self.groups[i] for i in chosen) if self.groups else (),
            compute_metric=None if metric is None else lambda logits, i: metric(logits, chosen[i]),
        )

    def reversed(self) -> PromptPairs:
        """Clean and corrupted change places, and the right and the wrong answer with them."""
        return replace(
            self,
            clean_tokens=self.corrupted_tokens,
            corrupted_tokens=self.clean_tokens,
            answers=self.answers.flip(1),
            name=f"{self.name}, reversed",
        )

    def clean_batch(self) -> Int[Tensor, "example pos"]:
        """The clean prompts as one tensor; TaskError when their lengths differ."""
        return self._batch(self.clean_tokens)

    def corrupted_batch(self) -> Int[Tensor, "example pos"]:
        """The corrupted prompts as one tensor; TaskError when their lengths differ."""
        return self._batch(self.corrupted_tokens)

    def _batch(self, rows: tuple[Int[Tensor, " pos"], ...]) -> Int[Tensor, "example pos"]:
        lengths = sorted({len(row) for row in rows})
        if len(lengths) > 1:
            raise TaskError(f"Prompts of {lengths} tokens make no one batch: select one of buckets() first.")
        return torch.stack(rows)

    def example_prompts(self, model: TransformerBridge) -> dict[str, list[str]]:
        """Texts for labels, one per pair: clean_prompt, corrupted_prompt, answer and wrong_answer."""
        return {
            "clean_prompt": [model.to_string(row) for row in self.clean_tokens],
            "corrupted_prompt": [model.to_string(row) for row in self.corrupted_tokens],
            "answer": [model.to_string([right]) for right in self.answers[:, 0].tolist()],
            "wrong_answer": [model.to_string([wrong]) for wrong in self.answers[:, 1].tolist()],
        }


class PatchingDataset(ABC):
    """A task in text: subclass it with a name, pairs of prompts, and the two answers of each pair."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What plots and results call the task."""

    @abstractmethod
    def get_clean_corrupt_pairs(self) -> list[tuple[str, str]]:
        """(clean prompt, corrupted prompt) for each pair; both must have the same number of tokens."""

    @abstractmethod
    def get_target_tokens(self, pair_idx: int) -> tuple[int, int]:
        """Token ids (right, wrong) of the clean prompt's next token."""

    def compute_metric(self, logits: Float[Tensor, "1 pos d_vocab"], pair_idx: int) -> float:
        """Logit of the right minus logit of the wrong answer at the last position; override for another."""
        right, wrong = self.get_target_tokens(pair_idx)
        return (logits[0, -1, right] - logits[0, -1, wrong]).item()

    def to_pairs(self, model: TransformerBridge) -> PromptPairs:
        """Tokenise the prompts with the model's own BOS setting, and check that they can be patched.

        Raises:
            AlignmentError: A clean and a corrupted prompt differ in their number of tokens.
            TaskError: An empty task, an answer that is not one token, a prompt longer than the context.
        """
        prompts = [tuple(pair) for pair in self.get_clean_corrupt_pairs()]
        if any(len(pair) != 2 for pair in prompts):
            raise TaskError(f"get_clean_corrupt_pairs() of {self.name!r} must give pairs (clean, corrupted).")
        clean = [tokenize(model, text) for text, _ in prompts]
        corrupted = [tokenize(model, text) for _, text in prompts]
        for i, (one, other) in enumerate(zip(clean, corrupted, strict=True)):
            check_pair(i, one, other, lambda token: repr(model.to_string([token])))
        own = type(self).compute_metric is not PatchingDataset.compute_metric
        pairs = PromptPairs(
            clean_tokens=tuple(clean),
            corrupted_tokens=tuple(corrupted),
            answers=torch.tensor([self._answers(i) for i in range(len(prompts))], dtype=torch.long),
            name=self.name,
            compute_metric=self.compute_metric if own else None,
        )
        return fitting(model, pairs)

    def _answers(self, i: int) -> tuple[int, int]:
        try:
            answers = tuple(self.get_target_tokens(i))
        except AssertionError as error:  # how TransformerLens says "not a single token"
            raise TaskError(
                f"Pair {i} of {self.name!r} has no usable answer: {error} Choose an answer that is one token "
                "for this model; most words need their leading space (' Mary')."
            ) from error
        if len(answers) != 2 or not all(isinstance(token, Integral) for token in answers):
            raise TaskError(f"get_target_tokens({i}) of {self.name!r} must give two ids, not {answers}.")
        return answers


def as_pairs(model: TransformerBridge, task: PatchingDataset | PromptPairs) -> PromptPairs:
    """Any task as PromptPairs that fit the model; TaskError where they do not."""
    if isinstance(task, PatchingDataset):
        return task.to_pairs(model)
    if isinstance(task, PromptPairs):
        return fitting(model, task)
    what = task.__name__ if isinstance(task, type) else type(task).__name__
    raise TaskError(f"A task is a PatchingDataset (an instance, not the class) or PromptPairs, not {what}.")


def whole_number(setting: str, value: object, least: int) -> int:
    """`value` as an int; TaskError unless it is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise TaskError(f"{setting} must be a whole number of {least} or more, not {value!r}.")
    return int(value)


def fitting(model: TransformerBridge, pairs: PromptPairs) -> PromptPairs:
    """The same pairs; TaskError where they are longer than the model's context or have ids that it does not know."""
    longest = max(len(row) for row in pairs.clean_tokens)
    if longest > model.cfg.n_ctx:
        raise TaskError(
            f"{pairs.name!r} has a prompt of {longest} tokens, but {model.cfg.model_name} reads at most "
            f"{model.cfg.n_ctx}: shorten it."
        )
    ids = torch.cat([*pairs.clean_tokens, *pairs.corrupted_tokens, pairs.answers.flatten()])
    outside = ids[(ids < 0) | (ids >= model.cfg.d_vocab)]
    if len(outside):
        raise TaskError(
            f"{pairs.name!r} has the token id {outside[0].item()}, but {model.cfg.model_name} knows 0 to "
            f"{model.cfg.d_vocab - 1}: tokenise with this model's tokenizer."
        )
    return pairs
