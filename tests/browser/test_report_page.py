"""The report in a browser, opened from disk with the network blocked: filtered, sorted, drawn, on three screens."""

from __future__ import annotations

import re

import pytest

import patchlib
from tests.runs.runs_folder import PNG, add_run

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SCREENS = {"wide": (1280, 900, "light"), "phone": (375, 812, "light"), "dark": (1280, 900, "dark")}
EVIL = "<img src=x onerror=\"document.title='broken'\"><script>document.title = 'broken'</script>"
START = 60_000
"""Milliseconds for a page of 6 MB to be ready on a busy machine."""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("grid")
    for seed in range(3):
        add_run(out, f"seed={seed}", parameters={"seed": seed}, png=PNG)
    add_run(out, "model_name=other,seed=0", parameters={"model_name": "other", "text": EVIL})
    long = {"model_name": f"/home/somebody/{'models/' * 12}of-mine", "seed": 4}
    add_run(out, "seed=4", "waiting", parameters=long)
    add_run(out, "seed=3", "failed", parameters={"seed": 3, EVIL: EVIL}, error=f"ValueError: {EVIL} {'long ' * 40}")
    return patchlib.write_report(out)


@pytest.fixture(params=SCREENS)
def page(browser, report, request, pictures):
    """The report on a screen; nothing may be asked of the network, nor anything be said in the console."""
    width, height, scheme = SCREENS[request.param]
    opened = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    opened.set_default_timeout(START)
    asked, complaints = [], []
    opened.context.set_offline(True)
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto(report.as_uri())
    opened.get_by_text("Showing 1 to 6 of 6").wait_for()  # the table is ready
    yield opened
    opened.screenshot(path=pictures / f"report_{request.param}_{request.function.__name__}.png")
    outside = [address for address in asked if not address.startswith(("data:", "blob:", report.as_uri()))]
    assert not outside and not complaints
    assert opened.title().startswith("Many runs")  # no name has run
    opened.close()


def rows(page):
    return page.locator(".dt-scroll-body tbody tr:visible")


def colour(css: str) -> list[str]:
    """Red, green and blue of `rgb(...)`, or of `rgba(...)`."""
    return re.findall(r"\d+", css)[:3] if css.startswith("rgb") else [css]


def draw_all(page):
    """Bring each figure into view, and wait until it is drawn."""
    for place in page.locator(".figure:visible").all():
        place.scroll_into_view_if_needed()
        place.locator(".main-svg").first.wait_for()


def test_the_table_is_filtered_and_sorted_with_the_keyboard_and_the_figures_with_it(page):
    pictures = page.locator(".celltag_gallery [data-run]:visible")
    assert rows(page).count() == 6 and pictures.count() == 5 + 5 + 3
    page.locator(".dt-scroll-foot").get_by_placeholder("status").press_sequentially("ok")
    page.get_by_text("Showing 1 to 4 of 4").wait_for()
    page.locator(".dt-scroll-foot").get_by_placeholder("model_name").press_sequentially("tiny")
    page.get_by_text("Showing 1 to 3 of 3").wait_for()
    assert pictures.count() == 3 * 3
    page.get_by_label("Search").press_sequentially("seed=1")
    page.get_by_text("Showing 1 to 1 of 1").wait_for()
    assert "seed=1" in rows(page).inner_text() and pictures.count() == 3
    page.get_by_label("Search").fill("")
    page.get_by_text("Showing 1 to 3 of 3").wait_for()
    header = page.locator(".dt-scroll-head th").last.get_by_role("button")
    for state in ("ascending", "descending"):
        header.focus()
        page.keyboard.press("Enter")
        page.locator(f".dt-scroll-head th[aria-sort={state}]").wait_for()
    assert [text.split("\t")[-1].strip() for text in rows(page).all_inner_texts()] == ["1202.0", "1201.0", "1200.0"]


def test_failed_runs_are_marked_and_told_with_their_error(page):
    failed = rows(page).filter(has_text="seed=3")
    assert failed.locator("b").inner_text() == "failed" and EVIL in failed.inner_text()
    assert page.locator("[onerror]").count() == 0


def test_figures_are_drawn_when_they_come_near_in_the_colours_of_the_page(page):
    assert page.locator(".figure").count() > page.locator(".main-svg").count() / 3
    draw_all(page)
    ink = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--jp-content-font-color1')")
    text = page.locator(".figure .xtick text").first.evaluate("text => getComputedStyle(text).fill")
    assert colour(text) == colour(ink.strip())


def test_the_page_is_no_wider_than_the_screen(page):
    draw_all(page)
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == width
    too_wide = """width => [...document.querySelectorAll('main *')]
        .filter(one => !one.closest('.dt-container, svg, pre, [hidden]'))
        .filter(one => one.getBoundingClientRect().right > width + 1)
        .map(one => one.outerHTML.slice(0, 80))"""
    assert page.evaluate(too_wide, width) == []
