"""The README's Python and that of docs/, run in order: it prints what they say. Their links lead somewhere.

`python -m tests.docs.test_pages [PAGE ...]` writes what it prints, and the README's picture, into them.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
WITH_CODE = [page for page in PAGES if "```python" in page.read_text()]


def printed(code: str, names: dict[str, Any]) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(code, names)
    return said.getvalue()


def comparable(text: str) -> str:
    """Without what float noise changes: the sign of a zero, and a column's width with it."""
    return re.sub(r" +", " ", re.sub(r"-(0\.0+)\b", r"\1", text)).strip()


@pytest.mark.real_model
@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_its_code_prints_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it may write a file
    blocks = list(BLOCK.finditer(page.read_text()))
    assert len(blocks) == page.read_text().count("```python") > 0
    names: dict[str, Any] = {}
    for block in blocks:
        assert comparable(printed(block["code"], names)) == comparable(block["output"] or "")


def anchors(page: Path) -> set[str]:
    """What its headings can be linked by, on GitHub and on the site alike."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_its_links_lead_somewhere(page):
    links = re.findall(r"(?:\]\(|src=\")(?!https?:)([^)\"]+)", page.read_text())
    for link in links:
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_is_read_in_two_minutes():
    assert len(README.read_text().split()) <= 900


def test_each_word_of_the_glossary_has_a_sentence_and_is_there_once():
    entries = re.split(r"^### ", (ROOT / "docs" / "glossary.md").read_text(), flags=re.MULTILINE)[1:]
    words = [entry.partition("\n")[0] for entry in entries]
    assert len(words) == len(set(words)) > 40
    assert all(entry.partition("\n")[2].split("\n##")[0].strip().endswith((".", ")")) for entry in entries)


def test_workflows_run_what_people_run_and_pin_what_they_use():
    tests, site = ((ROOT / ".github" / "workflows" / name).read_text() for name in ("ci.yml", "docs.yml"))
    (job,) = yaml.safe_load(tests)["jobs"].values()
    tested = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert job["strategy"]["matrix"]["python"] == tested
    assert job["steps"][-1]["run"] == ".ci/run"  # the README's test command
    (build,) = re.findall(r"run: (.*sphinx-build.*)", site)
    assert build in README.read_text() and build in (ROOT / "CONTRIBUTING.md").read_text()
    used = re.findall(r"uses: (\S+)", tests + site)
    assert used and all(re.search(r"@[0-9a-f]{40}$", action) for action in used)


def _rewrite(page: Path) -> None:
    names: dict[str, Any] = {}

    def run(block: re.Match[str]) -> str:
        first = "figure" not in names
        output = printed(block["code"], names)
        if page == README and first:
            names["figure"].write_image(ROOT / "docs" / "heads.png", scale=2)
        return f"```python\n{block['code']}```\n" + (f"\n```text\n{output}```\n" if output else "")

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # it may write a file
        page.write_text(BLOCK.sub(run, page.read_text()))


if __name__ == "__main__":
    for named in [Path(name).resolve() for name in sys.argv[1:]] or WITH_CODE:
        _rewrite(named)
