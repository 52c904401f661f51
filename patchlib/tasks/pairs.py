"""PromptPairs: clean and corrupted prompts as tokens, lined up position by position."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib.errors import TaskError
from patchlib.tasks.tokens import as_ids, as_row, check_pair

TaskMetric = Callable[[Float[Tensor, "1 pos d_vocab"], int], float]


@dataclass(frozen=True, eq=False)
class PromptPairs:
    """Clean and corrupted prompts as tokens, aligned position by position, with two answers for each pair.

    Rows and answers may be given as tensors or as lists of ids; they are stored as int64 tensors on the CPU.
    The metric reads the last position of each prompt. BOS, where the model wants one, is part of the row.

    Args:
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
    index: Int[Tensor, " example"] = field(init=False)

    def __post_init__(self) -> None:
        clean = tuple(as_row(row, f"clean prompt {i}") for i, row in enumerate(self.clean_tokens))
        corrupted = tuple(as_row(row, f"corrupted prompt {i}") for i, row in enumerate(self.corrupted_tokens))
        answers = as_ids(self.answers, "answers")
        roles = {role: as_ids(positions, f"role {role!r}") for role, positions in self.roles.items()}
        if not clean:
            raise TaskError(f"{self.name!r} has no prompts: give at least one pair.")
        if len(clean) != len(corrupted) or answers.shape != (len(clean), 2):
            raise TaskError(
                f"{self.name!r} has {len(clean)} clean and {len(corrupted)} corrupted prompts and answers of "
                f"shape {list(answers.shape)}: give as many of each, the answers as [example, 2]."
            )
        if self.groups and len(self.groups) != len(clean):
            raise TaskError(f"{self.name!r} has {len(clean)} pairs and {len(self.groups)} groups: give one for each.")
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
                    f"not {positions.tolist()}."
                )
        for setting, value in self.metadata.items():
            if not isinstance(value, str | int | float):
                raise TaskError(f"metadata {setting!r} must be a str, int or float to be saved, not {value!r}.")
        # The class is frozen, so that nobody edits prompts under a sweep: only here are values put into their form.
        vars(self).update(clean_tokens=clean, corrupted_tokens=corrupted, answers=answers)
        vars(self).update(roles=roles, metadata=dict(self.metadata), index=torch.arange(len(clean)))

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.clean_tokens)

    def __repr__(self) -> str:
        lengths = sorted({len(row) for row in self.clean_tokens})
        count = f"{len(self)} pair{'s' if len(self) > 1 else ''}"
        return f"PromptPairs({self.name!r}, {count} of {' or '.join(map(str, lengths))} tokens)"

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
        chosen = as_ids(indices, "indices").flatten().tolist()
        if not chosen or not all(0 <= i < len(self) for i in chosen):
            raise TaskError(f"Cannot select pairs {chosen}: give some of 0 to {len(self) - 1}.")
        metric = self.compute_metric
        selected = replace(
            self,
            clean_tokens=tuple(self.clean_tokens[i] for i in chosen),
            corrupted_tokens=tuple(self.corrupted_tokens[i] for i in chosen),
            answers=self.answers[chosen],
            roles={role: positions[chosen] for role, positions in self.roles.items()},
            groups=tuple(self.groups[i] for i in chosen) if self.groups else (),
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
            Lists by ``clean_prompt``, ``corrupted_prompt``, ``answer`` and ``wrong_answer``.

        Example:
            >>> texts = task.to_pairs(model).example_prompts(model)
            >>> texts["clean_prompt"][0]
            '<|im_start|>The old friends Melissa and Edward met at the barn. Edward gave the bowl to'
            >>> texts["answer"][0]
            ' Melissa'
        """
        return {
            "clean_prompt": [model.to_string(row) for row in self.clean_tokens],
            "corrupted_prompt": [model.to_string(row) for row in self.corrupted_tokens],
            "answer": [model.to_string([right]) for right in self.answers[:, 0].tolist()],
            "wrong_answer": [model.to_string([wrong]) for wrong in self.answers[:, 1].tolist()],
        }


def check_fits(model: TransformerBridge, pairs: PromptPairs) -> PromptPairs:
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
