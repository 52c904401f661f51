"""Gendered pronouns: a name that most people take for a woman's or a man's, and the pronoun that follows."""

import random
from collections.abc import Iterator

from patchlib.tasks.field.base import WORDS, FieldTask, Prompt, dealt, filled
from patchlib.tasks.spans import Span

PRONOUNS = {"female": " she", "male": " he"}


class Pronouns(FieldTask):
    """Prompts such as "We all like Mary because": "she" has to follow rather than "he".

    In the corrupted prompts a name of the other kind stands there. What is measured is a habit of English texts.

    Roles: "name", END.

    Args:
        model, n_prompts, seed: As for ``GreaterThan``.

    Example:
        >>> task = patchlib.tasks.Pronouns(model, n_prompts=1)
        >>> for text in task.get_clean_corrupt_pairs()[0]:
        ...     print(text)
        The teacher asked Laura a question, but
        The teacher asked Edward a question, but
    """

    name = "Gendered pronouns"
    source = "Mathwin et al. 2023"
    asks = "The pronoun of a name"

    def draw(self, rng: random.Random) -> Iterator[Prompt]:
        """Wordings and names in turn, of one kind and the other."""
        words = WORDS["pronouns"]
        names = {kind: dealt(rng, words[kind].split()) for kind in PRONOUNS}
        for i, wording in enumerate(dealt(rng, words["wordings"])):
            clean, corrupted = ("female", "male") if i % 2 == 0 else ("male", "female")
            name, other = next(names[clean]), next(names[corrupted])
            text, places = filled(wording, name=name)
            roles = {"name": Span(places["name"][0])}
            other_text, _ = filled(wording, name=other)
            yield Prompt(text, other_text, PRONOUNS[clean], PRONOUNS[corrupted], wording, roles)
