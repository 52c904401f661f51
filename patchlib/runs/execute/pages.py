"""HTML that opens from disk with no network: a page for each executed notebook, and an index of a folder's runs."""

import json
import re
from collections import Counter
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

from patchlib.plots.style import PLOTLY_MIME
from patchlib.runs.files import read_json, replacing

_WIDGET = "application/vnd.jupyter.widget-view+json"
_LIVE = "<p><em>A live control: open the notebook in Jupyter to use it.</em></p>"
_HERE = Path(__file__).parent


def write_page(executed: Path, page: Path, closed: bool = False) -> tuple[str, str]:
    """Write an executed notebook as one HTML file with interactive figures; return its title and first paragraph.

    Light or dark as the reader's screen is; of a cell tagged ``remove-input`` only the outputs are shown, of one tagged
    ``remove-cell`` nothing. A page that is ``closed`` can ask nothing of the network, whatever stands in it.
    """
    nb = nbformat.read(executed, as_version=4)
    title, description = _headline(nb, executed.stem)
    _export(nb, page, title, closed)
    return title, description


def _export(nb: nbformat.NotebookNode, page: Path, title: str, closed: bool = False) -> None:
    nb.metadata["title"] = title
    nb.metadata.pop("widgets", None)
    figures: list[dict[str, Any]] = []
    for output in (output for cell in nb.cells for output in cell.get("outputs", [])):
        data = output.get("data", {})
        if PLOTLY_MIME in data:
            figure = {part: data[PLOTLY_MIME].get(part, {}) for part in ("data", "layout", "config")}
            height = figure["layout"].get("height") or 450
            run = escape(str((figure["layout"].get("meta") or {}).get("run", "")))  # of a figure over many runs
            place = f'data-figure="{len(figures)}" data-run="{run}" style="height: {height:g}px"'
            output["data"] = {"text/html": f'<div class="figure" {place}></div>'}
            figures.append(figure)
        elif _WIDGET in data:
            bar = "%|" in data.get("text/plain", "")  # tqdm's, whose text stays at 0% in an executed notebook
            output["data"] = {"text/html": "" if bar else _LIVE}
    hidden = {"remove-input"} | ({"colab", "injected-parameters"} if closed else set())
    exporter = HTMLExporter(raw_template=(_HERE / "page.html.j2").read_text("utf-8"), template_name="lab")
    remove = TagRemovePreprocessor(remove_input_tags=hidden, remove_cell_tags={"remove-cell"})
    exporter.register_preprocessor(remove, enabled=True)
    stored = json.dumps(figures, cls=PlotlyJSONEncoder).replace("<", "\\u003c")  # no tag may begin or end in it
    scripts = [get_plotlyjs(), (_HERE / "page.js").read_text("utf-8")] if figures else []
    html, _ = exporter.from_notebook_node(nb, {"figures": stored, "own_scripts": scripts, "closed": closed})
    with replacing(page) as temporary:
        temporary.write_text(html, encoding="utf-8")


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
    shown = ["wall_time_s", "peak_memory_mb", "finished_utc", "models", "parameters", "versions", "repeat"]
    entries, statuses = [], []
    for path in sorted(folder.glob("*.manifest.json")):
        run = read_json(path)
        results = (file["name"] for file in run["files"])
        names = [f"{run['notebook']}.html", f"{run['notebook']}.ipynb", *results, path.name]
        sizes = {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}
        links = [f'<a href="{quote(name)}">{escape(name)}</a> ({size:,} bytes)' for name, size in sizes.items()]
        with pd.option_context("display.max_colwidth", None):
            facts = pd.json_normalize({key: run[key] for key in shown}).T.to_html(header=False)
        status, error, title, text = (escape(run[key] or "") for key in ("status", "error", "title", "description"))
        said = f'<p class="error">{error}</p>' if error else ""
        head = f'<h2>{title} <small class="status {status}">{status}</small></h2><p>{text}</p>{said}'
        entries.append(f"{head}<p>{', '.join(links)}</p>{facts}")
        statuses.append(status)
    counts = ", ".join(f"{count} {status}" for status, count in Counter(statuses).items())
    outputs = [
        new_output("display_data", {"text/html": html}) for html in (f"<h1>patchlib runs</h1>{counts}", *entries)
    ]
    cells = [new_code_cell(outputs=[output], metadata={"tags": ["remove-input"]}) for output in outputs]
    _export(new_notebook(cells=cells), folder / "index.html", f"patchlib runs: {folder.name}")
