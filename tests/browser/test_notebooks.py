"""Every notebook in JupyterLab, in a browser: all cells run, every control moved, nothing asked of the network.

With fewer prompts and layers than by default: what the numbers are at the defaults, nbval asks.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from patchlib import load_model
from tests.browser.lab import Control, Lab, jupyterlab

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.real_model]
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
RUN = 400
"""Seconds for a whole notebook, of which another test takes half of the machine."""
FEWER = {
    "01_layer_patching": "n_prompts, layers = 4, [17, 20, 23, 26]",
    "02_head_patching": "n_prompts, layers = 4, [17, 20, 23, 24]",
    "03_ioi_circuit": "n_prompts, depth, n_test = 16, 1, 4",  # of fewer prompts no head is told from chance
    "04_induction_heads": "n_prompts, n_rows, top_k = 2, 2, 3",
    "05_attribution": "n_prompts, n_test, steps = 2, 1, 2",
    "06_your_own_question": "n_prompts, top_k = 8, 2",
}
"""What is written below a notebook's parameters, so that it takes less time; its asserts hold with them too."""


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    load_model()  # or the first cell would fetch it
    folder = tmp_path_factory.mktemp("lab")
    shutil.copytree(NOTEBOOKS / "diagrams", folder / "diagrams")
    for name, fewer in FEWER.items():
        nb = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        (parameters,) = [cell for cell in nb.cells if "parameters" in cell.metadata.get("tags", [])]
        parameters.source += f"\n{fewer}"
        nbformat.write(nb, folder / f"{name}.ipynb")
    with jupyterlab(folder) as found:
        yield found


@pytest.fixture
def lab(browser, address, request, pictures) -> Iterator[Lab]:
    """The notebook of the test's name, run; afterwards a picture, and what must hold of each."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(60_000)
    opened = Lab(page, address)
    notebook = request.node.name.removeprefix("test_")
    opened.open(f"{notebook}.ipynb")
    opened.run_all(RUN)
    assert not opened.errors()
    assert all(opened.pictures())
    yield opened
    look(opened, notebook, pictures)
    assert not opened.errors() and not opened.outside
    assert not [said for said in opened.complaints if "favicon" not in said]
    page.evaluate("window.jupyterapp.commands.execute('kernelmenu:shutdown')")
    page.close()


def look(lab: Lab, notebook: str, pictures: Path) -> None:
    """Pictures of every control in both themes and at two widths, of which nothing may be hard to read."""
    for theme in ("Light", "Dark"):
        lab.theme(theme)
        assert all(lab.figures_are(theme))
        for width in (1280, 1920):
            lab.page.set_viewport_size({"width": width, "height": 1400})
            for number in range(2):
                control = lab.control(number)
                control.wait_until_settled()
                control.cell.screenshot(path=pictures / f"{notebook}-{number}-{theme.lower()}-{width}.png")
        for number in range(2):
            lab.control(number).accessible()


def test_01_layer_patching(lab):
    explorer = lab.control(0)
    explorer.wait_for("noising: mean of all prompts")
    explorer.pick("Result", "denoising")
    explorer.wait_for("denoising: mean of all prompts")
    before = explorer.title(1)
    explorer.click("Next")
    explorer.wait_for_change(1, before)
    before = explorer.title(1)
    explorer.press("layer", "ArrowLeft")
    explorer.wait_for_change(1, before)
    cell = explorer.pick_row("By effect", 4).split(" (")[0]
    explorer.wait_for(f"denoising, logit_diff: {cell}")
    explorer.pick("Prompt", "prompt 1")
    explorer.wait_for("denoising: prompt 1")
    explorer.press("Hide below", "ArrowRight")
    explorer.wait_for("effects below 0.01 hidden")
    explorer.drag("Hide below", 60)
    explorer.wait_for_change(0, "denoising: prompt 1, effects below 0.01 hidden")
    explorer.press("Rows", "Home")
    explorer.wait_for_rows(1)

    playground = lab.control(1)
    playground.click("Run")
    playground.wait_for("Denoising resid_pre, your prompts")
    playground.pick("Site", "z")
    playground.click("Run")
    playground.click("Cancel")
    playground.wait_for_text("Cancelled.")
    playground.type("Corrupted prompt", "When Mary and John went to the store, Mary gave")
    playground.wait_for_text("tokens and its corrupted prompt")
    playground.click("Run")
    playground.wait_for_text("Not run: mend what is said above first.")
    playground.type("Corrupted prompt", "When Mary and John went to the store, Mary gave a drink to")
    playground.type("Right answer", "Qwertyuiop")
    playground.wait_for_text("give a word of one")
    playground.type("Right answer", "table")
    playground.type("Wrong answer", "chair")
    playground.pick("Site", "mlp_out")
    playground.click("Run")
    playground.wait_for_text("no usable contrast")
    playground.type("Right answer", "Mary")
    playground.type("Wrong answer", "John")
    playground.pick("Site", "attn_out")
    playground.click("Run")
    playground.wait_for("Denoising attn_out, your prompts")


def goes_through_heads(control: Control) -> None:
    """The head explorer by button, list and slider; the pattern, the sentence and the table follow."""
    first = control.title(0)
    control.click("Next")
    control.wait_for_change(0, first)
    head = control.title(0).split()[0]
    control.wait_for_text(f"{head} looks most at")
    control.press("Prompt", "ArrowRight")
    control.wait_for(f"{head} on prompt 1")
    head = control.pick_row("By effect", 4).split()[1]
    control.wait_for(f"{head} on prompt 1")
    control.press("head", "ArrowRight" if head.endswith("H0") else "ArrowLeft")
    control.wait_for_change(0, f"{head} on prompt 1")
    control.pick_row("By effect", 1)
    control.click("Previous")
    control.wait_for(f"{first.split()[0]} on prompt 1")


def test_02_head_patching(lab):
    results = lab.control(0)
    results.pick("Result", "denoising")
    results.wait_for("denoising: mean of all prompts")
    goes_through_heads(lab.control(1))


def test_03_ioi_circuit(lab):
    heads = lab.control(0)
    heads.wait_for_text("subject suppressor at END")
    goes_through_heads(heads)
    heads.wait_for_text("subject suppressor at END")
    builder = lab.control(1)
    builder.wait_for_text("Left out: nothing.")
    builder.tick("L23H3")
    builder.wait_for_text("Left out: L23H3 (subject suppressor).")
    builder.tick("subject suppressor")
    builder.wait_for_text("Left out: nothing.")


def test_04_induction_heads(lab):
    view = lab.control(0)
    first = view.title(0)
    view.press("Head", "ArrowRight")
    view.wait_for_change(0, first)
    assert view.title(0).endswith("on prompt 0")
    view.pick("Prompt", "This is Harry Potter. Everyone knew Harry Potter")
    view.wait_for("on prompt 1")
    goes_through_heads(lab.control(1))


def test_05_attribution(lab):
    estimates = lab.control(0)
    estimates.wait_for("gradient: estimated against exact")
    estimates.pick("Method", "integrated")
    estimates.wait_for("integrated: estimated against exact")
    estimates.press("Steps", "ArrowRight")
    estimates.wait_for("integrated, 2 steps: estimated against exact")
    estimates.press("Misses named", "Home")
    estimates.wait_for_rows(3)  # the gradient, and integrated gradients at 1 and 2 steps
    edges = lab.control(1)
    first = edges.title(0)
    edges.press("Share kept", "ArrowRight")
    edges.wait_for_change(0, first)
    edges.wait_for_text("edges chosen, of which")
    edges.pick("Edges by", "eap")
    edges.wait_for("eap: ")
    edges.pick("Ranking", "sign")
    edges.wait_for("by sign")


def test_06_your_own_question(lab):
    explorer = lab.control(0)
    before = explorer.title(1)
    explorer.click("Next")
    explorer.wait_for_change(1, before)
    playground = lab.control(1)
    playground.type("File", "out/my_prompts.csv")
    playground.click("Load")
    playground.wait_for_text("2 of 3 rows fit")
    playground.wait_for_text("' dog' takes 1 where ' rhinoceros' takes 2")
    playground.click("Run all rows that fit")
    playground.wait_for("Denoising resid_pre")
    playground.type("Right answer", "dog, puppy")
    playground.type("File", "out/saved.csv")
    playground.click("Save the pair")
    playground.wait_for_text("Saved as row 1 of")
