"""A task of the field: prompts drawn from wordings and words, of which those are kept that suit the tokenizer."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from string import Formatter
from typing import Any, ClassVar

import yaml
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_count, check_seed
from patchlib.errors import TaskError
from patchlib.models.check import check_model
from patchlib.tasks.base import PatchingDataset
from patchlib.tasks.pairs import PromptPairs
from patchlib.tasks.spans import Span, find_span, token_offsets
from patchlib.tasks.tokens import following, text_of, tokenize_all

WORDS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text("utf-8"))
MOST_TRIED = 100
"""Drawn prompts for each that is wanted, before it is said that too few suit the tokenizer."""
MOST_PROMPTS = 10_000


@dataclass(frozen=True)
class Prompt:
    """One pair as a task draws it.

    Attributes:
        clean, corrupted: In text.
        right, wrong: Texts that follow the clean prompt; where they begin with the same token, that is put at the end
            of the prompts.
        wording: What prompts share that differ in words alone.
        roles: Name -> ``Span`` of the clean prompt.
        ids: The right and the wrong answers as ids, instead of texts.
    """

    clean: str
    corrupted: str
    right: str = ""
    wrong: str = ""
    wording: str = ""
    roles: Mapping[str, Span] = field(default_factory=dict)
    ids: tuple[list[int], list[int]] | None = None


class FieldTask(PatchingDataset):
    """What the field's tasks have in common: a subclass draws prompts, and those are kept that suit the tokenizer.

    A prompt suits it if both versions have as many tokens, each answer is one token, and no other prompt is the same.
    Fewer prompts with the same seed are the first of the same prompts.

    Args:
        model: Whose tokenizer the words must suit.
        n_prompts: How many.
        seed: Of this task's own random generator.

    Raises:
        TaskError: A setting out of range, or too few prompts that suit the tokenizer.
    """

    name = "a task of the field"
    source: ClassVar[str] = ""
    """Where the task comes from."""
    asks: ClassVar[str] = ""
    """What it asks of a model, in a sentence."""
    corrupted_answer: ClassVar[str] = "wrong"
    """Which answer the corrupted prompts call for."""
    apart: ClassVar[tuple[str, ...]] = ()
    """Roles that must be different tokens."""

    def __init__(self, model: TransformerBridge, n_prompts: int = 32, seed: int = 0) -> None:
        check_model(model)
        self.model = model
        self.seed = check_seed(seed, error=TaskError)
        n_prompts = check_count("n_prompts", n_prompts, error=TaskError, most=MOST_PROMPTS)
        self._prompts = self._suiting(n_prompts)

    @abstractmethod
    def draw(self, rng: random.Random) -> Iterator[Prompt]:
        """Prompts, one after the other, as many as are asked for; some may be unsuitable."""

    def _suiting(self, n_prompts: int) -> list[Prompt]:
        rng = random.Random(f"{self.seed} {self.name}")
        kept: dict[tuple[str, str], Prompt] = {}
        n_tried = 0
        for drawn in islice(self.draw(rng), MOST_TRIED * n_prompts):
            n_tried += 1
            prompt = self._suited(drawn)
            if prompt is not None:
                kept.setdefault((prompt.clean, prompt.corrupted), prompt)
            if len(kept) == n_prompts:
                return list(kept.values())
        raise TaskError(
            f"Only {len(kept)} of {n_tried} drawn prompts of {self.name!r} suit this model's tokenizer (as many tokens "
            f"in both versions, answers of one token, none twice), and {n_prompts} are needed: ask for fewer, or take "
            "a model with a larger vocabulary."
        )

    def _suited(self, prompt: Prompt) -> Prompt | None:
        """The prompt with its answers as ids, if it suits the tokenizer."""
        if prompt.ids is None:
            tokens = [following(self.model, prompt.clean, text) for text in (prompt.right, prompt.wrong)]
            # A space before digits, in some tokenizers.
            shared = next((i for i, (a, b) in enumerate(zip(*tokens, strict=False)) if a != b), min(map(len, tokens)))
            if shared:
                behind = text_of(self.model, tokens[0][:shared])
                prompt = replace(prompt, clean=prompt.clean + behind, corrupted=prompt.corrupted + behind)
            right, wrong = (row[shared : shared + self.n_answer_tokens(row[shared:])] for row in tokens)
            if len(right) != 1 or len(wrong) != 1:
                return None
            prompt = replace(prompt, ids=(right, wrong))
        clean, corrupted = tokenize_all(self.model, [prompt.clean, prompt.corrupted])
        if len(clean) != len(corrupted) or clean == corrupted:
            return None
        (offsets,) = token_offsets(self.model, [prompt.clean], [clean])
        where = [find_span(prompt.clean, offsets, prompt.roles[role])[-1] for role in self.apart]
        return prompt if len(set(where)) == len(where) else None

    def n_answer_tokens(self, row: Sequence[int]) -> int:
        """How many of an answer's tokens are read: all, so that longer ones do not suit."""
        return len(row)

    def get_clean_corrupt_pairs(self) -> list[tuple[str, str]]:
        """(clean, corrupted) prompts as text."""
        return [(prompt.clean, prompt.corrupted) for prompt in self._prompts]

    def get_target_tokens(self, pair_idx: int) -> Any:
        """Token ids of the right and of the wrong answer to the clean prompt, or sets of them."""
        ids = self._prompts[pair_idx].ids
        assert ids is not None  # or the prompt were not kept
        right, wrong = ids
        return (set(right), set(wrong)) if len(right) + len(wrong) > 2 else (right[0], wrong[0])

    def get_roles(self, pair_idx: int) -> Mapping[str, Any]:
        """The named words of a clean prompt."""
        return self._prompts[pair_idx].roles

    def to_pairs(self, model: TransformerBridge) -> PromptPairs:
        """Tokens, answers, roles, and the wordings as clusters."""
        pairs = super().to_pairs(model)
        return replace(
            pairs,
            seed=self.seed,
            clusters=tuple(prompt.wording for prompt in self._prompts),
            metadata={"corrupted_answer": self.corrupted_answer, "source": self.source, "n_prompts": len(pairs)},
        )


def filled(wording: str, **fills: Any) -> tuple[str, dict[str, list[tuple[int, int]]]]:
    """A wording with its slots filled, and where each slot's words stand: (start, end) in characters, in order."""
    text = ""
    places: dict[str, list[tuple[int, int]]] = {}
    for before, slot, *_ in Formatter().parse(wording):
        text += before
        if slot is not None:
            places.setdefault(slot, []).append((len(text), len(text) + len(str(fills[slot]))))
            text += str(fills[slot])
    return text, places


def dealt(rng: random.Random, values: Sequence[Any]) -> Iterator[Any]:
    """Values in random order, each once before any comes again."""
    while True:
        yield from rng.sample(values, len(values))
