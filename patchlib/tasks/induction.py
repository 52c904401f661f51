"""Induction: something begins again, and what came next the first time has to come next."""

import copy
import itertools
import random
import re
from dataclasses import dataclass
from typing import Literal

import torch
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_choice, check_count, check_seed
from patchlib.errors import TaskError
from patchlib.models.check import check_model
from patchlib.tasks.base import PatchingDataset
from patchlib.tasks.pairs import PromptPairs, check_fits
from patchlib.tasks.tokens import check_length, single_tokens, text_of, tokenize, tokenizer_of
from patchlib.tasks.words import BETWEEN, INDUCTION_WORDINGS, LAST_NAMES, NAMES

WORD = re.compile(r"[A-Za-z]{3,}")
MOST_PROMPTS = 100_000
"""More are a slip of the keyboard, and would take minutes to draw."""
POOL = 8192
"""Token ids that are looked at, drawn at random from the vocabulary: many more words than a prompt needs."""
KINDS = {"words": "repeated random words", "tokens": "repeated random tokens", "names": "names in text"}
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

    Example:
        >>> names = patchlib.InductionDataset(model, n_prompts=1, kind="names")
        >>> for text in names.get_clean_corrupt_pairs()[0]:
        ...     print(text)
        We listened to a talk by Jennifer Wright. At the end we all thanked Jennifer
        We listened to a talk by Jennifer Patterson. At the end we all thanked Jennifer
        >>> [model.to_string([token]) for token in names.get_target_tokens(0)]
        [' Wright', ' Patterson']
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
        check_model(model)
        self.model = model
        self.kind = check_choice("kind", kind, KINDS, error=TaskError)
        self.corruption = check_choice("corruption", corruption, CORRUPTIONS, error=TaskError)
        self.seed = check_seed(seed, error=TaskError)
        self.seq_len = check_count("seq_len", seq_len, least=4, error=TaskError)
        self.gap = check_count("gap", gap, least=0, error=TaskError)
        n_prompts = check_count("n_prompts", n_prompts, error=TaskError, most=MOST_PROMPTS)
        draw = self._names_in_text if kind == "names" else self._repeats
        self._prompts = draw(random.Random(self.seed), n_prompts)
        self.to_pairs(model)  # raises where a text does not turn back into its tokens, or is too long

    def _repeats(self, rng: random.Random, n_prompts: int) -> list[_Prompt]:
        pool = _whole_words(self.model, rng) if self.kind == "words" else _ordinary_tokens(self.model)
        needed = self.seq_len + self.gap + 1
        if len(pool) < needed:
            raise TaskError(
                f"Only {len(pool)} tokens of this model are whole words, and seq_len={self.seq_len} needs "
                f"{needed}{f' with gap={self.gap}' if self.gap else ''}: make it smaller."
            )
        source = self.seq_len // 2
        prompts = []
        for _ in range(n_prompts):
            # All different, so that nothing but the token at `source` comes back at the end.
            *drawn, other = rng.sample(pool, needed)  # the first copy and what stands between; one more
            # Where nothing comes back, the wrong answer is of the first copy too, so that presence is no clue.
            wrong = other if self.corruption == "next_token" else drawn[source - 1]
            prompts.append(self._prompt(drawn + drawn[: source + 1], source, other, wrong))
        return prompts

    def _names_in_text(self, rng: random.Random, n_prompts: int) -> list[_Prompt]:
        if self.gap > len(BETWEEN):
            raise TaskError(f"gap={self.gap} sentences cannot be had: there are {len(BETWEEN)}.")
        first_names = single_tokens(self.model, NAMES, "first names", least=2)
        last_names = single_tokens(self.model, LAST_NAMES, "last names", least=2)
        full_names = list(itertools.product(first_names, last_names))
        if n_prompts > len(full_names):
            raise TaskError(f"n_prompts={n_prompts} is more than the {len(full_names)} full names that there are.")
        wordings = itertools.cycle(rng.sample(INDUCTION_WORDINGS, len(INDUCTION_WORDINGS)))
        prompts = []
        for (first, last), wording in zip(rng.sample(full_names, n_prompts), wordings, strict=False):
            between = "".join(rng.sample(BETWEEN, self.gap))
            text = wording.format(first="{first}", last="{last}", between=between)
            prompts.append(self._person(rng, text, first, last, first_names, last_names))
        return prompts

    def _person(
        self,
        rng: random.Random,
        wording: str,
        first: str,
        last: str,
        first_names: dict[str, int],
        last_names: dict[str, int],
    ) -> _Prompt:
        """A prompt about somebody, in a wording whose sentences between are there already."""
        other_first = rng.choice([name for name in first_names if name != first])
        other_last = rng.choice([name for name in last_names if name != last])
        clean = tokenize(self.model, wording.format(first=first, last=last)).tolist()[len(_bos(self.model)) :]
        source = clean.index(first_names[first])
        return self._prompt(clean, source, first_names[other_first], last_names[other_last], wording)

    def _prompt(self, clean: list[int], source: int, other: int, wrong: int, group: str = "") -> _Prompt:
        """The pair whose corrupted prompt has `wrong` to copy, or `other` in the place of what comes back."""
        corrupted = clean.copy()
        if self.corruption == "next_token":
            corrupted[source + 1] = wrong
        else:
            corrupted[source] = other
        return _Prompt(clean, corrupted, source, (clean[source + 1], wrong), group)

    @property
    def name(self) -> str:
        """The task's name in plots and results."""
        return f"Induction ({KINDS[self.kind]})"

    def get_clean_corrupt_pairs(self) -> list[tuple[str, str]]:
        """(clean, corrupted) prompts as text."""
        return [(text_of(self.model, pair.clean), text_of(self.model, pair.corrupted)) for pair in self._prompts]

    def get_target_tokens(self, pair_idx: int) -> tuple[int, int]:
        """Token ids of what has to follow and of the wrong answer."""
        return self._prompts[pair_idx].answers

    def to_pairs(self, model: TransformerBridge) -> PromptPairs:
        """Tokens, answers, and the roles source, source+1 and current of each prompt."""
        bos = _bos(model)
        # Random tokens need not come back from text; words and names must, or readers would see another prompt.
        texts = [] if self.kind == "tokens" else self.get_clean_corrupt_pairs()
        for prompt, pair in zip(self._prompts, texts, strict=False):
            if [tokenize(model, text).tolist() for text in pair] != [bos + prompt.clean, bos + prompt.corrupted]:
                raise TaskError(
                    "An induction prompt's words do not turn back into the same tokens: make the dataset "
                    "with the model that it is used on, or give your own tokens as PromptPairs."
                )
        source = torch.tensor([len(bos) + prompt.source for prompt in self._prompts])
        current = torch.tensor([len(bos) + len(prompt.clean) - 1 for prompt in self._prompts])
        seq_len = {} if self.kind == "names" else {"seq_len": self.seq_len}
        settings: dict[str, str | int | float] = {"corruption": self.corruption, "kind": self.kind, "gap": self.gap}
        settings["corrupted_answer"] = "wrong" if self.corruption == "next_token" else "none"
        pairs = PromptPairs(
            clean_tokens=tuple(torch.tensor(bos + prompt.clean) for prompt in self._prompts),
            corrupted_tokens=tuple(torch.tensor(bos + prompt.corrupted) for prompt in self._prompts),
            answers=torch.tensor([prompt.answers for prompt in self._prompts]),
            roles={"source": source, "source+1": source + 1, "current": current},
            name=self.name,
            seed=self.seed,
            groups=tuple(prompt.group for prompt in self._prompts) if self.kind == "names" else (),
            metadata={**settings, **seq_len, "n_prompts": len(self._prompts)},
        )
        return check_fits(model, pairs)

    def reference(self, model: TransformerBridge, per_template: int = 20) -> PromptPairs:
        """Other prompts of the same kind, corrupted as the task's are: of names, for every wording that the task has.

        Args:
            model: As in ``to_pairs``.
            per_template: How many of each; in all, where there is no wording.
        """
        check_count("per_template", per_template, error=TaskError, most=MOST_PROMPTS)
        rng = random.Random(f"{self.seed} reference")
        others = copy.copy(self)
        if self.kind != "names":
            others._prompts = self._repeats(rng, per_template)
            return others.to_pairs(model).reversed()
        first_names = single_tokens(self.model, NAMES, "first names", least=2)
        last_names = single_tokens(self.model, LAST_NAMES, "last names", least=2)
        others._prompts = [
            self._person(
                rng, wording, rng.choice(list(first_names)), rng.choice(list(last_names)), first_names, last_names
            )
            for wording in dict.fromkeys(prompt.group for prompt in self._prompts)
            for _ in range(per_template)
        ]
        return others.to_pairs(model).reversed()


def _bos(model: TransformerBridge) -> list[int]:
    """What the model's own tokenisation puts first: BOS, or nothing."""
    if model.tokenizer is None:
        return []
    n_bos = len(tokenize(model, "a")) - len(model.tokenizer(["a"], add_special_tokens=False)["input_ids"][0])
    return [int(model.tokenizer.bos_token_id)] * n_bos


def _whole_words(model: TransformerBridge, rng: random.Random) -> list[int]:
    """Ids of tokens that stand for one whole word, in random order."""
    size = min(len(tokenizer_of(model)), model.cfg.d_vocab)
    ids = rng.sample(range(size), min(size, POOL))
    texts = model.tokenizer.batch_decode([[token] for token in ids], clean_up_tokenization_spaces=False)
    words = dict.fromkeys(text.strip() for text in texts if WORD.fullmatch(text.strip()))
    return list(single_tokens(model, words).values())


def _ordinary_tokens(model: TransformerBridge) -> list[int]:
    """All ids but those of special tokens."""
    if model.tokenizer is None:
        return list(range(int(model.cfg.d_vocab)))
    special = set(model.tokenizer.all_special_ids)
    return [token for token in range(min(len(model.tokenizer), model.cfg.d_vocab)) if token not in special]


def repeated_tokens(model: TransformerBridge, n_rows: int = 8, seq_len: int = 25, seed: int = 0) -> PromptPairs:
    """Rows of random tokens that come twice, whole, for losses, scores and ablations (Olsson et al. 2022, argument 1).

    None of them is a special token. In the corrupted rows the second half is random as well, so that nothing comes
    twice: the reference in which there is nothing to copy. The answers are the last token and the one in its place in
    the corrupted row.

    Args:
        model: Whose tokens.
        n_rows: How many.
        seq_len: Tokens in one copy, at least 2.
        seed: Of the draw.

    Returns:
        Pairs with the role ``copy``, the position of the second copy's first token.

    Raises:
        TaskError: A setting out of range, or rows that the model's context does not hold.

    Example:
        >>> pairs = patchlib.repeated_tokens(model, n_rows=2, seq_len=5)
        >>> pairs.clean_tokens[0].tolist()
        [1, 48305, 35148, 734, 27990, 23689, 48305, 35148, 734, 27990, 23689]
        >>> pairs.roles["copy"].tolist()
        [6, 6]
    """
    check_model(model)
    n_rows = check_count("n_rows", n_rows, error=TaskError, most=MOST_PROMPTS)
    seq_len = check_count("seq_len", seq_len, least=2, error=TaskError)
    check_length(model, 2 * seq_len, name := "repeated random tokens")  # before so many are drawn
    seed = check_seed(seed, error=TaskError)
    generator = torch.Generator().manual_seed(seed)
    pool = torch.tensor(_ordinary_tokens(model))
    once, other = torch.randint(len(pool), (2, n_rows, seq_len), generator=generator)  # indices into the pool
    # The answers must differ; the generator may draw one token twice.
    other[:, -1] = torch.where(other[:, -1] == once[:, -1], (once[:, -1] + 1) % len(pool), other[:, -1])
    once, other = pool[once], pool[other]  # [example pos]
    bos = torch.tensor(_bos(model), dtype=torch.long).expand(n_rows, -1)  # [example pos], of one position or none
    pairs = PromptPairs(
        clean_tokens=tuple(torch.cat([bos, once, once], dim=1)),  # [example pos]
        corrupted_tokens=tuple(torch.cat([bos, once, other], dim=1)),
        answers=torch.stack([once[:, -1], other[:, -1]], dim=1),
        roles={"copy": torch.full((n_rows,), bos.shape[1] + seq_len)},
        name=name,
        seed=seed,
        metadata={"seq_len": seq_len, "n_prompts": n_rows},
    )
    return check_fits(model, pairs)
