"""Docstring arguments: a docstring goes through a function's arguments in their order."""

import random
from collections.abc import Iterator

from patchlib.tasks.field.base import WORDS, FieldTask, Prompt, dealt, filled
from patchlib.tasks.spans import Span


class Docstring(FieldTask):
    """Code such as "def load(self, size, path, file): ... :param size: ... :param path: ... :param": "file" follows.

    In the corrupted prompts the function's third argument is another, which is the wrong answer.

    Roles: "A_def", "B_def", "C_def" (arguments where they are declared), "A_doc", "B_doc" (in the docstring), END.

    Args:
        model, n_prompts, seed: As for ``GreaterThan``.

    Example:
        >>> task = patchlib.tasks.Docstring(model, n_prompts=4)
        >>> print(task.get_clean_corrupt_pairs()[0][0])
        def render(self, width, state, port):
            \"\"\"garden market.
        <BLANKLINE>
            :param width: window letter
            :param state: letter garden
            :param
    """

    name = "Docstring"
    source = "Heimersheim and Janiak 2023"
    asks = "The third argument of a function, whose docstring has named two"

    def draw(self, rng: random.Random) -> Iterator[Prompt]:
        """Wordings in turn, arguments and words at random."""
        words = WORDS["docstring"]
        arguments, others, functions = (words[kind].split() for kind in ("arguments", "words", "functions"))
        for wording in dealt(rng, words["wordings"]):
            a, b, c, d = rng.sample(arguments, 4)
            fills = dict(zip("uvwx", rng.sample(others, 4), strict=True)) | {"f": rng.choice(functions), "a": a, "b": b}
            text, places = filled(wording, c=c, **fills)
            slots = {"A_def": ("a", 0), "B_def": ("b", 0), "C_def": ("c", 0), "A_doc": ("a", 1), "B_doc": ("b", 1)}
            roles = {role: Span(places[slot][occurrence]) for role, (slot, occurrence) in slots.items()}
            yield Prompt(text, filled(wording, c=d, **fills)[0], f" {c}", f" {d}", wording, roles)
