"""The house stands: imports go one way, types hold, the code is formatted."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHECKS = {
    "imports go one way": ["lint-imports", "--no-cache"],
    "types hold": ["mypy"],
    "no linter's complaint": ["ruff", "check"],
    "formatted": ["ruff", "format", "--check"],
}


@pytest.mark.slow
@pytest.mark.parametrize("what", CHECKS)
def test_the_house_stands(what: str) -> None:
    tool, *arguments = CHECKS[what]
    done = subprocess.run(
        [str(Path(sys.executable).with_name(tool)), *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
