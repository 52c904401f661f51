"""An installed Chrome or Chromium, and where its pictures go."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        assert os.environ.get("PATCHLIB_BROWSER") != "required", "There is no browser, and .ci/run wants one."
        pytest.skip("No Chromium or Chrome is installed, such as Debian's package chromium.")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def pictures() -> Path:
    """PATCHLIB_SCREENSHOTS, or a folder in out/."""
    folder = Path(os.environ.get("PATCHLIB_SCREENSHOTS", "out/screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
