"""Induction: a row of random words begins again, and what came next the first time has to come next."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import torch
from transformer_lens.model_bridge import TransformerBridge

from patchlib.errors import TaskError
from patchlib.tasks.base import PatchingDataset, PromptPairs, whole_number
from patchlib.tasks.tokens import single_tokens

WORD = re.compile(r"[A-Za-z]{3,}")
POOL = 8192
"""Token ids that are looked at, drawn at random from the vocabulary: many more words than a prompt needs."""


class InductionDataset(PatchingDataset):
    """Repeated random words: r0 r1 ... r[L-1] r0 ... rk, where r[k+1] has to follow (Olsson et al. 2022).

    In the corrupted prompt another random word x stands in the place of r[k+1] in the first copy, so that x
    has to follow: the right answer is r[k+1], the wrong one x. The second copy breaks off at k = L // 2.
    Words are whole words of the model's own vocabulary, so that the prompts' texts and tokens say the same.

    Roles: "source" is the first rk, "source+1" the word to copy, "current" the second rk, the last token.

    Args:
        model: Whose vocabulary the words come from.
        n_prompts: How many.
        seed: Of this dataset's own random generator.
        seq_len: L, the words in the first copy, at least 4.

    Raises:
        TaskError: A setting out of range, or too few whole words in the vocabulary.
    """

    def __init__(self, model: TransformerBridge, n_prompts: int = 8, seed: int = 0, seq_len: int = 16) -> None:
        self.model = model
        self.seed = whole_number("seed", seed, least=0)
        self.seq_len = whole_number("seq_len", seq_len, least=4)
        self._last = self.seq_len // 2
        rng = random.Random(self.seed)
        pool = _whole_words(model, rng)
        if len(pool) <= seq_len:
            raise TaskError(
                f"Only {len(pool)} tokens of this model are whole words, and seq_len={seq_len} needs "
                f"{seq_len + 1}: make seq_len smaller."
            )
        self._rows: list[tuple[list[int], list[int]]] = []
        for _ in range(whole_number("n_prompts", n_prompts, least=1)):
            *first, other = rng.sample(pool, seq_len + 1)
            corrupted = first.copy()
            corrupted[self._last + 1] = other
            again = first[: self._last + 1]
            self._rows.append((first + again, corrupted + again))
        self.to_pairs(model)  # raises where a text does not turn back into its tokens

    @property
    def name(self) -> str:
        """The task's name in plots and results."""
        return "Induction (repeated random words)"

    def get_clean_corrupt_pairs(self) -> list[tuple[str, str]]:
        """(clean, corrupted) prompts as text."""
        show = self.model.to_string
        return [(show(clean), show(corrupted)) for clean, corrupted in self._rows]

    def get_target_tokens(self, pair_idx: int) -> tuple[int, int]:
        """Token ids of r[k+1] and of the word that stands in its place in the corrupted prompt."""
        clean, corrupted = self._rows[pair_idx]
        return clean[self._last + 1], corrupted[self._last + 1]

    def to_pairs(self, model: TransformerBridge) -> PromptPairs:
        """Tokens, answers, and the roles source, source+1 and current of each prompt."""
        pairs = super().to_pairs(model)
        end = len(pairs.clean_tokens[0]) - 1
        for row, (words, _) in zip(pairs.clean_tokens, self._rows, strict=True):
            if row[-len(words) :].tolist() != words or len(row) != end + 1:
                raise TaskError(
                    "An induction prompt's words do not turn back into the same tokens: make the dataset "
                    "with the model that it is used on, or give your own tokens as PromptPairs."
                )
        source = torch.full((len(pairs),), end - self.seq_len)
        return replace(
            pairs,
            roles={"source": source, "source+1": source + 1, "current": source + self.seq_len},
            seed=self.seed,
            metadata={"corruption": "next_token", "seq_len": self.seq_len, "n_prompts": len(pairs)},
        )


def _whole_words(model: TransformerBridge, rng: random.Random) -> list[int]:
    """Ids of tokens that stand for one whole word, in random order."""
    size = min(len(model.tokenizer), model.cfg.d_vocab)
    ids = rng.sample(range(size), min(size, POOL))
    texts = model.tokenizer.batch_decode([[token] for token in ids], clean_up_tokenization_spaces=False)
    words = dict.fromkeys(text.strip() for text in texts if WORD.fullmatch(text.strip()))
    return list(single_tokens(model, words).values())
