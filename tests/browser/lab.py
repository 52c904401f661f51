"""JupyterLab in a real browser: a server as a user would start it, and a page to click in."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page

START = 300
"""Seconds for the server, the page and a kernel to come up on a busy machine."""
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # else cells out of view are not in the page
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """The address of a JupyterLab that serves a folder on this machine alone."""
    for name, values in SETTINGS.items():
        path = folder / ".settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    own = {f"JUPYTERLAB_{name}_DIR": str(folder / f".{name.lower()}") for name in ("SETTINGS", "WORKSPACES")}
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0", "--IdentityProvider.token=",
               "--LabApp.expose_app_in_browser=True"]  # fmt: skip
    log = folder / "jupyterlab.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            cwd=folder, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **own},
        )  # fmt: skip
    try:
        end = time.monotonic() + START
        while not (found := re.search(r"http://127\.0\.0\.1:\d+(?=/lab)", log.read_text())):
            assert server.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.3)
        yield found.group()
    finally:
        server.terminate()
        server.wait(START)


class Lab:
    """One open notebook.

    Attributes:
        outside: Requests that would have left the machine; they are refused.
        complaints: Errors in the browser's console.
    """

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.outside: list[str] = []
        self.complaints: list[str] = []
        page.route("**/*", self._route)
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _route(self, route) -> None:
        if urlsplit(route.request.url).hostname in ("127.0.0.1", None):
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()

    def open(self, notebook: str) -> None:
        """Open a notebook and wait for its kernel."""
        self.page.goto(f"{self.address}/lab/tree/{notebook}?reset")
        self.page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=START * 1000)
        self.page.wait_for_function("window.jupyterapp !== undefined")
        self.wait_until_idle(START)

    def run_all(self, seconds: float) -> None:
        """Run every cell, top to bottom, and wait for the last one."""
        # The promise is kept and not returned: evaluate would wait for it, without a limit.
        self.page.evaluate("""() => {
            window.allHaveRun = false;
            const run = window.jupyterapp.commands.execute('notebook:run-all-cells');
            run.finally(() => { window.allHaveRun = true; });
        }""")
        self.page.wait_for_function("window.allHaveRun", timeout=seconds * 1000)
        self.wait_until_idle(seconds)

    def wait_until_idle(self, seconds: float) -> None:
        """Wait until no cell is running or waiting."""
        idle = """() => {
            const session = window.jupyterapp.shell.currentWidget?.context?.sessionContext?.session;
            const prompts = [...document.querySelectorAll('.jp-InputPrompt')];
            const running = prompts.some(one => one.textContent.includes('*'));
            return session?.kernel?.status === 'idle' && !running;
        }"""
        self.page.wait_for_function(idle, timeout=seconds * 1000)

    def errors(self) -> list[str]:
        """What cells printed as errors."""
        printed = ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']"
        return self.page.locator(printed).all_inner_texts()

    def pictures(self) -> list[bool]:
        """Whether each picture in the text is shown."""
        shown = "() => [...document.querySelectorAll('.jp-MarkdownOutput img')].map(image => image.naturalWidth > 0)"
        return self.page.evaluate(shown)  # type: ignore[no-any-return]

    def control(self, number: int) -> Control:
        """One of the notebook's controls, from the top."""
        boxes = ".jp-CodeCell:has(.widget-vbox)"
        return Control(self.page, self.page.locator(boxes).nth(number))

    def theme(self, name: str) -> None:
        """Light or Dark."""
        self.page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", f"JupyterLab {name}"
        )
        light = "true" if name == "Light" else "false"
        self.page.wait_for_selector(f"body[data-jp-theme-light={light}]", state="attached")

    def figures_are(self, theme: str) -> list[bool]:
        """Whether each figure's title is dark, or light, and in the dark theme its background that of the page."""
        return self.page.evaluate(  # type: ignore[no-any-return]
            """theme => [...document.querySelectorAll('.js-plotly-plot')].map(figure => {
                const title = getComputedStyle(figure.querySelector('.gtitle')).fill.match(/\\d+/g).map(Number);
                const behind = getComputedStyle(figure.querySelector('.main-svg')).backgroundColor;
                const isDark = Math.max(...title) < 128;
                return theme === 'Light' ? isDark : !isDark && behind === 'rgba(0, 0, 0, 0)';
            })""",
            theme,
        )


class Control:
    """One cell's widgets and what they drew."""

    def __init__(self, page: Page, cell: Locator) -> None:
        self.page, self.cell = page, cell
        cell.scroll_into_view_if_needed()

    def wait_until_settled(self) -> None:
        """Wait until nothing in the cell has changed its size for a few frames, as after a change of width."""
        self.cell.evaluate("""async cell => {
            const sizes = () => [cell, ...cell.querySelectorAll('.main-svg')].map(one => {
                const box = one.getBoundingClientRect();
                return [box.width, box.height].join();
            }).join(';');
            for (let before = '', same = 0; same < 10;) {
                await new Promise(requestAnimationFrame);
                const now = sizes();
                same = now === before ? same + 1 : 0;
                before = now;
            }
        }""")

    def accessible(self) -> None:
        """No violation of WCAG 2.1 AA that axe-core finds: labels, contrast, names of buttons."""
        self.cell.evaluate("cell => cell.setAttribute('data-tested', '')")
        # The handles of ipywidgets' sliders have no name of their own; label and value stand beside them as text.
        rules = {
            "runOnly": ["wcag2a", "wcag2aa", "wcag21aa"],
            "rules": {"aria-input-field-name": {"enabled": False}},
        }
        found = Axe().run(self.page, context={"include": [["[data-tested] .widget-vbox"]]}, options=rules)
        self.cell.evaluate("cell => cell.removeAttribute('data-tested')")
        assert not found.response["violations"], found.generate_report()

    def labelled(self, kind: str, label: str) -> Locator:
        """The widget of a kind, such as ``widget-slider``, with this label."""
        return self.cell.locator(f".{kind}", has=self.page.get_by_text(label, exact=True))

    def pick(self, label: str, option: str) -> None:
        """Choose from a dropdown."""
        self.labelled("widget-dropdown", label).locator("select").select_option(label=option)

    def press(self, label: str, key: str) -> None:
        """Press a key on a slider's handle."""
        self.labelled("widget-slider", label).locator(".noUi-handle").focus()
        self.page.keyboard.press(key)

    def drag(self, label: str, pixels: int) -> None:
        """Drag a slider's handle with the mouse."""
        box = self.labelled("widget-slider", label).locator(".noUi-handle").bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + pixels, y, steps=5)
        self.page.mouse.up()

    def type(self, label: str, text: str) -> None:
        """Replace what a text field holds."""
        self.labelled("widget-text", label).locator("input").fill(text)

    def tick(self, label: str) -> None:
        """Click a box."""
        self.labelled("widget-checkbox", label).locator("input").click()

    def pick_row(self, label: str, number: int) -> str:
        """Click on a row of a list; what it says."""
        row = self.labelled("widget-select", label).locator("option").nth(number)
        row.click()
        return (row.text_content() or "").replace("\u00a0", " ")

    def click(self, button: str) -> None:
        """Click a button with the mouse."""
        self.cell.get_by_role("button", name=button, exact=True).click()

    def titles(self) -> list[str]:
        """The titles of the figures that are drawn now."""
        return [(text or "").replace("\u00a0", " ") for text in self.cell.locator(".gtitle").all_text_contents()]

    def title(self, number: int, seconds: float = 60, unlike: str | None = None) -> str:
        """The title of a figure, once it is drawn and says something else than ``unlike``.

        A figure that is drawn again has none for a moment, so the page is asked once for every look.
        """
        end = time.monotonic() + seconds
        while len(found := self.titles()) <= number or found[number] == unlike:
            assert time.monotonic() < end, f"Of figure {number}, the titles are still {found}."
            self.page.wait_for_timeout(100)
        return found[number]

    def wait_for_change(self, number: int, before: str, seconds: float = 60) -> None:
        """Wait until the title of a figure is another one."""
        self.title(number, seconds, unlike=before)

    def wait_for(self, title: str, seconds: float = 60) -> None:
        """Wait until a figure's title holds this."""
        self.cell.locator(".gtitle", has_text=title).first.wait_for(state="attached", timeout=seconds * 1000)

    def wait_for_text(self, text: str, seconds: float = 60) -> None:
        """Wait until the cell's output says this."""
        self.cell.locator(".jp-Cell-outputWrapper").get_by_text(text).first.wait_for(timeout=seconds * 1000)

    def wait_for_rows(self, number: int, seconds: float = 60) -> None:
        """Wait until the table has so many rows."""
        end = time.monotonic() + seconds
        while (found := self.cell.locator(".jp-RenderedHTML tbody tr").count()) != number:
            assert time.monotonic() < end, f"The table has {found} rows."
            self.page.wait_for_timeout(100)
