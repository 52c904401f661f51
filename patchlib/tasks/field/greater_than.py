"""Greater-than: after "from 1732 to 17", a later year of the century has to follow (Hanna et al. 2023)."""

import random
from collections.abc import Iterator

from patchlib.errors import TaskError
from patchlib.tasks.field.base import WORDS, FieldTask, Prompt, dealt, filled
from patchlib.tasks.spans import Span
from patchlib.tasks.years import year_answers

CENTURIES = range(11, 18)
FIRST, LAST = 12, 88
"""Years that have others above and below them, whether a token is two digits or one."""
START = "01"
"""The corrupted year, after which any of the century is later."""


class GreaterThan(FieldTask):
    """Prompts such as "The war began in the year 1732 and ended in the year 17": a later year has to follow.

    Right are all years above, wrong all up to it; where a token is one digit, the tens above and below. In the
    corrupted prompts the year is ..01, so that any year would do. The paper's metric is ``"prob_diff"``.

    Roles: "century" and "tens" of the year (the same token as "ones" where a token is two digits), "ones", END.

    Args:
        model: Whose tokenizer the words must suit.
        n_prompts: How many.
        seed: Of this task's own random generator.

    Example:
        >>> task = patchlib.tasks.GreaterThan(model, n_prompts=2)
        >>> for text in task.get_clean_corrupt_pairs()[0]:
        ...     print(text)
        After the conflict of the year 1281 there was another in the year 12
        After the conflict of the year 1201 there was another in the year 12
        >>> task.to_pairs(model).example_prompts(model)["answer"]  # of the tens: this model's tokens are single digits
        ['9', '5|6|7|8|... (5)']
    """

    name = "Greater-than"
    source = "Hanna, Liu and Variengien 2023"
    asks = "A year of the same century, later than the one in the prompt"
    corrupted_answer = "either"
    apart = ("century", "tens")

    def draw(self, rng: random.Random) -> Iterator[Prompt]:
        """Wordings and nouns in turn, a century and a year each."""
        words = WORDS["greater_than"]
        for wording, noun in zip(dealt(rng, words["wordings"]), dealt(rng, words["nouns"].split()), strict=False):
            century, year = rng.choice(CENTURIES), rng.randint(FIRST, LAST)
            clean, places = filled(wording, noun=noun, c=century, y=year)
            tens, _ = places["y"][0]
            try:
                ids = year_answers(self.model, year)
            except TaskError as error:
                raise TaskError(f"{self.name!r} cannot be asked: {error}.") from error
            roles = {
                "century": Span(places["c"][0]),
                "tens": Span((tens, tens + 1)),
                "ones": Span((tens + 1, tens + 2)),
            }
            corrupted, _ = filled(wording, noun=noun, c=century, y=START)
            yield Prompt(clean, corrupted, wording=wording, roles=roles, ids=ids)
