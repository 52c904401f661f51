"""HTML that opens from disk with no network: a page for each executed notebook, and an index of a folder's runs."""

import json
import re
from base64 import b64encode
from collections import Counter
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import pandas as pd
from nbconvert import HTMLExporter
from nbconvert.preprocessors import TagRemovePreprocessor
from nbformat.v4 import new_code_cell, new_notebook, new_output
from plotly.offline import get_plotlyjs
from plotly.utils import PlotlyJSONEncoder

from patchlib._util import first_line
from patchlib.plots.style import PLOTLY_MIME
from patchlib.runs.execute.clean import clean
from patchlib.runs.files import read_json, replacing

_WIDGET = "application/vnd.jupyter.widget-view+json"
_LIVE = "<p><em>A live control: open the notebook in Jupyter to use it.</em></p>"
_HERE = Path(__file__).parent


def write_page(executed: Path, page: Path, closed: bool = False, code: bool = True) -> tuple[str, str]:
    """Write an executed notebook as one HTML file with interactive figures; return its title and first paragraph.

    Light or dark as the reader's screen is. Nothing runs in it but patchlib's own script: of what a notebook holds,
    what is known to be harmless is kept, and the page's policy says so to the browser too. Of a cell tagged
    ``remove-input``, ``remove-output`` or ``remove-cell`` that is left out. A cell that cannot be shown says why.

    Args:
        executed: The notebook.
        page: The file.
        closed: It can ask nothing of the network, and what its tables need may run: for a notebook of ours.
        code: Whether code is shown.
    """
    nb = nbformat.read(executed, as_version=4)
    title, description = _headline(nb, executed.stem)
    _export(nb, page, title, closed, code)
    return title, description


def _export(nb: nbformat.NotebookNode, page: Path, title: str, closed: bool = False, code: bool = True) -> None:
    nb.metadata = nbformat.NotebookNode(title=title, language_info={"name": "python", "pygments_lexer": "ipython3"})
    figures: list[dict[str, Any]] = []
    for output in (output for cell in nb.cells for output in cell.get("outputs", [])):
        _replace(output, figures)
    hidden = ("colab", "injected-parameters") if closed else ()
    exporter = HTMLExporter(raw_template=(_HERE / "page.html.j2").read_text("utf-8"), template_name="lab")
    exporter.register_filter("clean_html", (lambda html: html) if closed else clean)
    exporter.exclude_input = exporter.exclude_input_prompt = exporter.exclude_output_prompt = not code
    tags = {part: {f"remove-{part}", f"remove_{part}"} for part in ("input", "output", "cell")}
    remove = TagRemovePreprocessor(
        remove_input_tags=tags["input"].union(hidden),
        remove_all_outputs_tags=tags["output"],
        remove_cell_tags=tags["cell"],
    )
    exporter.register_preprocessor(remove, enabled=True)
    stored = json.dumps(figures, cls=PlotlyJSONEncoder).replace("<", "\\u003c")  # no tag may begin or end in it
    scripts = [get_plotlyjs(), (_HERE / "page.js").read_text("utf-8")] if figures else []
    hashes = [f"'sha256-{b64encode(sha256(script.encode()).digest()).decode()}'" for script in scripts]
    allowed = {"figures": stored, "own_scripts": scripts, "closed": closed, "own_hashes": " ".join(hashes)}
    try:
        html, _ = exporter.from_notebook_node(nb, allowed)
    except Exception:  # of many kinds, such as an attachment that is missing: the other cells can be shown
        nb.cells = [_shown(exporter, cell, allowed) for cell in nb.cells]
        html, _ = exporter.from_notebook_node(nb, allowed)
    with replacing(page) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="replace")


def _replace(output: nbformat.NotebookNode, figures: list[dict[str, Any]]) -> None:
    """Put a place for a figure, which is drawn when it comes near, or a sentence instead of what needs a kernel."""
    data = output.get("data") or {}
    if isinstance(stored := data.get(PLOTLY_MIME), dict):
        layout = _dict(stored.get("layout"))
        figure = {"data": stored.get("data") or [], "layout": layout, "config": _dict(stored.get("config"))}
        height = layout.get("height")
        height = height if isinstance(height, int | float) else 450
        run = escape(str(_dict(layout.get("meta")).get("run", "")))  # of a figure over many runs
        place = f'data-figure="{len(figures)}" data-run="{run}" style="height: {height:g}px"'
        output["data"] = {"text/html": f'<div class="figure" {place}></div>'}
        figures.append(figure)
    elif _WIDGET in data:
        bar = "%|" in data.get("text/plain", "")  # tqdm's, whose text stays at 0% in an executed notebook
        output["data"] = {"text/html": "" if bar else _LIVE}


def _dict(value: Any) -> dict[str, Any]:
    """A mapping; an empty one where a notebook has something else in its place."""
    return value if isinstance(value, dict) else {}


def _shown(exporter: HTMLExporter, cell: nbformat.NotebookNode, allowed: dict[str, Any]) -> nbformat.NotebookNode:
    """The cell, or where it cannot be exported, its source and why not."""
    try:
        exporter.from_notebook_node(new_notebook(cells=[cell]), allowed)
    except Exception as error:  # whatever it is, this cell's
        said = new_output("stream", text=f"This cell cannot be shown: {first_line(error)}")
        cell = new_code_cell(source=str(cell.source), outputs=[said])
    return cell


def _headline(nb: nbformat.NotebookNode, default: str) -> tuple[str, str]:
    text = "\n\n".join(["", *(cell.source for cell in nb.cells if cell.cell_type == "markdown")])
    title, _, rest = text.partition("\n# ")[2].partition("\n")
    blocks = [block.strip() for block in re.split(r"\n\s*\n", rest)]
    prose = [block for block in blocks if block and not block.startswith(("#", "[![", "<", "|"))]
    return _plain(title) or default, _plain(" ".join("".join(prose[:1]).split()))


def _plain(markdown: str) -> str:
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    return re.sub(r"\*\*|__|`|(?<!\w)\*(?=\S)|(?<=\S)\*(?!\w)", "", text).strip()


def write_index(folder: Path) -> None:
    """Write `index.html` over all the manifests of a folder; what they say is text of others, and stays text."""
    entries, statuses = [], []
    for path in sorted(folder.glob("*.manifest.json")):
        try:
            entry, status = _entry(folder, path.name, read_json(path))
        except (KeyError, TypeError, AttributeError, ValueError, OSError, RecursionError):
            entry, status = f"<h2>{escape(path.name)}</h2><p>It cannot be read as a manifest.</p>", "unreadable"
        entries.append(entry)
        statuses.append(status)
    counts = ", ".join(f"{count} {escape(status)}" for status, count in Counter(statuses).items())
    outputs = [
        new_output("display_data", {"text/html": html}) for html in (f"<h1>patchlib runs</h1>{counts}", *entries)
    ]
    cells = [new_code_cell(outputs=[output], metadata={"tags": ["remove-input"]}) for output in outputs]
    _export(new_notebook(cells=cells), folder / "index.html", f"patchlib runs: {folder.name}")


def _entry(folder: Path, manifest: str, run: dict[str, Any]) -> tuple[str, str]:
    """What the index says of a run, and its status."""
    shown = ["wall_time_s", "peak_memory_mb", "finished_utc", "models", "parameters", "versions", "repeat"]
    names = [f"{run['notebook']}.html", f"{run['notebook']}.ipynb", *(file["name"] for file in run["files"]), manifest]
    sizes = {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}
    links = [f'<a href="{quote(name)}">{escape(name)}</a> ({size:,} bytes)' for name, size in sizes.items()]
    with pd.option_context("display.max_colwidth", None):
        facts = pd.json_normalize({key: run[key] for key in shown}).T.to_html(header=False)
    status, error, title, text = (escape(run[key] or "") for key in ("status", "error", "title", "description"))
    said = f'<p class="error">{error}</p>' if error else ""
    head = f'<h2>{title} <small class="status {status}">{status}</small></h2><p>{text}</p>{said}'
    return f"{head}<p>{', '.join(links)}</p>{facts}", str(run["status"])
