"""A short round of `python -m tests.attacks.kills_runs`."""

from __future__ import annotations

import pytest

from tests.attacks.kills_runs import kills


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run", "grid"])
def test_what_a_kill_leaves_is_no_result_and_is_repaired_by_the_same_command(name):
    (row,) = kills(name, 1, seed=7)
    assert row.endswith("repaired |")
