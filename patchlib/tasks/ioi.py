"""Indirect object identification: of two names one comes back as the subject; the other has to follow."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib.errors import TaskError
from patchlib.tasks.base import PatchingDataset, PromptPairs, whole_number
from patchlib.tasks.ioi_words import NAMES, OBJECTS, PLACES, SEED_FILLS, SEED_WORDING, WORDINGS
from patchlib.tasks.tokens import single_tokens

ORDERS = ("ABBA", "BABA")
TEMPLATES = ("mixed", *ORDERS)
Fill = tuple[str, str, str, str]
"""(indirect object, subject, place, object) of one prompt."""
ROLES = ("IO", "S1", "S1+1", "S2", "END")
FRESH_NAMES = {"swap_subject": 0, "swap_order": 0, "abc": 3, "random_subject": 1}
"""Corruption -> how many names it needs beyond the two of the clean prompt."""

IOI_HEADS = {
    "Name Mover": ((9, 9), (10, 0), (9, 6)),
    "Backup Name Mover": ((9, 0), (9, 7), (10, 1), (10, 2), (10, 6), (10, 10), (11, 2), (11, 9)),
    "Negative Name Mover": ((10, 7), (11, 10)),
    "S-Inhibition": ((7, 3), (7, 9), (8, 6), (8, 10)),
    "Induction": ((5, 5), (6, 9), (5, 8), (5, 9)),
    "Duplicate Token": ((0, 1), (3, 0), (0, 10)),
    "Previous Token": ((2, 2), (4, 11)),
}
"""Role -> (layer, head) in GPT-2 small (Wang et al. 2022, figure 2, where 0.10, 5.8 and 5.9 are weak)."""


def classify_ioi_head(layer: int, head: int) -> str:
    """Published role of a head of GPT-2 small in the IOI circuit (Wang et al. 2022, figure 2), else "Other".

    It says nothing about any other model.
    """
    return next((role for role, heads in IOI_HEADS.items() if (layer, head) in heads), "Other")


class IOIDataset(PatchingDataset):
    """Prompts such as "When Mary and John went to the store, John gave a drink to" (right Mary, wrong John).

    Without `n_prompts`: five built-in prompts. With it: prompts drawn from patchlib's own wordings and from
    names, places and objects that are single tokens for this model. Every prompt has its own pair of names,
    so that none mirrors another. Fewer prompts with the same seed are the first of the same prompts.

    Corruptions, each of which keeps all tokens but the names:
        swap_subject: The second subject becomes the indirect object, which flips the right answer.
        swap_order: The names of the first clause change places. The right answer stays the same, so clean
            and corrupted runs hardly differ: kept to show why a contrast must change the answer.
        abc: Three unrelated names in the places of IO, S1 and S2, so that none comes twice (the distribution
            p_ABC of Wang et al. 2022).
        random_subject: The second subject becomes a third name.

    Args:
        model: Whose tokenizer the words must suit.
        n_prompts: How many; None for the built-in five.
        seed: Of this dataset's own random generator.
        templates: "ABBA" (indirect object first), "BABA" (subject first) or "mixed" (in turn). None:
            "mixed", but "ABBA" for the built-in five.
        corruption: One of the four above.

    Attributes:
        templates: One (indirect object, subject, place, object) per prompt.

    Raises:
        TaskError: An unknown setting, a number of prompts that cannot be had, too few single-token words.
    """

    def __init__(
        self,
        model: TransformerBridge,
        n_prompts: int | None = None,
        seed: int = 0,
        templates: str | None = None,
        corruption: str = "swap_subject",
    ) -> None:
        default = "ABBA" if n_prompts is None else "mixed"
        order = default if templates is None else templates
        _check_choice("templates", order, TEMPLATES)
        _check_choice("corruption", corruption, tuple(FRESH_NAMES))
        self.model, self.order, self.corruption = model, order, corruption
        self.seed = whole_number("seed", seed, least=0)
        names = single_tokens(model, NAMES)
        needed = 2 + FRESH_NAMES[corruption]
        if len(names) < needed:
            raise TaskError(_too_few("names", names, NAMES, needed))
        if n_prompts is None:
            self.templates, wordings = list(SEED_FILLS), [SEED_WORDING] * len(SEED_FILLS)
            missing = {name for fill in SEED_FILLS for name in fill[:2]} - names.keys()
            if missing:
                raise TaskError(
                    f"The built-in names {', '.join(sorted(missing))} are not single tokens for this model: "
                    "set n_prompts to draw other ones."
                )
        else:
            count = whole_number("n_prompts", n_prompts, least=1)
            self.templates, wordings = _draw(model, list(names), count, self.seed, order)
        self._name_ids = names
        # Its own generator, so that one seed gives the same clean prompts whatever the corruption.
        rng = random.Random(f"{self.seed} corruption")
        orders = [ORDERS[i % 2] if order == "mixed" else order for i in range(len(wordings))]
        self._groups = tuple(f"{order}: {wording}" for order, wording in zip(orders, wordings, strict=True))
        self._pairs = [self._fill(rng, list(names), *how) for how in zip(wordings, self.templates, orders, strict=True)]

    @property
    def name(self) -> str:
        """The task's name in plots and results."""
        return "IOI (Indirect Object Identification)"

    def get_clean_corrupt_pairs(self) -> list[tuple[str, str]]:
        """(clean, corrupted) prompts as text."""
        return list(self._pairs)

    def get_target_tokens(self, pair_idx: int) -> tuple[int, int]:
        """Token ids of the indirect object and of the subject of the clean prompt."""
        io, subject = self.templates[pair_idx][:2]
        return self._name_ids[io], self._name_ids[subject]

    def to_pairs(self, model: TransformerBridge) -> PromptPairs:
        """Tokens, answers, and the roles IO, S1, S1+1, S2 and END of each clean prompt."""
        pairs = super().to_pairs(model)
        return replace(
            pairs,
            roles=_find_roles(pairs),
            seed=self.seed,
            groups=self._groups,
            metadata={"corruption": self.corruption, "templates": self.order, "n_prompts": len(pairs)},
        )

    def _fill(self, rng: random.Random, names: list[str], wording: str, fill: Fill, order: str) -> tuple[str, str]:
        io, subject, place, thing = fill
        unrelated = [name for name in names if name not in (io, subject)]
        others = rng.sample(unrelated, FRESH_NAMES[self.corruption])

        def prompt(first_io: str, first_subject: str, second_subject: str) -> str:
            a, b = (first_io, first_subject) if order == "ABBA" else (first_subject, first_io)
            return wording.format(A=a, B=b, S=second_subject, place=place, object=thing)

        match self.corruption:
            case "swap_subject":
                corrupted = prompt(io, subject, io)
            case "swap_order":
                corrupted = prompt(subject, io, subject)
            case "abc":
                corrupted = prompt(*others)
            case _:
                corrupted = prompt(io, subject, others[0])
        return prompt(io, subject, subject), corrupted


def _check_choice(setting: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise TaskError(f"Unknown {setting} {value!r}: choose from {', '.join(choices)}.")


def _too_few(kind: str, found: dict[str, int], tried: tuple[str, ...], needed: int) -> str:
    return (
        f"Only {len(found)} of {len(tried)} {kind} are single tokens for this model; {needed} are needed: "
        "use a model with a larger vocabulary, or give your own prompts as PromptPairs."
    )


def _draw(
    model: TransformerBridge, names: list[str], n_prompts: int, seed: int, order: str
) -> tuple[list[Fill], list[str]]:
    """(indirect object, subject, place, object) and the wording of each prompt."""
    pairs = list(itertools.combinations(names, 2))
    if n_prompts > len(pairs):
        raise TaskError(
            f"n_prompts={n_prompts} is more than the {len(pairs)} pairs that this model's {len(names)} "
            "single-token names allow, and each prompt needs its own: ask for fewer prompts."
        )
    places, things = single_tokens(model, PLACES), single_tokens(model, OBJECTS)
    for kind, found, tried in (("places", places, PLACES), ("objects", things, OBJECTS)):
        if not found:
            raise TaskError(_too_few(kind, found, tried, 1))
    rng = random.Random(seed)
    rng.shuffle(pairs)
    deck = rng.sample(WORDINGS, len(WORDINGS))
    where, what = list(places), list(things)
    in_order = (rng.sample(pair, 2) for pair in pairs[:n_prompts])
    fills = [(io, subject, rng.choice(where), rng.choice(what)) for io, subject in in_order]
    # With mixed orders BABA starts half a deck later: every wording comes in both orders in the end, and a
    # few prompts already have different wordings.
    turns = [divmod(i, 2) if order == "mixed" else (i, 0) for i in range(n_prompts)]
    return fills, [deck[(turn + second * len(deck) // 2) % len(deck)] for turn, second in turns]


def _find_roles(pairs: PromptPairs) -> dict[str, Int[Tensor, " example"]]:
    found = []
    for i, (row, (io, subject)) in enumerate(zip(pairs.clean_tokens, pairs.answers.tolist(), strict=True)):
        at_io, at_subject = ((row == token).nonzero().flatten().tolist() for token in (io, subject))
        if len(at_io) != 1 or len(at_subject) != 2:
            raise TaskError(
                f"Prompt {i} does not hold its names once and twice as tokens: make the dataset with "
                "the model that it is used on."
            )
        first, second = at_subject
        found.append((*at_io, first, first + 1, second, len(row) - 1))
    return dict(zip(ROLES, torch.tensor(found).unbind(1), strict=True))  # [example role] -> one column a role
