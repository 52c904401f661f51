"""Checks of 04 that are about texts: where there is anything to copy, and a text in which there is not."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib.coursework.compare import CheckFailed, call, compare, right
from patchlib.tasks.pairs import PromptPairs
from patchlib.tasks.tokens import single_tokens, tokenize
from patchlib.tasks.words import NAMES

WORD = re.compile(r" ?\w+|\W")


def seed_of(task: PromptPairs) -> int:
    """What else a check draws by: a task of another seed asks about other rows."""
    return task.seed or 0


def prefix_matches(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``prefix_matches(tokens)``, ``[dest src]``: random tokens, many of which come again, two of them in a row.

    Args:
        answer: The student's function.
        model: Any.
        task: Its seed draws the tokens.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    tokens = torch.randint(7, (16,), generator=torch.Generator().manual_seed(seed_of(task) + 31))
    tokens[9] = tokens[8]
    places = _places(tokens)
    likely = {
        "prefix_matches marks the earlier token itself: the place is the one right BEHIND it": _places(tokens, 0),
        "prefix_matches marks two behind the earlier token: one position too late": _places(tokens, 2),
        "prefix_matches marks what stood BEFORE the earlier token": _places(tokens, -1),
        "prefix_matches has dest and src the wrong way round: dest is the row": places.T,
        "prefix_matches marks places behind LATER tokens too: nothing can look at what comes": _places(
            tokens, only_past=False
        ),
        "prefix_matches leaves out the place at dest itself, where two equal tokens stand in a row": places.tril(-1),
        "prefix_matches marks the last earlier one only: mark all of them": places
        & (places.flip(1).cumsum(1).flip(1) == 1),
        "prefix_matches marks the first earlier one only: mark all of them": places & (places.cumsum(1) == 1),
    }
    compare(call(answer, tokens), places, likely, f"tokens {tokens.tolist()}", name="prefix_matches")
    right("prefix_matches", f"{int(places.sum())} places in {len(tokens)} tokens, counted by hand")


def _places(tokens: Int[Tensor, " pos"], behind: int = 1, only_past: bool = True) -> Bool[Tensor, "dest src"]:
    """``behind`` a token that is the same, an earlier one where ``only_past``."""
    n = len(tokens)
    places = torch.zeros(n, n, dtype=torch.bool)
    for dest in range(n):
        for same in range(dest if only_past else n):
            if tokens[same] == tokens[dest] and 0 <= same + behind < n:
                places[dest, same + behind] = True
    return places


def text_that_shows_nothing(model: TransformerBridge, task: PromptPairs) -> str:
    """A name, other words, and the name again, which is another token there: at the start no space stands before it.

    Args:
        model: Any.
        task: Its seed draws the name.

    Returns:
        The text.
    """
    names = NAMES if model.tokenizer is None else list(single_tokens(model, NAMES, "first names"))
    name = random.Random(f"{seed_of(task)} text").choice(names)
    return f"{name} gave a book to the office. Then they had a drink with {name}"


def tokens_of(model: TransformerBridge, text: str) -> Int[Tensor, " pos"]:
    """A text's tokens; of a hand-built model, which reads none, a word with the space before it is one.

    Args:
        model: Any.
        text: To be read.

    Returns:
        Token ids.
    """
    if model.tokenizer is not None:
        return tokenize(model, text)
    words = WORD.findall(text)
    return torch.tensor([words.index(word) for word in words])


def mended_text(answer: Callable[..., Any], model: TransformerBridge, task: PromptPairs) -> None:
    """Check ``mended_text(text)``: it ends with ``text_that_shows_nothing``, and its last token has a place to look at.

    Args:
        answer: The student's function.
        model: Any.
        task: Its seed draws the name.

    Raises:
        CheckFailed: With what is likely wrong.
    """
    text = text_that_shows_nothing(model, task)
    mended = call(answer, text)
    if not isinstance(mended, str):
        raise CheckFailed(f"mended_text gives {type(mended).__name__}: return a text")
    if mended == text:
        raise CheckFailed("mended_text gives the text as it was: put a word or more before it")
    if not mended.endswith(text):
        raise CheckFailed(f"mended_text must give a text that ends with the one it got, word for word: {text!r}")
    if not (places := int(_places(tokens_of(model, mended))[-1].sum())):
        why = (
            f"no earlier token is {' ' + text.split()[0]!r}: look at model.to_str_tokens(...)"
            if mended.removesuffix(text).endswith(" ")
            else "the name has no space before it the first time"
        )
        raise CheckFailed(f"mended_text leaves the last token without a place to look at: {why}")
    right("mended_text", f"the last token has {places} place{'s' * (places > 1)} to look at")
