"""What the prompt itself says: the color of one of three objects, and the letter of the right answer."""

import random
from collections.abc import Iterator

from patchlib.tasks.field.base import WORDS, FieldTask, Prompt, dealt, filled
from patchlib.tasks.spans import Span


class ColoredObjects(FieldTask):
    """Prompts such as "She has a red pen, a blue cup and a green box. Her cup is": "blue" has to follow.

    In the corrupted prompts another of the three objects is asked for, whose color is the wrong answer.

    Roles: "color" and "object" where the right one is introduced, "wrong_color", "asked" (the object at the end), END.

    Args:
        model, n_prompts, seed: As for ``GreaterThan``.

    Example:
        >>> task = patchlib.tasks.ColoredObjects(model, n_prompts=1)
        >>> for text in task.get_clean_corrupt_pairs()[0]:
        ...     print(text)
        On the table there is a red dress, a blue coat and a white ring. The color of the coat is
        On the table there is a red dress, a blue coat and a white ring. The color of the dress is
    """

    name = "Colored objects"
    source = "Srivastava et al. 2022; Merullo, Eickhoff and Pavlick 2024"
    asks = "The color of one of three objects"

    def draw(self, rng: random.Random) -> Iterator[Prompt]:
        """Wordings in turn, three objects and colors at random."""
        words = WORDS["colored_objects"]
        for wording in dealt(rng, words["wordings"]):
            objects, colors = rng.sample(words["objects"].split(), 3), rng.sample(words["colors"].split(), 3)
            asked, other = rng.sample(range(3), 2)
            fills = {f"o{i + 1}": objects[i] for i in range(3)} | {f"c{i + 1}": colors[i] for i in range(3)}
            text, places = filled(wording, o=objects[asked], **fills)
            slots = {"color": f"c{asked + 1}", "object": f"o{asked + 1}", "wrong_color": f"c{other + 1}", "asked": "o"}
            roles = {role: Span(places[slot][0]) for role, slot in slots.items()}
            corrupted, _ = filled(wording, o=objects[other], **fills)
            yield Prompt(text, corrupted, f" {colors[asked]}", f" {colors[other]}", wording, roles)


class MultipleChoice(FieldTask):
    """Questions with two answers, A and B: the letter of the right one has to follow.

    In the corrupted prompts the answers have changed places, and so the letters.

    Roles: "right" and "wrong" (the answers' last tokens), END.

    Args:
        model, n_prompts, seed: As for ``GreaterThan``.

    Example:
        >>> task = patchlib.tasks.MultipleChoice(model, n_prompts=1)
        >>> print(task.get_clean_corrupt_pairs()[0][0])
        Question: Which of these is a number?
        X. river
        Y. seven
        Answer:
    """

    name = "Multiple choice"
    source = "Lieberum et al. 2023; Wiegreffe et al. 2025"
    asks = "The letter of the right one of two answers"

    def draw(self, rng: random.Random) -> Iterator[Prompt]:
        """Wordings and questions in turn, letters and their order at random."""
        words = WORDS["multiple_choice"]
        for wording, (question, right, wrong) in zip(
            dealt(rng, words["wordings"]), dealt(rng, words["questions"]), strict=False
        ):
            letters, is_first = rng.choice(words["letters"]), rng.random() < 0.5
            fills = {"l1": letters[0], "l2": letters[1], "question": question}
            first, second = (right, wrong) if is_first else (wrong, right)
            text, places = filled(wording, first=first, second=second, **fills)
            slots = {"right": "first", "wrong": "second"} if is_first else {"right": "second", "wrong": "first"}
            roles = {role: Span(places[slot][0]) for role, slot in slots.items()}
            corrupted, _ = filled(wording, first=second, second=first, **fills)
            before = "" if text.endswith("(") else " "
            answers = [f"{before}{letter}" for letter in (letters if is_first else letters[::-1])]
            yield Prompt(text, corrupted, answers[0], answers[1], wording, roles)
