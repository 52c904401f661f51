"""What checks are made of: call the student's function, compare what it gives, and say what is likely wrong."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Set
from contextlib import redirect_stderr
from typing import Any

import numpy as np

from patchlib._util import first_line, shown

Likely = Mapping[str, Any]
"""What is likely wrong, a sentence -> what one then gets, or a function that computes it."""
ATOL = RTOL = 1e-3
"""Float noise of two ways to the same number is a hundredth of this; one prompt more or less moves it by far more."""


class CheckFailed(AssertionError):
    """An answer that is not right; its message is one line, of what is likely wrong where that is known."""


def call(answer: Callable[..., Any], *arguments: Any, name: str | None = None) -> Any:
    """What the student's function returns, where it returns something.

    Its warnings and bars are not shown: nbgrader gives no points to a cell that writes to stderr.

    Args:
        answer: The function.
        arguments: Given to it by position, so that students may rename parameters.
        name: What the exercise calls it; the function's own name when None.

    Returns:
        Whatever it returns.

    Raises:
        CheckFailed: It is none, is not written yet, raises, or returns None.

    Example:
        >>> from patchlib.coursework import CheckFailed, call
        >>> def twice(number):
        ...     2 * number
        >>> try:
        ...     call(twice, 4)
        ... except CheckFailed as failed:
        ...     print(failed)
        twice returns None: did you forget `return`?
    """
    name = name or getattr(answer, "__name__", "your answer")
    if not callable(answer):
        raise CheckFailed(f"{name} is {shown(answer)} and no function: give its name, without parentheses")
    try:
        with warnings.catch_warnings(action="ignore"), redirect_stderr(io.StringIO()):
            value = answer(*arguments)
    except NotImplementedError as error:
        raise CheckFailed(
            f"{name} is not written yet: put your code where it says `raise NotImplementedError()`"
        ) from (error if str(error) else None)
    except CheckFailed:
        raise
    except Exception as error:  # whatever a student's code can raise, whose traceback stands above ours
        raise CheckFailed(f"{name} raised {type(error).__name__}: {first_line(error)}") from error
    if value is None:
        raise CheckFailed(f"{name} returns None: did you forget `return`?")
    return value


def compare(
    got: Any,
    expected: Any,
    likely: Likely | None = None,
    where: str = "",
    *,
    name: str = "your value",
    atol: float = ATOL,
    rtol: float = RTOL,
) -> None:
    """Nothing where two values are the same within tolerance; what is likely wrong where they are not.

    Args:
        got: The student's: a number, an array of any library, a sequence of numbers, or a text, set or truth value.
        expected: The library's.
        likely: Sentence -> what one gets who makes that mistake, or a function that computes it, which is called only
            where the answer is wrong. The first that fits is told. One whose value is the right one is passed over.
        where: What was compared, such as "layer 3 at END", for the message.
        name: What the message calls the value.
        atol, rtol: The difference that numbers may have, absolute and relative to the largest expected one.

    Raises:
        CheckFailed: In one line.

    Example:
        >>> from patchlib.coursework import CheckFailed, compare
        >>> likely = {"it is 1 - effect: did you patch the other way?": 1 - 0.8}
        >>> compare(0.8000001, 0.8, likely)
        >>> for wrong in (0.2, 0.5, [0.8, 0.8], float("nan")):
        ...     try:
        ...         compare(wrong, 0.8, likely, "layer 3", name="effect")
        ...     except CheckFailed as failed:
        ...         print(failed)
        it is 1 - effect: did you patch the other way?
        effect is 0.5 and should be 0.8 (layer 3)
        effect has shape (2,) and should have shape () (layer 3)
        effect is NaN and should be 0.8 (layer 3)
    """
    place = f" ({where})" if where else ""
    if got is None:
        raise CheckFailed(f"{name} is None: did you forget `return`?{place}")
    if _is_label(expected):
        if _is_label(got) and type(got) is type(expected) and got == expected:
            return
        said = next((sentence for sentence, value in (likely or {}).items() if _value(value) == got), None)
        raise CheckFailed(said or f"{name} is {shown(got)} and should be {_kind_of(expected)}{place}")
    right = _numbers(expected)
    try:
        numbers = _numbers(got)
    except (TypeError, ValueError) as error:
        raise CheckFailed(f"{name} is {shown(got)}, which is no number and no array of numbers{place}") from error
    if _alike(numbers, right, atol, rtol):
        return
    for sentence, value in (likely or {}).items():
        wrong = _numbers(_value(value))
        if not _alike(wrong, right, atol, rtol) and _alike(numbers, wrong, atol, rtol):
            raise CheckFailed(sentence)
    if numbers.shape != right.shape:
        raise CheckFailed(f"{name} has shape {numbers.shape} and should have shape {right.shape}{place}")
    index = tuple(int(i) for i in np.unravel_index(_worst(numbers, right), right.shape))
    at = f" at index {index if len(index) > 1 else index[0]}" if index else ""
    raise CheckFailed(f"{name} is {_said(numbers[index])}{at} and should be {_said(right[index])}{place}")


def right(name: str, where: str) -> None:
    """Print that an exercise's answer is right, and what it was compared at."""
    print(f"right: {name}, compared with patchlib ({where})")


def _value(value: Any) -> Any:
    return value() if callable(value) else value


def _is_label(value: object) -> bool:
    return isinstance(value, str | bool | Set)


def _kind_of(expected: object) -> str:
    """What is expected, without the answer itself, which could then be copied."""
    return (
        "the other one"
        if isinstance(expected, bool)
        else "another text"
        if isinstance(expected, str)
        else "another set"
    )


def _numbers(value: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Numbers of any library as float64, an element of torch's with a gradient too."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    elif isinstance(value, list | tuple):
        value = [_numbers(element) for element in value]
    if value is None or isinstance(value, str | bool | Mapping | Set):
        raise TypeError
    return np.asarray(value, dtype=np.float64)


def _alike(one: Any, other: Any, atol: float, rtol: float) -> bool:
    """Whether two arrays are the same; what is NaN in one must be in the other."""
    if one.shape != other.shape:
        return False
    largest = float(np.nanmax(np.abs(other), initial=0)) if other.size else 0.0
    return bool(np.allclose(one, other, rtol=0, atol=atol + rtol * largest, equal_nan=True))


def _worst(numbers: Any, right: Any) -> int:
    """The flat index where two arrays differ most; where one alone is NaN first."""
    apart = np.abs(numbers - right)
    return int(
        np.argmax(np.where(np.isnan(apart) & ~(np.isnan(numbers) & np.isnan(right)), np.inf, np.nan_to_num(apart)))
    )


def _said(number: float) -> str:
    return "NaN" if np.isnan(number) else f"{number:.4g}"
