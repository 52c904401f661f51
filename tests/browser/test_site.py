"""The site, built from docs/: every link leads somewhere, nothing comes from the network, and people can use it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup

import patchlib

ROOT = Path(__file__).parents[2]
SCREENS = {"wide": (1280, 900, "light"), "phone": (390, 844, "light"), "dark": (1280, 900, "dark")}
PAGES = ("index", "limits", "reference/patching", "notebooks/02_head_patching")
START = 60_000

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if importlib.util.find_spec("sphinx") is None:
        assert os.environ.get("PATCHLIB_BROWSER") != "required", "There is no Sphinx, and .ci/run wants it."
        pytest.skip("The extra docs is not installed.")
    out = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "-W", "-q", "-d", str(out / "read"), "docs", str(out / "html")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # a link or a name that leads nowhere is a warning, and fails
    return out / "html"


@pytest.fixture(scope="module")
def documents(site):
    """Address -> what is there, of each page."""
    paths = [path for path in site.rglob("*.html") if "_static" not in path.parts]
    return {path: BeautifulSoup(path.read_text("utf-8"), "html.parser") for path in paths}


def test_every_link_and_anchor_inside_leads_somewhere(site, documents):
    ids = {path: {tag["id"] for tag in document.find_all(id=True)} for path, document in documents.items()}
    lost, followed = set(), 0
    for path, document in documents.items():
        for tag in document.select("a[href], link[href], img[src], script[src]"):
            address = urlsplit(tag.get("href") or tag.get("src"))
            if address.scheme:
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            followed += 1
            missing_anchor = address.fragment and target in ids and unquote(address.fragment) not in ids[target]
            if not target.is_file() or missing_anchor:
                lost.add(f"{path.relative_to(site)}: {address.geturl()}")
    assert followed > 1000 and not lost


def test_pages_ask_nothing_of_the_network(site, documents):
    asked = {
        f"{path.relative_to(site)}: {tag.get('src') or tag.get('href')}"
        for path, document in documents.items()
        for tag in document.select("[src], link[rel=stylesheet], link[rel=preload]")
        if str(tag.get("src") or tag.get("href")).startswith(("http:", "https:", "//"))
    }
    assert not asked
    notebook = documents[site / "notebooks/01_layer_patching.html"]
    assert len(notebook.select("script[src*='plotly.min.js']")) == 1


def test_the_reference_has_every_public_name(site, documents):
    documented = {tag["id"] for document in documents.values() for tag in document.select("dt.sig[id]")}
    modules = {"plots", "stats", "tasks", "toys", "widgets"}
    assert {f"patchlib.{name}" for name in set(patchlib.__all__) - modules} <= documented
    for module in modules - {"tasks"}:
        names = {f"patchlib.{module}.{name}" for name in getattr(patchlib, module).__all__}
        taken = {name for name in names if name.rpartition(".")[2] in {*patchlib.__all__, "runs", "takeaways"}}
        assert names - taken <= documented


@pytest.fixture(params=SCREENS)
def page(browser, request):
    """A page on a screen without a network; nothing is asked of it, and nothing complained of in the console."""
    width, height, scheme = SCREENS[request.param]
    opened = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    opened.set_default_timeout(START)
    opened.context.set_offline(True)
    asked, complaints = [], []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.screen = request.param
    yield opened
    outside = [address for address in asked if not address.startswith(("data:", "blob:", "file:"))]
    assert not outside and not complaints
    opened.close()


def draw_all(page):
    for place in page.locator(".drawn").all():
        place.scroll_into_view_if_needed()
        place.locator(".main-svg").first.wait_for()
        behind = place.evaluate("place => getComputedStyle(place.closest('.text_html')).backgroundColor")
        assert behind == "rgba(0, 0, 0, 0)"  # the page's own, for which a dark theme's figures have light text
    page.evaluate("scrollTo(0, 0)")


@pytest.mark.browser
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_and_no_wider_than_the_screen(page, site, pictures, name):
    page.goto((site / f"{name}.html").as_uri())
    draw_all(page)
    picture = pictures / f"site_{name.replace('/', '_')}_{page.screen}.png"
    page.screenshot(path=picture)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21aa"]})
    assert not found.response["violations"], found.generate_report()


@pytest.mark.browser
def test_search_finds_a_word_without_a_network(page, site):
    page.goto((site / "search.html").as_uri() + "?q=denoising")
    page.locator("#search-results li a").first.wait_for()
    found = page.locator("#search-results li").all_inner_texts()
    assert any("Glossary" in text for text in found)
