"""The README's Python, run in order: it prints what the README says.

`python -m tests.test_readme` writes what it prints, and its picture, into the README.
"""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL)


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
def test_its_code_prints_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it writes a file
    blocks = list(BLOCK.finditer(README.read_text()))
    assert len(blocks) == README.read_text().count("```python") > 3
    names: dict[str, Any] = {}
    for block in blocks:
        assert comparable(printed(block["code"], names)) == comparable(block["output"] or "")


def test_its_links_lead_somewhere():
    links = re.findall(r"(?:\]\(|src=\")(?!http|#)([^)\"]+)", README.read_text())
    assert len(links) > 4
    assert not [link for link in links if not (ROOT / link).exists()]


def _rewrite() -> None:
    names: dict[str, Any] = {}

    def run(block: re.Match[str]) -> str:
        first = "figure" not in names
        output = printed(block["code"], names)
        if first:
            names["figure"].write_image(ROOT / "docs" / "heads.png", scale=2)
        return f"```python\n{block['code']}```\n" + (f"\n```text\n{output}```\n" if output else "")

    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # it writes a file
        README.write_text(BLOCK.sub(run, README.read_text()))


if __name__ == "__main__":
    _rewrite()
