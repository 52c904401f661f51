"""Addition of numbers of two digits."""

import random
from collections.abc import Iterator, Sequence

from patchlib.tasks.field.base import WORDS, FieldTask, Prompt, dealt, filled
from patchlib.tasks.spans import Span


class Addition(FieldTask):
    """Prompts such as "23 + 45 =": the sum has to follow, of two digits.

    In the corrupted prompts the first number is another, and with it the sum, which is the wrong answer. Where the
    tokenizer writes single digits, the answers are the tens of the two sums, which differ.

    Roles: "a" and "b" (the last tokens of the two numbers), END.

    Args:
        model, n_prompts, seed: As for ``GreaterThan``.

    Example:
        >>> task = patchlib.tasks.Addition(model, n_prompts=1)
        >>> task.get_clean_corrupt_pairs()
        [('33 + 13 = ', '59 + 13 = ')]
    """

    name = "Two-digit addition"
    source = "Nanda et al. 2023; Stolfo, Belinkov and Sachan 2023"
    asks = "The sum of two numbers of two digits"

    def draw(self, rng: random.Random) -> Iterator[Prompt]:
        """Wordings in turn, numbers at random."""
        for wording in dealt(rng, WORDS["addition"]["wordings"]):
            b = rng.randint(11, 60)
            first, other = (rng.randint(11, 98 - b) for _ in range(2))
            if (first + b) // 10 == (other + b) // 10 or b in (first, other):
                continue
            text, places = filled(wording, a=first, b=b)
            roles = {role: Span(places[role][0]) for role in ("a", "b")}
            yield Prompt(text, filled(wording, a=other, b=b)[0], f" {first + b}", f" {other + b}", wording, roles)

    def n_answer_tokens(self, row: Sequence[int]) -> int:
        """The first, where digits are tokens."""
        return 1
