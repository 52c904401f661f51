"""Subject-verb agreement: the verb has the number of its subject, right before it or across a clause."""

import random
from collections.abc import Iterator

from patchlib.tasks.field.base import WORDS, FieldTask, Prompt, dealt, filled
from patchlib.tasks.spans import Span

SINGULAR, PLURAL = " is", " are"


class SimpleAgreement(FieldTask):
    """Prompts such as "Everybody in the room knows that the keys": "are" has to follow, not "is".

    In the corrupted prompts the subject has the other number. Half of the subjects are plural.

    Roles: "subject", END (here the same token).

    Args:
        model, n_prompts, seed: As for ``GreaterThan``.

    Example:
        >>> task = patchlib.tasks.SimpleAgreement(model, n_prompts=1)
        >>> task.get_clean_corrupt_pairs()
        [('According to the new report, the stories', 'According to the new report, the story')]
    """

    name = "Agreement"
    source = "Linzen, Dupoux and Goldberg 2016"
    asks = "A verb of the subject's number, right behind it"

    def draw(self, rng: random.Random) -> Iterator[Prompt]:
        """Wordings and nouns in turn, of one number and the other."""
        words = WORDS["agreement"]
        wordings, nouns = dealt(rng, words["wordings"]), dealt(rng, list(words["nouns"].items()))
        for wording, (singular, plural) in zip(wordings, nouns, strict=False):
            yield _prompt(wording, {}, singular, plural, rng.random() < 0.5)


class ClauseAgreement(FieldTask):
    """Prompts such as "The keys that the man found": "are" has to follow, whatever the number of the man.

    Roles: "subject", "attractor" (the noun of the clause), END (its verb).

    Args:
        model, n_prompts, seed: As for ``GreaterThan``.

    Example:
        >>> task = patchlib.tasks.ClauseAgreement(model, n_prompts=1)
        >>> task.get_clean_corrupt_pairs()[0][0]
        'It seems that the dogs that our driver painted'
    """

    name = "Agreement across a clause"
    source = "Linzen, Dupoux and Goldberg 2016; Marvin and Linzen 2018"
    asks = "A verb of the subject's number, behind a clause with another noun"

    def draw(self, rng: random.Random) -> Iterator[Prompt]:
        """Wordings and nouns in turn, people and verbs at random."""
        words = WORDS["agreement"]
        wordings, nouns = dealt(rng, words["clauses"]), dealt(rng, list(words["nouns"].items()))
        for wording, (singular, plural) in zip(wordings, nouns, strict=False):
            fills = {"person": rng.choice(words["people"].split()), "verb": rng.choice(words["verbs"].split())}
            yield _prompt(wording, fills, singular, plural, rng.random() < 0.5)


def _prompt(wording: str, fills: dict[str, str], singular: str, plural: str, is_plural: bool) -> Prompt:
    clean, corrupted = (plural, singular) if is_plural else (singular, plural)
    text, places = filled(wording, noun=clean, **fills)
    names = {"subject": "noun", "attractor": "person"}
    roles = {role: Span(places[slot][0]) for role, slot in names.items() if slot in places}
    right, wrong = (PLURAL, SINGULAR) if is_plural else (SINGULAR, PLURAL)
    return Prompt(text, filled(wording, noun=corrupted, **fills)[0], right, wrong, wording, roles)
