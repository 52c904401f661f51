"""What notebooks say beside their code: what a section is for, a question before each answer, links that resolve."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))
DIAGRAMS = sorted((ROOT / "notebooks" / "diagrams").iterdir())
MOST = 120
ANSWER = re.compile(r"^<details>\n<summary>Answer</summary>\n\n(.+?)\n\n</details>$", re.MULTILINE | re.DOTALL)

of_each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def text(path: Path) -> str:
    """Markdown as it is; a code cell is a line that says so."""
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source if cell.cell_type == "markdown" else "[code]" for cell in cells)


@of_each_notebook
def test_each_section_says_what_it_is_for_and_asks_before_it_shows(path):
    sections = re.split(r"^## ", text(path), flags=re.MULTILINE)[1:]
    assert len(sections) > 6
    *taught, last = sections
    for section in taught:
        title = section.partition("\n")[0]
        assert section.count("**Objective:**") == 1, title
        if "[code]" not in section:  # what it asks is answered in the next one
            continue
        assert section.count("**Predict before you see.**") == len(ANSWER.findall(section)) == 1, title
        question, code, answer = section.index("**Predict"), section.rindex("[code]"), ANSWER.search(section).start()
        assert question < section.index("[code]", question) < answer, title
        assert question < code, title
    assert re.search(
        r"\*\*Try it\.\*\*.*" + ANSWER.pattern.removeprefix("^") + r".*\*\*Read on\.\*\*", last, ANSWER.flags
    )


@of_each_notebook
def test_answers_explain_and_state_no_result(path):
    """A number in them would be one of this model, these prompts and this seed."""
    for answer in ANSWER.findall(text(path)):
        plain = re.sub(
            r"`[^`]*`|\[[^]]*\]\([^)]*\)|\b(?:section|sections|notebook|notebooks|figure|layer|step) \d+", "", answer
        )
        assert not re.findall(r"\d*\.\d\d|\bL\d+H\d+\b|\d+ of \d+", plain.replace("L9H6", "")), answer
        assert len(answer.split()) < 140, answer


@of_each_notebook
def test_lines_are_short_but_for_addresses(path):
    long = [line for line in text(path).splitlines() if len(line) > MOST and "](https://" not in line]
    assert not long


@of_each_notebook
def test_links_to_files_lead_somewhere(path):
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", text(path))
    assert any(link.startswith("../docs/glossary.md#") for link in links)
    for link in links:
        name, _, anchor = link.partition("#")
        target = path.parent / name
        assert target.is_file(), link
        headings = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}, link


@of_each_notebook
def test_a_word_is_linked_once(path):
    links = re.findall(r"glossary\.md#([\w-]+)", text(path))
    assert len(links) == len(set(links)) >= 10


def test_every_diagram_is_shown_and_described():
    shown = re.findall(r"!\[([^]]{40,})\]\(diagrams/([\w-]+\.svg)\)", "\n".join(map(text, NOTEBOOKS)))
    assert sorted(name for _, name in shown) == [path.name for path in DIAGRAMS]


@pytest.mark.parametrize("path", DIAGRAMS, ids=lambda path: path.stem)
def test_a_diagram_is_a_picture_of_its_own_for_light_and_dark(path):
    """Nothing from elsewhere, as it is shown as an image; its own ground, as Jupyter's theme is not the screen's."""
    source = path.read_text("utf-8")
    root = ET.fromstring(source)
    inside = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert {"title", "desc", "style"} <= inside and not inside & {"script", "image", "foreignObject", "a"}
    assert not re.findall(r"(?:href|@import|url\((?!#))", source)
    light, dark = source.split("@media (prefers-color-scheme: dark)")
    ground = {
        theme: re.search(r"\.page \{ fill: (#\w{6})", part)[1] for theme, part in (("light", light), ("dark", dark))
    }
    classes = set(re.findall(r"class=\"([^\"]+)\"", source))
    assert "page" in classes and ground["light"] == "#ffffff" != ground["dark"]
    for theme, part in (("light", light), ("dark", dark)):
        for name in ("text", r"\.small"):
            ink = re.search(rf"{name} \{{[^}}]*fill: (#\w{{6}})", part)[1]
            assert contrast(ink, ground[theme]) >= 4.5, (theme, name)


def contrast(*colours: str) -> float:
    """WCAG 2.1's ratio of two colours' luminance."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)
