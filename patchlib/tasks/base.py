"""A task in text, as users write one, and any task as the tokens that a sweep runs."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_kind, check_text, is_index, listed, shown
from patchlib.errors import TaskError
from patchlib.models.check import check_model
from patchlib.tasks.answer_sets import is_many
from patchlib.tasks.answers import warn_of_answers
from patchlib.tasks.pairs import PromptPairs, check_fits
from patchlib.tasks.spans import named_positions
from patchlib.tasks.tokens import check_pair, tokenize


class PatchingDataset(ABC):
    """A task in text: subclass it with a name, pairs of prompts, and the two answers of each pair.

    Example:
        >>> class Agreement(patchlib.PatchingDataset):
        ...     name = "number agreement"
        ...
        ...     def __init__(self, model):
        ...         self.model = model
        ...
        ...     def get_clean_corrupt_pairs(self):
        ...         return [("The keys to the cabinet", "The key to the cabinet")]
        ...
        ...     def get_target_tokens(self, pair_idx):
        ...         return self.model.to_single_token(" are"), self.model.to_single_token(" is")
        ...
        ...     def get_roles(self, pair_idx):  # may be left out: END, the last token, is always there
        ...         return {"noun": "keys"}
        >>> agreement = Agreement(model)
        >>> pairs = agreement.to_pairs(model)
        >>> pairs
        PromptPairs('number agreement', 1 pair of 6 tokens)
        >>> pairs.roles
        {'noun': tensor([2]), 'END': tensor([5])}

        The logit difference says whether the model sees which noun it is:

        >>> for tokens in (pairs.clean_batch(), pairs.corrupted_batch()):
        ...     print(round(agreement.compute_metric(model(tokens), 0), 1))
        1.2
        -3.7
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What plots and results call the task."""

    @abstractmethod
    def get_clean_corrupt_pairs(self) -> list[tuple[str, str]]:
        """(clean prompt, corrupted prompt) for each pair; both must have the same number of tokens."""

    @abstractmethod
    def get_target_tokens(self, pair_idx: int) -> tuple[int, int]:
        """Token ids (right, wrong) of the clean prompt's next token.

        Either may be a Python set of ids, of which any is right (wrong), or a list of ids, an answer of several tokens.
        """

    def get_roles(self, pair_idx: int) -> Mapping[str, Any]:
        """Names for tokens of the clean prompt, such as {"noun": "keys"}; END, the last one, is always there.

        A name stands for the last token of a text (its first, or all of them, with a ``Span``), for the one of several
        occurrences with (text, occurrence), or for a token index, below 0 from the end. All pairs have the same names.
        """
        return {}

    def compute_metric(self, logits: Float[Tensor, "1 pos d_vocab"], pair_idx: int) -> float:
        """Logit of the right minus logit of the wrong answer at the last position; override for another.

        Of sets of answers, the log of their summed odds; of answers of several tokens, the first.
        """
        right, wrong = (
            logits[0, -1, sorted(part) if isinstance(part, set | frozenset) else listed(part)[:1]].logsumexp(-1)
            for part in self.get_target_tokens(pair_idx)
        )
        return float(right - wrong)

    def to_pairs(self, model: TransformerBridge) -> PromptPairs:
        """Tokenise the prompts with the model's own BOS setting, and check that they can be patched.

        Args:
            model: Whose tokenizer reads them, and whose context must hold them.

        Returns:
            The task as tokens, which every method of patchlib takes in its place.

        Raises:
            AlignmentError: A clean and a corrupted prompt differ in their number of tokens.
            TaskError: An empty task, an answer that is not one token, a prompt longer than the context.

        Example:
            >>> task.to_pairs(model)
            PromptPairs('IOI (Indirect Object Identification)', 4 pairs of 17 tokens)
        """
        check_model(model)
        check_text("The task's name", self.name, TaskError)
        prompts = [tuple(listed(pair)) for pair in listed(self.get_clean_corrupt_pairs())]
        if any(len(pair) != 2 for pair in prompts):
            raise TaskError(f"get_clean_corrupt_pairs() of {self.name!r} must give pairs (clean, corrupted).")
        rows = [[tokenize(model, text) for text in pair] for pair in prompts]
        # PromptPairs checks this too, but has only ids to show; here the message can show the text of each token.
        for i, (clean, corrupted) in enumerate(rows):
            check_pair(i, clean, corrupted, lambda token: repr(model.to_string([token])))
        roles, spans = named_positions(
            model,
            [clean for clean, _ in prompts],
            [clean for clean, _ in rows],
            [
                check_kind("get_roles()", self.get_roles(i), Mapping, "give {name: text}", TaskError)
                for i in range(len(rows))
            ],
            lambda i: f"Pair {i} of {self.name!r}",
        )
        answers: Any = [self._answers(i) for i in range(len(prompts))]
        has_own_metric = type(self).compute_metric is not PatchingDataset.compute_metric
        pairs = PromptPairs(
            clean_tokens=tuple(clean for clean, _ in rows),
            corrupted_tokens=tuple(corrupted for _, corrupted in rows),
            answers=answers,
            roles=roles,
            spans=spans,
            name=self.name,
            compute_metric=self.compute_metric if has_own_metric else None,
        )
        return check_fits(model, pairs)

    def reference(self, model: TransformerBridge, per_template: int = 20) -> PromptPairs:
        """Prompts whose clean versions an ablation takes its mean over, where it is given no other reference.

        Here the task's own corrupted prompts, however many there are. Override it where more can be drawn: a mean over
        a few prompts of a template depends on which they are.

        Args:
            model: Whose tokenizer reads them.
            per_template: How many for each of the task's templates, where they can be drawn.

        Example:
            >>> reference = task.reference(model, per_template=2)  # of an IOIDataset, which draws ABC prompts
            >>> reference
            PromptPairs('IOI (Indirect Object Identification), reversed', 8 pairs of 17 tokens)
            >>> print(model.to_string(reference.clean_tokens[0][1:]))
            The old friends Linda and Raymond met at the store. Andrea gave the notebook to
        """
        return self.to_pairs(model).reversed()

    def _answers(self, i: int) -> tuple[Any, ...]:
        try:
            answers = tuple(listed(self.get_target_tokens(i)))
        except AssertionError as error:  # how TransformerLens says "not a single token"
            raise TaskError(
                f"Pair {i} of {self.name!r} has no usable answer: {error} Choose an answer that is one token "
                "for this model; most words need their leading space (' Mary')."
            ) from error
        if len(answers) != 2 or not all(is_index(token) or is_many(token) for token in answers):
            raise TaskError(f"get_target_tokens({i}) of {self.name!r} must give two ids, not {shown(answers)}.")
        return answers


Task = PatchingDataset | PromptPairs
"""What every method takes: a task in text, or its tokens."""


def as_pairs(model: TransformerBridge, task: Task) -> PromptPairs:
    """Any task as PromptPairs that fit the model.

    Raises:
        SweepError: This is no model that can be patched.
        TaskError: The task is unusable, or does not fit the model.

    Warns:
        AnswerWarning: The model ranks an answer in another spelling.
    """
    check_model(model)
    if not isinstance(task, Task):
        given = task.__name__ if isinstance(task, type) else type(task).__name__
        raise TaskError(f"A task is a PatchingDataset (an instance, not the class) or PromptPairs, not {given}.")
    if isinstance(task, PatchingDataset):
        pairs = task.to_pairs(model)
    else:
        # A task is what was asked for: a part of another one is numbered anew, like the results that it gets.
        pairs = check_fits(model, task if torch.equal(task.index, torch.arange(len(task))) else replace(task))
    warn_of_answers(model, pairs)
    return pairs
