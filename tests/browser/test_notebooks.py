"""Every notebook in JupyterLab, in a browser: all cells run, every control moved, nothing asked of the network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from patchlib import load_model
from tests.browser.lab import Lab, jupyterlab

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.real_model]
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PICTURES = Path(os.environ.get("PATCHLIB_SCREENSHOTS", "out/screenshots"))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RUN = 400
"""Seconds for a whole notebook, of which another test takes half of the machine."""


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        assert os.environ.get("PATCHLIB_BROWSER") != "required", "There is no browser, and .ci/run wants one."
        pytest.skip("No Chromium or Chrome is installed, such as Debian's package chromium.")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    load_model()  # or the first cell would fetch it
    folder = tmp_path_factory.mktemp("lab")
    for path in NOTEBOOKS.glob("*.ipynb"):
        shutil.copy(path, folder)
    with jupyterlab(folder) as found:
        yield found


@pytest.fixture
def lab(browser, address, request) -> Iterator[Lab]:
    """The notebook of the test's name, run; afterwards a picture, and what must hold of each."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(60_000)
    opened = Lab(page, address)
    notebook = request.node.name.removeprefix("test_")
    opened.open(f"{notebook}.ipynb")
    opened.run_all(RUN)
    assert not opened.errors()
    yield opened
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{notebook}.png")
    assert not opened.errors() and not opened.outside
    assert not [said for said in opened.complaints if "favicon" not in said]
    page.evaluate("window.jupyterapp.commands.execute('kernelmenu:shutdown')")
    page.close()


def test_01_layer_patching(lab):
    explorer = lab.control("result_explorer")
    explorer.wait_for("denoising: mean of all prompts")
    explorer.pick("Result", "noising")
    explorer.wait_for("noising: mean of all prompts")
    before = explorer.titles()[1]
    explorer.press("Cell (rank)", "ArrowRight")
    explorer.wait_for_change(1, before)
    explorer.pick("Prompt", "prompt 1")
    explorer.wait_for("noising: prompt 1")
    explorer.press("Hide below", "ArrowRight")
    explorer.wait_for("effects below 0.01 hidden")

    playground = lab.control("prompt_playground")
    playground.click("Run")
    playground.wait_for("Denoising resid_pre, your prompts")
    playground.pick("Site", "z")
    playground.click("Run")
    playground.click("Cancel")
    playground.wait_for_text("Cancelled.")
    playground.type("Corrupted prompt", "When Mary and John went to the store, Mary gave")
    playground.wait_for_text("tokens and its corrupted prompt")
    playground.type("Corrupted prompt", "When Mary and John went to the store, Mary gave a drink to")
    playground.type("Right answer", "Qwertyuiop")
    playground.wait_for_text("give a word of one")
    playground.type("Right answer", "Mary")
    playground.pick("Site", "mlp_out")
    playground.click("Run")
    playground.wait_for("Denoising mlp_out, your prompts")


def test_02_head_patching(lab):
    explorer = lab.control("head_explorer")
    first = explorer.titles()[0]
    explorer.click("Next")
    explorer.wait_for_change(0, first)
    explorer.press("Prompt", "ArrowRight")
    explorer.wait_for("on prompt 1")
    explorer.click("Previous")
    explorer.wait_for(f"{first.split()[0]} on prompt 1")
    results = lab.control("result_explorer")
    results.pick("Result", "noising")
    results.wait_for("noising: mean of all prompts")


def test_03_ioi_circuit(lab):
    heads = lab.control("head_explorer")
    first = heads.titles()[0]
    heads.wait_for_text("subject suppressor at END")
    heads.click("Next")
    heads.wait_for_change(0, first)
    heads.click("Previous")
    heads.wait_for_text("subject suppressor at END")
    builder = lab.control("circuit_builder")
    builder.wait_for_text("Left out: nothing.")
    found = builder.cell.locator(".widget-select-multiple select").all()
    longest = max(found, key=lambda one: one.locator("option").count())
    longest.focus()
    lab.page.keyboard.press("Home")  # the first head alone stays
    builder.wait_for_text("Left out: L")


def test_04_induction_heads(lab):
    view = lab.control("attention_view")
    first = view.titles()[0]
    view.press("Head", "ArrowRight")
    view.wait_for_change(0, first)
    assert view.titles()[0].endswith("on prompt 0")
    view.pick("Prompt", "Harry Potter was a wizard. Everyone knew Harry Potter")
    view.wait_for("on prompt 1")
    heads = lab.control("head_explorer")
    heads.click("Next")
    heads.press("Prompt", "ArrowRight")
    heads.wait_for("on prompt 1")
