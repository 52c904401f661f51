"""A short round of `python -m tests.attacks.kills_runs`."""

from __future__ import annotations

import pytest

from tests.attacks.kills_runs import kills


@pytest.mark.slow
@pytest.mark.parametrize(("name", "times"), [("run", 1), ("grid", 2)])
def test_what_a_kill_leaves_is_no_result_and_is_repaired_by_the_same_command(name, times):
    assert all(row.endswith("repaired |") for row in kills(name, times, seed=7))
