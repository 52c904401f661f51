"""Every attack ends in the right number or in one clear line."""

import pytest

from patchlib.errors import SweepError
from tests.attacks.case import GOOD, Case, judge, refused
from tests.attacks.table import all_cases


@pytest.mark.parametrize("tried", all_cases(), ids=lambda tried: f"{tried.kind} {tried.text}")
def test_an_attack_gives_the_right_number_or_one_clear_line(tried: Case) -> None:
    verdict = judge(tried, slack=5)
    assert verdict.outcome in GOOD, f"{verdict.outcome}: {verdict.said}"


def _raise(error: Exception) -> None:
    raise error


def _spin() -> None:
    while True:
        pass


@pytest.mark.parametrize(
    ("attack", "outcome"),
    [
        (lambda: "1.5", "right"),
        (lambda: refused(lambda: _raise(SweepError("There is no head L9H9.")), "L9H9"), "clear refusal"),
        (lambda: refused(lambda: _raise(SweepError("There is no head L9H9.")), "L1H1"), "wrong"),
        (lambda: refused(lambda: _raise(SweepError("one\ntwo"))), "wrong"),
        (lambda: refused(lambda: 3), "wrong"),
        (lambda: refused(lambda: _raise(KeyError(3))), "traceback"),
        (_spin, "hang"),
    ],
)
def test_outcomes_are_told_apart(attack, outcome):
    assert judge(Case("A1", "a made-up case", attack, 0.1)).outcome == outcome
