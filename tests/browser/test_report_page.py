"""The report in a browser, opened from disk with the network blocked: filtered, sorted, enlarged, on two screens."""

from __future__ import annotations

import pytest

import patchlib
from tests.runs.runs_folder import PNG, add_run

pytestmark = pytest.mark.browser
SCREENS = {"wide": (1280, 900, "light"), "phone": (375, 812, "light"), "dark": (1280, 900, "dark")}
EVIL = "<img src=x onerror=\"document.title='broken'\"><script>document.title = 'broken'</script>"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("grid")
    for seed in range(3):
        add_run(out, f"seed={seed}", parameters={"seed": seed}, png=PNG)
    add_run(out, "model_name=other,seed=0", parameters={"model_name": "other"})
    long = {"model_name": f"/home/somebody/{'models/' * 12}of-mine", "seed": 4}
    add_run(out, "seed=4", "waiting", parameters=long)
    add_run(out, "seed=3", "failed", parameters={"seed": 3}, error=f"ValueError: {EVIL} {'long ' * 40}")
    return patchlib.write_report(out)


@pytest.fixture(params=SCREENS)
def page(browser, report, request, pictures):
    """The report on a screen; nothing may be asked of the network, nor anything be said in the console."""
    width, height, scheme = SCREENS[request.param]
    opened = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    asked, complaints = [], []
    opened.context.set_offline(True)
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(report.as_uri())
    yield opened
    opened.screenshot(path=pictures / f"report_{request.param}_{request.function.__name__}.png")
    outside = [address for address in asked if not address.startswith(("data:", "blob:", report.as_uri()))]
    assert not outside and not complaints
    assert opened.title().startswith("patchlib report")
    opened.close()


def visible_rows(page) -> list[str]:
    return [row.inner_text() for row in page.locator("#runs tbody tr:visible").all()]


def test_the_table_is_filtered_and_sorted_with_the_keyboard(page):
    assert len(visible_rows(page)) == 6
    page.get_by_label("model_name").select_option("tiny")
    page.get_by_label("status").select_option("ok")
    assert len(visible_rows(page)) == 3 and page.locator("#count").inner_text() == "3 of 6 runs"
    assert page.locator(".thumbs li:visible").count() == 3 * 3
    page.get_by_label("Search").fill("0.82")
    assert len(visible_rows(page)) == 1
    page.get_by_label("Search").fill("seed=1")
    assert len(visible_rows(page)) == 1 and page.locator("#runs tbody tr:visible td").nth(2).inner_text() == "1"
    page.get_by_label("Search").fill("")
    header = page.get_by_role("button", name="memory (MB)")
    header.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    memory = [row.locator("td").last.inner_text() for row in page.locator("#runs tbody tr:visible").all()]
    assert memory == ["1,202", "1,201", "1,200"]
    assert page.locator("th[aria-sort=descending]").count() == 1


def test_figures_are_drawn_and_enlarged(page):
    button = page.locator(".thumbs button").first
    button.scroll_into_view_if_needed()
    small = button.locator("img")
    page.wait_for_function("image => image.naturalWidth > 0", arg=small.element_handle())
    assert small.get_attribute("src").startswith("data:image/svg+xml")
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog[open]")
    dialog.locator(".main-svg").first.wait_for()
    large, before = dialog.locator(".svg-container").bounding_box(), small.bounding_box()
    assert large["width"] > 1.5 * before["width"]
    assert "model_name=other" in dialog.locator("h2").inner_text()
    page.keyboard.press("ArrowRight")
    assert "model_name=tiny" in dialog.locator("h2").inner_text()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")  # round the end, to a picture
    dialog.locator("#large img").wait_for()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    last = "document.activeElement === [...document.querySelectorAll('.thumbs button')].at(-1)"
    assert page.evaluate(last)  # the one that was looked at last


def test_comparisons_are_drawn_in_the_colours_of_the_page(page):
    plots = page.locator(".plot")
    for plot in plots.all():
        plot.scroll_into_view_if_needed()
        plot.locator(".main-svg").first.wait_for()
    assert plots.count() == 5
    ink = page.evaluate("getComputedStyle(document.body).color")
    said = plots.first.locator(".xtick text").first.evaluate("text => getComputedStyle(text).fill")
    assert said == ink


def test_the_page_is_no_wider_than_the_screen(page):
    for element in page.locator(".plot").all():
        element.scroll_into_view_if_needed()
        element.locator(".main-svg").first.wait_for()
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    too_wide = """width => [...document.querySelectorAll('main *, header *')]
        .filter(one => !one.closest('.scroll, svg') && one.getBoundingClientRect().right > width + 1)
        .map(one => one.outerHTML.slice(0, 80))"""
    assert page.evaluate(too_wide, width) == []
    if width < 500:
        inside = page.locator(".scroll").evaluate("box => [box.scrollWidth > box.clientWidth, box.tabIndex]")
        assert inside == [True, 0]
    page.locator(".thumbs button").first.click()
    page.locator("dialog[open] .main-svg").first.wait_for()
    box = page.locator("dialog[open]").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") == width
