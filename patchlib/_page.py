"""An executed notebook as one HTML file that opens from disk with no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import plotly.io
from nbconvert import HTMLExporter
from nbconvert.preprocessors import Preprocessor

from patchlib._manifest import replacing
from patchlib._notebooks import headline, load

_PLOTLY = "application/vnd.plotly.v1+json"
_WIDGET = "application/vnd.jupyter.widget-view+json"

# Without the scripts that nbconvert's template fetches from a CDN (formulas stay TeX source).
_OFFLINE = """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js_requirejs -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block notebook_css -%}
{{ super() }}
<style type="text/css">
main { max-width: 70rem; margin: 0 auto; }
.jp-InputArea-editor { overflow-x: auto; }
</style>
{%- endblock -%}
"""


class OfflineOutputs(Preprocessor):
    """Turn plotly figures into interactive HTML and say where a live control would be."""

    def preprocess(self, nb: nbformat.NotebookNode, resources: Any) -> tuple[nbformat.NotebookNode, Any]:
        """Rewrite the outputs of a copy of the notebook that the exporter made."""
        nb.metadata.pop("widgets", None)
        nb.metadata["title"], _ = headline(nb, nb.metadata.get("title", "Notebook"))
        library = True  # plotly.js, once a page
        for cell in nb.cells:
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                if _PLOTLY in data:
                    output["data"] = {"text/html": _figure(data[_PLOTLY], library)}
                    library = False
                elif _WIDGET in data:
                    output["data"] = _without_widget(data)
        return nb, resources


def _figure(figure: dict[str, Any], library: bool) -> str:
    parts = {key: figure[key] for key in ("data", "layout", "frames") if key in figure}
    # plotly 7 shows a button that uploads the figure to its maker's cloud unless told not to.
    config = {"responsive": True, "displaylogo": False, "showSendToCloud": False, "plotlyServerURL": ""}
    height = f"{figure.get('layout', {}).get('height', 450)}px"
    return plotly.io.to_html(
        parts,
        config=figure.get("config", {}) | config,
        include_plotlyjs=library,
        full_html=False,
        default_height=height,
        validate=False,
    )


def _without_widget(data: dict[str, Any]) -> dict[str, Any]:
    text = data.get("text/plain", "")
    if "%|" in text:  # the last state that tqdm's bar wrote
        return {"text/plain": text}
    return {"text/html": "<p><em>A live control: open the notebook in Jupyter to use it.</em></p>"}


def write_page(executed: Path, page: Path) -> None:
    """Write an executed notebook as one self-contained HTML file."""
    exporter = HTMLExporter(raw_template=_OFFLINE, template_name="lab", preprocessors=[OfflineOutputs])
    html, _ = exporter.from_notebook_node(load(executed), {"metadata": {"name": executed.stem}})
    with replacing(page) as temporary:
        temporary.write_text(html, encoding="utf-8")
