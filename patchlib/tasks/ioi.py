"""Indirect object identification: of two names one comes back as the subject; the other has to follow."""

import copy
import itertools
import random
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import Head, check_choice, check_count, check_heads, check_seed
from patchlib.errors import TaskError
from patchlib.models.check import check_model
from patchlib.tasks.base import PatchingDataset
from patchlib.tasks.pairs import PromptPairs
from patchlib.tasks.tokens import single_tokens
from patchlib.tasks.words import IOI_WORDINGS, NAMES, OBJECTS, PLACES, SEED_FILLS, SEED_WORDING

ORDERS = ("ABBA", "BABA")
TEMPLATES = ("mixed", *ORDERS)
Fill = tuple[str, str, str, str]
"""(indirect object, subject, place, object) of one prompt."""
ROLES = ("IO", "S1", "S1+1", "S2", "END")
FRESH_NAMES = {"swap_subject": 0, "swap_order": 0, "abc": 3, "random_subject": 1}
"""Corruption -> how many names it needs beyond the two of the clean prompt."""
CORRUPTED_ANSWERS = {"swap_subject": "wrong", "swap_order": "right", "abc": "none", "random_subject": "none"}
"""Corruption -> which of the two answers its prompts call for."""

IOI_HEADS: dict[str, tuple[Head, ...]] = {
    "Name Mover": ((9, 9), (10, 0), (9, 6)),
    "Backup Name Mover": ((9, 0), (9, 7), (10, 1), (10, 2), (10, 6), (10, 10), (11, 2), (11, 9)),
    "Negative Name Mover": ((10, 7), (11, 10)),
    "S-Inhibition": ((7, 3), (7, 9), (8, 6), (8, 10)),
    "Induction": ((5, 5), (6, 9), (5, 8), (5, 9)),
    "Duplicate Token": ((0, 1), (3, 0), (0, 10)),
    "Previous Token": ((2, 2), (4, 11)),
}
"""Head type -> (layer, head) in GPT-2 small (Wang et al. 2022, figure 2, where 0.10, 5.8 and 5.9 are weak)."""


def classify_ioi_head(layer: int, head: int) -> str:
    """What a head of GPT-2 small does in the published IOI circuit; it says nothing about any other model.

    Args:
        layer: From 0.
        head: From 0.

    Returns:
        The head type as Wang et al. 2022, figure 2, name it; "Other" for heads outside their circuit.

    Raises:
        SweepError: Something that is no whole number from 0.

    Example:
        >>> patchlib.classify_ioi_head(9, 9), patchlib.classify_ioi_head(10, 7), patchlib.classify_ioi_head(0, 0)
        ('Name Mover', 'Negative Name Mover', 'Other')
    """
    (known,) = check_heads([(layer, head)])
    return next((head_type for head_type, heads in IOI_HEADS.items() if known in heads), "Other")


class IOIDataset(PatchingDataset):
    """Prompts such as "When Mary and John went to the store, John gave a drink to" (right Mary, wrong John).

    Without `n_prompts`: five built-in prompts. With it: prompts drawn from patchlib's own wordings and from
    names, places and objects that are single tokens for this model. Every prompt has its own pair of names,
    so that none mirrors another. Fewer prompts with the same seed are the first of the same prompts. Each corruption
    keeps all tokens but the names.

    Corruptions:
        swap_subject: The second subject becomes the indirect object, which flips the right answer.
        swap_order: The names of the first clause change places. The right answer stays the same, so clean
            and corrupted prompts hardly differ: kept to show why a contrast must change the answer.
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

    Example:
        >>> ioi = patchlib.IOIDataset(model, n_prompts=2, seed=0)
        >>> for clean, corrupted in ioi.get_clean_corrupt_pairs():
        ...     print(clean)
        ...     print(corrupted)
        The old friends Melissa and Edward met at the barn. Edward gave the bowl to
        The old friends Melissa and Edward met at the barn. Melissa gave the bowl to
        As soon as Thomas and Mary arrived at the mall, Thomas presented a camera to
        As soon as Thomas and Mary arrived at the mall, Mary presented a camera to
        >>> {role: int(positions[0]) for role, positions in ioi.to_pairs(model).roles.items()}
        {'IO': 4, 'S1': 6, 'S1+1': 7, 'S2': 12, 'END': 16}
    """

    name = "IOI (Indirect Object Identification)"
    """What plots and results call the task."""

    def __init__(
        self,
        model: TransformerBridge,
        n_prompts: int | None = None,
        seed: int = 0,
        templates: str | None = None,
        corruption: str = "swap_subject",
    ) -> None:
        if templates is None:
            templates = "ABBA" if n_prompts is None else "mixed"
        check_model(model)
        self.model = model
        self.order = check_choice("templates", templates, TEMPLATES, error=TaskError)
        self.corruption = check_choice("corruption", corruption, FRESH_NAMES, error=TaskError)
        self.seed = check_seed(seed, error=TaskError)
        names = single_tokens(model, NAMES, "names", least=2 + FRESH_NAMES[corruption])
        if n_prompts is None:
            fills, wordings = list(SEED_FILLS), [SEED_WORDING] * len(SEED_FILLS)
            self._places, self._things = ([fill[i] for fill in SEED_FILLS] for i in (2, 3))
            missing = {name for fill in SEED_FILLS for name in fill[:2]} - names.keys()
            if missing:
                raise TaskError(
                    f"The built-in names {', '.join(sorted(missing))} are not single tokens for this model: "
                    "set n_prompts to draw other ones."
                )
        else:
            count = check_count("n_prompts", n_prompts, error=TaskError)
            self._places = list(single_tokens(model, PLACES, "places", least=1))
            self._things = list(single_tokens(model, OBJECTS, "objects", least=1))
            fills, wordings = self._draw(list(names), count)
        self._name_ids = names
        # Its own generator, so that one seed gives the same clean prompts whatever the corruption.
        rng = random.Random(f"{self.seed} corruption")
        orders = itertools.cycle(ORDERS if self.order == "mixed" else [self.order])
        self._lay_out(rng, list(names), list(zip(orders, wordings, fills, strict=False)))

    def _lay_out(self, rng: random.Random, names: list[str], slots: Sequence[tuple[str, str, Fill]]) -> None:
        """Make the prompts, each of an order of names, a wording, and what is filled in."""
        self.templates = [fill for *_, fill in slots]
        self._groups = tuple(f"{order}: {wording}" for order, wording, _ in slots)
        self._clusters = tuple(wording for _, wording, _ in slots)
        self._pairs = [self._fill(rng, names, *slot) for slot in slots]

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
            clusters=self._clusters,
            metadata={
                "corruption": self.corruption,
                "corrupted_answer": CORRUPTED_ANSWERS[self.corruption],
                "templates": self.order,
                "n_prompts": len(pairs),
            },
        )

    def reference(self, model: TransformerBridge, per_template: int = 20) -> PromptPairs:
        """ABC prompts, of three unrelated names, for every template of the task (Wang et al. 2022, section 2.3).

        Args:
            model: As in ``to_pairs``.
            per_template: How many of each.

        Raises:
            TaskError: Fewer than five names are single tokens.
        """
        check_count("per_template", per_template, error=TaskError)
        rng = random.Random(f"{self.seed} reference")
        abc = copy.copy(self)
        abc.corruption = "abc"
        names = list(single_tokens(self.model, NAMES, "names", least=2 + FRESH_NAMES["abc"]))
        slots = []
        for group in dict.fromkeys(self._groups):
            order, wording = group.split(": ", 1)
            for _ in range(per_template):
                io, subject = rng.sample(names, 2)
                slots.append((order, wording, (io, subject, rng.choice(self._places), rng.choice(self._things))))
        abc._lay_out(rng, names, slots)
        return abc.to_pairs(model).reversed()

    def _draw(self, names: list[str], n_prompts: int) -> tuple[list[Fill], list[str]]:
        """(indirect object, subject, place, object) and the wording of each prompt."""
        name_pairs = list(itertools.combinations(names, 2))
        if n_prompts > len(name_pairs):
            raise TaskError(
                f"n_prompts={n_prompts} is more than the {len(name_pairs)} pairs that this model's {len(names)} "
                "single-token names allow, and each prompt needs its own: ask for fewer prompts."
            )
        # One draw after the other in a fixed order, and the names first: fewer prompts are then the first of more.
        rng = random.Random(self.seed)
        rng.shuffle(name_pairs)
        deck = rng.sample(IOI_WORDINGS, len(IOI_WORDINGS))
        in_order = (rng.sample(pair, 2) for pair in name_pairs[:n_prompts])
        fills = [(io, subject, rng.choice(self._places), rng.choice(self._things)) for io, subject in in_order]
        # With mixed orders BABA starts half a deck later: every wording comes in both orders in the end, and a
        # few prompts already have different wordings.
        turns = [divmod(i, 2) if self.order == "mixed" else (i, 0) for i in range(n_prompts)]
        return fills, [deck[(turn + second * len(deck) // 2) % len(deck)] for turn, second in turns]

    def _fill(self, rng: random.Random, names: list[str], order: str, wording: str, fill: Fill) -> tuple[str, str]:
        io, subject, place, thing = fill
        unrelated = [name for name in names if name not in (io, subject)]
        fresh = rng.sample(unrelated, FRESH_NAMES[self.corruption])

        def prompt(first_io: str, first_subject: str, second_subject: str) -> str:
            a, b = (first_io, first_subject) if order == "ABBA" else (first_subject, first_io)
            return wording.format(A=a, B=b, S=second_subject, place=place, object=thing)

        corrupted_names = {
            "swap_subject": (io, subject, io),
            "swap_order": (subject, io, subject),
            "abc": fresh,
            "random_subject": (io, subject, *fresh),
        }
        return prompt(io, subject, subject), prompt(*corrupted_names[self.corruption])


def _find_roles(pairs: PromptPairs) -> dict[str, Int[Tensor, " example"]]:
    positions = []
    for i, (row, names) in enumerate(zip(pairs.clean_tokens, pairs.answers, strict=True)):
        match [(row == name).nonzero().flatten().tolist() for name in names]:
            case [[io], [s1, s2]]:
                positions.append((io, s1, s1 + 1, s2, len(row) - 1))
            case _:
                raise TaskError(
                    f"Prompt {i} does not hold its names once and twice as tokens: make the dataset with "
                    "the model that it is used on."
                )
    return dict(zip(ROLES, torch.tensor(positions).unbind(1), strict=True))  # [example role] -> one column a role
