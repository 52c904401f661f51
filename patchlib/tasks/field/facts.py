"""Facts about countries: their capitals, languages and continents."""

import itertools
import random
from collections.abc import Iterator, Sequence

from patchlib.tasks.field.base import WORDS, FieldTask, Prompt, filled
from patchlib.tasks.spans import Span

RELATIONS = ("capital", "language", "continent")
"""The order of what words.yaml says of a country, behind its name."""


class Capitals(FieldTask):
    """Prompts such as "The capital of France is the city of": "Paris" has to follow, not another country's capital.

    In the corrupted prompts another country stands there, whose capital is the wrong answer.

    Roles: "country" (its last token), END; the span "subject" is all its tokens.

    Args:
        model, n_prompts, seed: As for ``GreaterThan``.

    Example:
        >>> task = patchlib.tasks.Capitals(model, n_prompts=1)
        >>> for text in task.get_clean_corrupt_pairs()[0]:
        ...     print(text)
        Everybody who visits Canada wants to see its capital,
        Everybody who visits Greece wants to see its capital,
    """

    name = "Capitals"
    source = "Meng et al. 2022; Merullo, Eickhoff and Pavlick 2024"
    asks = "The capital of a country"
    relations: Sequence[str] = ("capital",)

    def draw(self, rng: random.Random) -> Iterator[Prompt]:
        """Each wording with pairs of countries that have another answer, in random order."""
        facts = WORDS["facts"]
        prompts = [
            (relation, wording, country, other)
            for relation in self.relations
            for wording in facts[relation]
            for country, other in itertools.permutations(facts["countries"], 2)
        ]
        rng.shuffle(prompts)
        wordings = sum(len(facts[relation]) for relation in self.relations)
        recent: list[str] = []
        for relation, wording, country, other in prompts:
            right, wrong = (fact[1 + RELATIONS.index(relation)] for fact in (country, other))
            if right is None or wrong is None or right == wrong or wording in recent:
                continue
            recent = [*recent, wording][1 - wordings :]  # the wordings in turn
            text, places = filled(wording, country=country[0])
            (place,) = places["country"]
            roles = {"country": Span(place), "subject": Span(place, "all")}
            yield Prompt(text, filled(wording, country=other[0])[0], f" {right}", f" {wrong}", wording, roles)


class Facts(Capitals):
    """Other facts: "Most people who live in France speak", "On the map, Japan lies on the continent of".

    Roles and spans: As for ``Capitals``.

    Args:
        model, n_prompts, seed: As for ``GreaterThan``.

    Example:
        >>> task = patchlib.tasks.Facts(model, n_prompts=1)
        >>> for text in task.get_clean_corrupt_pairs()[0]:
        ...     print(text)
        Most people who live in Canada speak
        Most people who live in Brazil speak
    """

    name = "Facts"
    source = "Meng et al. 2022; Hernandez et al. 2024"
    asks = "The language or the continent of a country"
    relations = ("language", "continent")
