"""What a control gives Colab's page to show: drawn in a browser that gets plotly from the network, as there."""

from __future__ import annotations

from importlib.resources import files

import plotly.graph_objects as go
import pytest

from patchlib.plots.style import PLOTLY_MIME, style
from patchlib.widgets import drawing

pytestmark = pytest.mark.browser


def test_a_figure_is_a_page_of_its_own_which_draws_itself(browser, pictures, monkeypatch):
    figure = style(go.Figure(go.Bar(y=[1, 3, 2])), "Heads & <b>layers</b>", "n = 8", 400)
    assert list(drawing.bundle(figure)) == [PLOTLY_MIME]
    monkeypatch.setenv("COLAB_NOTEBOOK_ID", "1")
    shown = drawing.bundle(figure)
    assert list(shown) == ["text/html"]

    page, asked, complaints = browser.new_page(viewport={"width": 900, "height": 450}), [], []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    script = files("plotly").joinpath("package_data", "plotly.min.js").read_text("utf-8")

    def answer(route) -> None:
        asked.append(route.request.url)
        cross_origin = {"access-control-allow-origin": "*"}  # the script is asked for with its hash
        route.fulfill(body=script, content_type="text/javascript; charset=utf-8", headers=cross_origin)

    page.route("**/plotly*.js", answer)
    page.set_content("<div id=output></div>")
    # As Colab does: innerHTML, which runs no script of the page itself.
    page.evaluate("shown => document.querySelector('#output').innerHTML = shown", shown["text/html"])
    page.frame_locator("iframe").locator(".gtitle").wait_for(timeout=30_000)
    assert page.frame_locator("iframe").locator(".gtitle").text_content() == "Heads & layers"
    box, inner = page.locator("iframe").bounding_box(), page.frame_locator("iframe").locator(".main-svg").first
    assert box and box["height"] >= inner.bounding_box()["height"] and box["width"] >= inner.bounding_box()["width"]
    page.screenshot(path=pictures / "colab.png")
    assert len(asked) == 1 and not complaints
    page.close()
