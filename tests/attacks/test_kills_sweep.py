"""A sweep that is killed with -9 goes on where it was."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_sweep_that_is_killed_at_random_moments_is_repaired_by_the_next_call():
    command = [sys.executable, "-m", "tests.attacks.kills_sweep", "--times", "3", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 repaired" in done.stdout
