"""What a case is, and how its outcome is judged."""

from __future__ import annotations

import inspect
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchlib.errors import PatchlibError

RIGHT, REFUSED, TRACEBACK, WRONG, HANG = "right", "clear refusal", "traceback", "wrong", "hang"
GOOD = (RIGHT, REFUSED)
LONGEST_REFUSAL = 600  # characters; more is a report and no line


class Wrong(AssertionError):
    """Something was accepted, or a number is not the one that was asked for."""


class Hang(BaseException):
    """The time limit passed; no `except Exception` on the way may catch it."""


@dataclass(frozen=True)
class Refusal:
    """One clear line that patchlib said."""

    line: str


@dataclass(frozen=True)
class Case:
    """One attack: what it is of, what is done, and how long it may take."""

    kind: str
    text: str
    attack: Callable[..., Refusal | str | None]
    seconds: float


@dataclass(frozen=True)
class Verdict:
    """How a case ended, and what was said."""

    outcome: str
    said: str
    seconds: float


CASES: list[Case] = []


def case(kind: str, text: str, seconds: float = 60) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a case of a kind ("A5").

    It may take `folder`, an empty one that goes afterwards. It raises AssertionError where a number is wrong, and
    returns what `refused` returned, or a few words on what came out right.
    """

    def register(attack: Callable[..., Any]) -> Callable[..., Any]:
        CASES.append(Case(kind, text, attack, seconds))
        return attack

    return register


def refused(call: Callable[[], object], *words: str, by: type[PatchlibError] = PatchlibError) -> Refusal:
    """What patchlib says when it refuses: one line with all of these words in it.

    Raises:
        Wrong: The call went through, or the line is not clear.
        Exception: Anything else that the call raises: a raw traceback.
    """
    try:
        given = call()
    except by as error:
        return Refusal(clear_line(str(error), *words))
    raise Wrong(f"accepted, and gave {given!r:.200}")


def clear_line(said: str, *words: str) -> str:
    """The same line; Wrong if it is empty, several lines, endless, or without one of the words (of any case)."""
    missing = [word for word in words if word.lower() not in said.lower()]
    if missing or not said.strip() or "\n" in said.strip() or len(said) > LONGEST_REFUSAL or "Traceback" in said:
        raise Wrong(f"not clear ({f'without {missing}' if missing else 'no one line'}): {said!r:.600}")
    return said.strip()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise Hang in the main thread, once the time is over."""

    def stop(*_: object) -> None:
        raise Hang(f"did not end in {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def judge(tried: Case, slack: float = 1) -> Verdict:
    """Try a case.

    Args:
        tried: It runs in this process and in the main thread.
        slack: How many times its limit it may take, on a busy machine.
    """
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="attack-") as name:
        arguments = {"folder": Path(name)} if "folder" in inspect.signature(tried.attack).parameters else {}
        try:
            with time_limit(tried.seconds * slack):
                came = tried.attack(**arguments)
            said = came.line if isinstance(came, Refusal) else came or "as by hand"
            outcome = REFUSED if isinstance(came, Refusal) else RIGHT
        except AssertionError as error:
            outcome, said = WRONG, str(error) or traceback.format_exc(limit=-1)
        except Hang as error:
            outcome, said = HANG, str(error)
        except Exception as error:  # whatever it is, it is what a user would see
            outcome = TRACEBACK
            said = f"{type(error).__name__}: {error} ({traceback.extract_tb(error.__traceback__)[-1]})"
    return Verdict(outcome, said, time.monotonic() - began)
