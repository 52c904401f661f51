"""The figures of an executed notebook, as they are stored in it: plotly's data, or a picture."""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from patchlib.errors import RunError

PLOTLY = "application/vnd.plotly.v1+json"
_PICTURES = ("image/png", "image/jpeg", "image/svg+xml")


@dataclass(frozen=True)
class Picture:
    """One figure.

    Attributes:
        place: Number of the cell and of the figure in it: the same for all runs of a notebook.
        title: The figure's own; empty where it has none.
        plotly: What plotly draws it from; None for a picture.
        address: A `data:` address of the picture; None for plotly's.
        size: Bytes that it takes in a page.
    """

    place: tuple[int, int]
    title: str
    plotly: dict[str, Any] | None
    address: str | None
    size: int


def pictures(executed: Path) -> list[Picture]:
    """The figures of a notebook, top to bottom.

    Where a figure is stored both ways, plotly's data is taken: it is smaller, and the reader can zoom.

    Raises:
        RunError: The file cannot be read as a notebook.
    """
    try:
        notebook = nbformat.read(executed, as_version=4)
    except Exception as error:  # of many kinds: no JSON, no cells, cells that are none
        raise RunError(f"{executed.name} cannot be read as a notebook ({error}); repeat that run") from error
    found = []
    for cell, content in enumerate(notebook.cells):
        number = 0  # of the figure, not of the output: a warning before it comes in some runs and not in others
        for output in content.get("outputs", []):
            if picture := _picture((cell, number), output.get("data", {})):
                found.append(picture)
                number += 1
    return found


def _picture(place: tuple[int, int], data: dict[str, Any]) -> Picture | None:
    if PLOTLY in data:
        figure = {key: data[PLOTLY].get(key, {}) for key in ("data", "layout")}
        return Picture(place, _title(figure["layout"]), figure, None, len(json.dumps(figure)))
    kind = next((kind for kind in _PICTURES if kind in data), None)
    if kind is None:
        return None
    content = "".join(data[kind])
    encoded = b64encode(content.encode()).decode() if kind == "image/svg+xml" else "".join(content.split())
    address = f"data:{kind};base64,{encoded}"
    return Picture(place, "", None, address, len(address))


def _title(layout: dict[str, Any]) -> str:
    title = layout.get("title") or {}
    text = title if isinstance(title, str) else str(title.get("text") or "")
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())
