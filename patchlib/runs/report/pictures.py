"""The figures of executed notebooks, as they are stored there: plotly's data, or a picture."""

import html
import json
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import nbformat

from patchlib.plots.style import PLOTLY_MIME
from patchlib.runs.report.collect import Run
from patchlib.runs.report.effects import grouped, labelled

LARGEST = 2**28
"""Bytes of an executed notebook that is looked into: it is read at once."""
_PICTURES = ("image/png", "image/jpeg", "image/svg+xml")


@dataclass
class Gallery:
    """The same figure of all runs of a notebook.

    Attributes:
        notebook: Its stem.
        title: The figure's own where all runs share it, else its cell.
        pictures: What `IPython.display.display` shows with ``raw=True``, of each run, under what sets that run apart.
    """

    notebook: str
    title: str
    pictures: list[dict[str, Any]] = field(default_factory=list)


def galleries(records: Sequence[Run], room: float = 20e6) -> tuple[list[Gallery], dict[str, str]]:
    """The figures of runs, those at the same place of a notebook together.

    Where a figure is stored both ways, plotly's data is taken: it is smaller, and the reader can zoom.

    Args:
        records: Of `collect`.
        room: Most bytes that the figures may take together, which a browser still opens at once.

    Returns:
        The galleries in the order of the notebooks; and run's name -> why its figures are left out.
    """
    places: dict[tuple[str, int, int], Gallery] = {}
    left_out: dict[str, str] = {}
    for notebook, runs in grouped(records, lambda run: run.notebook).items():
        for label, run in labelled(runs):
            executed = run.folder / f"{notebook}.ipynb"
            if executed.is_file() and executed.stat().st_size > LARGEST:
                left_out[run.name] = f"{executed.name} has more than {LARGEST:,} bytes"
                continue
            try:
                figures = _figures(nbformat.read(executed, as_version=4)) if executed.is_file() else {}
            except Exception:  # of many kinds: no JSON, no cells, cells that are none
                left_out[run.name] = f"{executed.name} cannot be read as a notebook; repeat that run"
                continue
            size = sum(len(json.dumps(data)) for _, data in figures.values())
            if size > room:
                left_out[run.name] = "its figures find no room here; its own page has them"
                continue
            room -= size
            for (cell, number), (title, data) in figures.items():
                place = f"Figure in cell {cell + 1}"
                gallery = places.setdefault((notebook, cell, number), Gallery(notebook, title or place))
                gallery.title = title if title == gallery.title else place  # a title of one run is not all runs'
                gallery.pictures.append(_under(label if len(runs) > 1 else title or place, run.name, data))
    return [places[place] for place in sorted(places)], left_out


def _under(label: str, run: str, data: dict[str, Any]) -> dict[str, Any]:
    """A figure with a label and the name of its run, neither of which can become markup."""
    text, name = html.escape(label).replace(", ", "<br>"), html.escape(run)
    if PLOTLY_MIME not in data:
        caption = f"<figcaption>{text}</figcaption>{data['text/html']}"
        return {"text/html": f'<figure data-run="{name}">{caption}</figure>'}
    layout = {key: value for key, value in data[PLOTLY_MIME]["layout"].items() if key != "width"}
    layout |= {"title": {"text": text, "font": {"size": 13}}, "meta": {"run": run}}
    return {PLOTLY_MIME: data[PLOTLY_MIME] | {"layout": layout}}


def _figures(notebook: nbformat.NotebookNode) -> dict[tuple[int, int], tuple[str, dict[str, Any]]]:
    """(cell, number of the figure in it) -> title and what is shown: the same places for all runs of a notebook."""
    figures = {}
    for cell, content in enumerate(notebook.cells):
        number = 0  # of the figure, not of the output: a warning before it comes in some runs and not in others
        for output in content.get("outputs", []):
            if shown := _shown(output.get("data", {})):
                figures[cell, number] = shown
                number += 1
    return figures


def _shown(data: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    if PLOTLY_MIME in data:
        layout = dict(data[PLOTLY_MIME].get("layout") or {})
        figure = {"data": list(data[PLOTLY_MIME].get("data") or []), "layout": layout}
        title = layout.get("title") or {}
        text = title if isinstance(title, str) else str(title.get("text") or "")
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split()), {PLOTLY_MIME: figure}
    kind = next((kind for kind in _PICTURES if kind in data), None)
    if kind is None:
        return None
    content = "".join(data[kind])
    encoded = b64encode(content.encode()).decode() if "svg" in kind else html.escape("".join(content.split()))
    # As a picture even where it is an SVG: nothing in it can run then.
    return "", {"text/html": f'<img alt="figure" src="data:{kind};base64,{encoded}">'}
