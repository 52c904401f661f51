"""HTML that opens from disk with no network: a page for each executed notebook, and an index of a folder's runs."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import plotly.io
from nbconvert import HTMLExporter

from patchlib.runs.manifest import replacing

_PLOTLY = "application/vnd.plotly.v1+json"
_WIDGET = "application/vnd.jupyter.widget-view+json"
_LIVE = "<p><em>A live control: open the notebook in Jupyter to use it.</em></p>"

# plotly 7 shows a button that uploads the figure to its maker's cloud unless told not to.
_CONFIG = {"responsive": True, "displaylogo": False, "showSendToCloud": False}

# Without the scripts that nbconvert's template fetches from a CDN (formulas stay TeX source).
_OFFLINE = """{%- extends 'lab/index.html.j2' -%}
{% block html_head_js %}{% endblock %}{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block notebook_css %}{{ super() }}
<style>main { max-width: 70rem; margin: 0 auto; } .jp-InputArea-editor { overflow-x: auto; }</style>{% endblock %}
"""


def write_page(executed: Path, page: Path) -> tuple[str, str]:
    """Write an executed notebook as one HTML file with interactive figures; return its title and first paragraph."""
    nb = nbformat.read(executed, as_version=4)
    title, description = _headline(nb, executed.stem)
    nb.metadata["title"] = title
    nb.metadata.pop("widgets", None)
    library = True  # plotly.js, once a page
    for output in (output for cell in nb.cells for output in cell.get("outputs", [])):
        data = output.get("data", {})
        if _PLOTLY in data:
            how = {"config": data[_PLOTLY].get("config", {}) | _CONFIG, "default_height": "450px", "validate": False}
            html = plotly.io.to_html(data[_PLOTLY], full_html=False, include_plotlyjs=library, **how)
            output["data"], library = {"text/html": html}, False
        elif _WIDGET in data:
            bar = "%|" in data.get("text/plain", "")  # tqdm's, whose text stays at 0% in an executed notebook
            output["data"] = {"text/html": "" if bar else _LIVE}
    html, _ = HTMLExporter(raw_template=_OFFLINE, template_name="lab").from_notebook_node(nb)
    with replacing(page) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return title, description


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
    """Write `index.html` over all the manifests of a folder."""
    runs = []
    for path in sorted(folder.glob("*.manifest.json")):
        run = json.loads(path.read_text("utf-8"))
        stems = [f"{run['notebook']}.{ending}" for ending in ("html", "ipynb")]
        names = [*stems, *(file["name"] for file in run["files"]), path.name]
        runs.append((run, {name: (folder / name).stat().st_size for name in names if (folder / name).is_file()}))
    counts = ", ".join(f"{count} {status}" for status, count in Counter(run["status"] for run, _ in runs).items())
    write_template(folder / "index.html", folder=folder, runs=runs, counts=counts)


def write_template(page: Path, **values: Any) -> None:
    """Write a page from the template of its name; what comes from results is escaped."""
    templates = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=templates, autoescape=True, trim_blocks=True)
    html = environment.get_template(f"{page.name}.j2").render(values)
    with replacing(page) as temporary:
        temporary.write_text(html, encoding="utf-8")
