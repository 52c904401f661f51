"""The benchmark runs, and finds both ways to agree; how fast they are is for a quiet machine to say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_benchmark_runs_on_tiny_models_and_finds_no_difference():
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.bench_sweep", "--quick", "--repeats", "1"]
    root = Path(__file__).parents[1]
    said = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout
    differences = [float(line.rsplit("difference ", 1)[1]) for line in said.splitlines() if "; difference " in line]
    assert len(differences) == 12
    assert max(differences) <= 1e-4
