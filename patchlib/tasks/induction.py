"""Induction: something begins again, and what came next the first time has to come next."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Literal

import torch
from transformer_lens.model_bridge import TransformerBridge

from patchlib.errors import TaskError
from patchlib.tasks.base import PatchingDataset, PromptPairs, fitting, whole_number
from patchlib.tasks.induction_words import BETWEEN, LAST_NAMES, WORDINGS
from patchlib.tasks.ioi_words import NAMES
from patchlib.tasks.tokens import single_tokens, tokenize

WORD = re.compile(r"[A-Za-z]{3,}")
POOL = 8192
"""Token ids that are looked at, drawn at random from the vocabulary: many more words than a prompt needs."""
KINDS = ("words", "tokens", "names")
CORRUPTIONS = ("next_token", "token")


@dataclass(frozen=True)
class _Prompt:
    """One pair: ids without BOS, the index of the token that comes back, and the two answers."""

    clean: list[int]
    corrupted: list[int]
    source: int
    answers: tuple[int, int]
    group: str


class InductionDataset(PatchingDataset):
    """Something that begins again: the token that followed the first time has to follow (Olsson et al. 2022).

    Kinds:
        words: Random whole words of the vocabulary, r0 ... r[L-1] r0 ... rk with k = L // 2: r[k+1] has to follow.
        tokens: The same with any tokens but special ones, as in Olsson et al.; their text need not turn back into them.
        names: People in running text, named in full first and then by the first name: the last name has to follow.

    Corruptions, each of which breaks one thing in the first copy:
        next_token: Another token x stands in the place of the one to copy, so that x has to follow. The right answer is
            the one to copy, the wrong one x.
        token: Another token stands in the place of the one that comes back, so that nothing comes back at the end and
            nothing is to be copied. The wrong answer is another word of the first copy, or another last name.

    Roles: "source" is the first time, "source+1" the token to copy, "current" the second time, the last token.

    Args:
        model: Whose vocabulary the words come from.
        n_prompts: How many.
        seed: Of this dataset's own random generator.
        seq_len: L, the words or tokens in the first copy, at least 4; of no account for names.
        kind: One of the three above.
        gap: How many other words or tokens stand between the copies; for names, how many sentences (at most 8).
        corruption: One of the two above.

    Raises:
        TaskError: A setting out of range, or too few whole words or single-token names in the vocabulary.
    """

    def __init__(
        self,
        model: TransformerBridge,
        n_prompts: int = 8,
        seed: int = 0,
        seq_len: int = 16,
        kind: Literal["words", "tokens", "names"] = "words",
        gap: int = 0,
        corruption: Literal["next_token", "token"] = "next_token",
    ) -> None:
        for setting, value, choices in (("kind", kind, KINDS), ("corruption", corruption, CORRUPTIONS)):
            if value not in choices:
                raise TaskError(f"Unknown {setting} {value!r}: choose from {', '.join(choices)}.")
        self.model, self.kind, self.corruption = model, kind, corruption
        self.seed = whole_number("seed", seed, least=0)
        self.seq_len = whole_number("seq_len", seq_len, least=4)
        self.gap = whole_number("gap", gap, least=0)
        count, rng = whole_number("n_prompts", n_prompts, least=1), random.Random(self.seed)
        self._prompts = self._people(rng, count) if kind == "names" else self._repeats(rng, count)
        self.to_pairs(model)  # raises where a text does not turn back into its tokens, or is too long

    def _repeats(self, rng: random.Random, count: int) -> list[_Prompt]:
        pool = _whole_words(self.model, rng) if self.kind == "words" else _ordinary(self.model)
        needed = self.seq_len + self.gap + 1
        if len(pool) < needed:
            raise TaskError(
                f"Only {len(pool)} tokens of this model are whole words, and seq_len={self.seq_len} needs "
                f"{needed}{f' with gap={self.gap}' if self.gap else ''}: make it smaller."
            )
        source, found = self.seq_len // 2, []
        for _ in range(count):
            *drawn, other = rng.sample(pool, needed)
            first, between = drawn[: self.seq_len], drawn[self.seq_len :]
            broken = first.copy()
            broken[source + (self.corruption == "next_token")] = other
            wrong = other if self.corruption == "next_token" else first[source - 1]
            rest = between + first[: source + 1]
            found.append(_Prompt(first + rest, broken + rest, source, (first[source + 1], wrong), ""))
        return found

    def _people(self, rng: random.Random, count: int) -> list[_Prompt]:
        if self.gap > len(BETWEEN):
            raise TaskError(f"gap={self.gap} sentences cannot be had: there are {len(BETWEEN)}.")
        first_names, last_names = single_tokens(self.model, NAMES), single_tokens(self.model, LAST_NAMES)
        for what, names in (("first", first_names), ("last", last_names)):
            if len(names) < 2:
                raise TaskError(f"Only {len(names)} {what} names are single tokens for this model: take another kind.")
        pairs = [(first, last) for first in first_names for last in last_names]
        if count > len(pairs):
            raise TaskError(f"n_prompts={count} is more than the {len(pairs)} full names that there are.")
        deck, found = rng.sample(WORDINGS, len(WORDINGS)), []
        for i, (first, last) in enumerate(rng.sample(pairs, count)):
            between = "".join(rng.sample(BETWEEN, self.gap))
            wording = deck[i % len(deck)]
            other_first, other_last = (
                rng.choice([name for name in names if name != own])
                for names, own in ((first_names, first), (last_names, last))
            )
            text = wording.format(first=first, last=last, between=between)
            clean = tokenize(self.model, text).tolist()[_n_bos(self.model) :]
            source = clean.index(first_names[first])
            corrupted = clean.copy()
            if self.corruption == "next_token":
                corrupted[source + 1] = last_names[other_last]
            else:
                corrupted[source] = first_names[other_first]
            answers = last_names[last], last_names[other_last]
            found.append(_Prompt(clean, corrupted, source, answers, wording))
        return found

    @property
    def name(self) -> str:
        """The task's name in plots and results."""
        what = {"words": "repeated random words", "tokens": "repeated random tokens", "names": "names in text"}
        return f"Induction ({what[self.kind]})"

    def get_clean_corrupt_pairs(self) -> list[tuple[str, str]]:
        """(clean, corrupted) prompts as text."""
        show = self.model.to_string
        return [(show(one.clean), show(one.corrupted)) for one in self._prompts]

    def get_target_tokens(self, pair_idx: int) -> tuple[int, int]:
        """Token ids of what has to follow and of the wrong answer."""
        return self._prompts[pair_idx].answers

    def to_pairs(self, model: TransformerBridge) -> PromptPairs:
        """Tokens, answers, and the roles source, source+1 and current of each prompt."""
        texts = [] if self.kind == "tokens" else self.get_clean_corrupt_pairs()
        bos = [int(model.tokenizer.bos_token_id)] * _n_bos(model)
        for one, pair in zip(self._prompts, texts, strict=False):
            if [tokenize(model, text).tolist() for text in pair] != [bos + one.clean, bos + one.corrupted]:
                raise TaskError(
                    "An induction prompt's words do not turn back into the same tokens: make the dataset "
                    "with the model that it is used on, or give your own tokens as PromptPairs."
                )
        source = torch.tensor([len(bos) + one.source for one in self._prompts])
        ends = torch.tensor([len(bos) + len(one.clean) - 1 for one in self._prompts])
        settings = {"gap": self.gap} if self.kind == "names" else {"gap": self.gap, "seq_len": self.seq_len}
        pairs = PromptPairs(
            clean_tokens=tuple(torch.tensor(bos + one.clean) for one in self._prompts),
            corrupted_tokens=tuple(torch.tensor(bos + one.corrupted) for one in self._prompts),
            answers=torch.tensor([one.answers for one in self._prompts]),
            roles={"source": source, "source+1": source + 1, "current": ends},
            name=self.name,
            seed=self.seed,
            groups=tuple(one.group for one in self._prompts) if self.kind == "names" else (),
            metadata={
                "corruption": self.corruption,
                "kind": self.kind,
                **settings,
                "n_prompts": len(self._prompts),
            },
        )
        return fitting(model, pairs)


def _n_bos(model: TransformerBridge) -> int:
    """How many BOS tokens the model's own tokenisation puts first: one or none."""
    return len(tokenize(model, "a")) - len(model.tokenizer(["a"], add_special_tokens=False)["input_ids"][0])


def _whole_words(model: TransformerBridge, rng: random.Random) -> list[int]:
    """Ids of tokens that stand for one whole word, in random order."""
    size = min(len(model.tokenizer), model.cfg.d_vocab)
    ids = rng.sample(range(size), min(size, POOL))
    texts = model.tokenizer.batch_decode([[token] for token in ids], clean_up_tokenization_spaces=False)
    words = dict.fromkeys(text.strip() for text in texts if WORD.fullmatch(text.strip()))
    return list(single_tokens(model, words).values())


def _ordinary(model: TransformerBridge) -> list[int]:
    """All ids but those of special tokens."""
    special = set(model.tokenizer.all_special_ids)
    return [token for token in range(min(len(model.tokenizer), model.cfg.d_vocab)) if token not in special]


def repeated_tokens(model: TransformerBridge, n_rows: int = 8, seq_len: int = 25, seed: int = 0) -> PromptPairs:
    """Rows of random tokens that come twice, whole, for losses, scores and ablations (Olsson et al. 2022, argument 1).

    In the corrupted rows the second half is random as well, so that nothing comes twice: the reference in which there
    is nothing to copy. The answers are the last token and the one in its place in the corrupted row.

    Args:
        model: Whose tokens.
        n_rows: How many.
        seq_len: Tokens in one copy, at least 2.
        seed: Of the draw.

    Returns:
        Pairs with the role ``copy``, the position of the second copy's first token.

    Raises:
        TaskError: A setting out of range, or rows that the model's context does not hold.
    """
    n_rows, seq_len = whole_number("n_rows", n_rows, least=1), whole_number("seq_len", seq_len, least=2)
    generator = torch.Generator().manual_seed(whole_number("seed", seed, least=0))
    vocab = int(model.cfg.d_vocab)
    once = torch.randint(vocab, (n_rows, seq_len), generator=generator)
    other = torch.randint(vocab, (n_rows, seq_len), generator=generator)
    # The answers must differ; the generator may draw one token twice.
    other[:, -1] = torch.where(other[:, -1] == once[:, -1], (once[:, -1] + 1) % vocab, other[:, -1])
    n_bos = _n_bos(model)
    bos = torch.full((n_rows, n_bos), int(model.tokenizer.bos_token_id) if n_bos else 0)
    return fitting(
        model,
        PromptPairs(
            clean_tokens=tuple(torch.cat([bos, once, once], dim=1)),
            corrupted_tokens=tuple(torch.cat([bos, once, other], dim=1)),
            answers=torch.stack([once[:, -1], other[:, -1]], dim=1),
            roles={"copy": torch.full((n_rows,), n_bos + seq_len)},
            name="repeated random tokens",
            seed=seed,
            metadata={"seq_len": seq_len, "n_prompts": n_rows},
        ),
    )
