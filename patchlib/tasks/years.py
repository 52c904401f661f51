"""Years as answers: which tokens say a later year of a century, and which do not."""

from transformer_lens.model_bridge import TransformerBridge

from patchlib.errors import TaskError
from patchlib.tasks.tokens import tokenizer_of

CENTURY = "The war lasted from the year 1702 to the year 17"
"""Before the two digits that are looked up."""


def year_answers(model: TransformerBridge, year: int) -> tuple[list[int], list[int]]:
    """Tokens of the years above, and of the others, of one century (Hanna et al. 2023, section 2.1).

    Where two digits are one token, as in GPT-2, these are the years above ``year``, and all up to it. Where a token is
    one digit, what comes next is the tens: the digits above the year's, and those below; its own digit says neither.

    Args:
        model: Whose tokenizer writes the digits.
        year: The last two digits, 0 to 99.

    Raises:
        TaskError: No year is above, or the tokenizer writes digits otherwise.
    """
    tokenizer = tokenizer_of(model)
    texts = [f"{two:02d}" for two in range(100)]
    behind = tokenizer([f"{CENTURY}{text}" for text in texts], add_special_tokens=False)["input_ids"]
    alone = tokenizer(texts, add_special_tokens=False)["input_ids"]
    (before,) = tokenizer([CENTURY], add_special_tokens=False)["input_ids"]
    tails = [
        row[len(before) :] if row[: len(before)] == before else bare for row, bare in zip(behind, alone, strict=True)
    ]
    if all(len(tail) == 1 for tail in tails) and len({tail[0] for tail in tails}) == 100:
        right, wrong = [tails[two][0] for two in range(year + 1, 100)], [tails[two][0] for two in range(year + 1)]
    elif all(len(tail) == 2 for tail in tails) and len({tail[0] for tail in tails}) == 10:
        tens = [tails[10 * digit][0] for digit in range(10)]
        right, wrong = tens[year // 10 + 1 :], tens[: year // 10]
    else:
        raise TaskError("this tokenizer writes years neither in pairs of digits nor in single digits")
    if not right or not wrong:
        raise TaskError(f"the year ..{year:02d} has no {'later' if not right else 'earlier'} years of its century")
    return right, wrong
