"""How a control and what it draws are tied together, so that no error is ever swallowed."""

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from textwrap import fill
from typing import Any, TypeAlias

import ipywidgets
import pandas as pd
import plotly.graph_objects as go
from IPython.display import clear_output, display

from patchlib.plots.style import PLOTLY_MIME, is_colab

Shown: TypeAlias = "go.Figure | pd.DataFrame | str"
"""What a control can draw: figures, tables, and sentences as plain text."""


LABEL_WIDTH = "125px"
"""Of labels that stand below one another."""


class Live(ipywidgets.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """Controls, and below them what they drew.

    Example:
        >>> slider = patchlib.widgets.drawing.wide(ipywidgets.IntSlider, "Layer", value=3)
        >>> patchlib.widgets.live(lambda layer: [f"Layer {layer} is shown."], {"layer": slider}).still()
        Layer 3 is shown.
    """

    def __init__(self, children: Sequence[ipywidgets.Widget], drawing: Sequence[Shown]) -> None:
        super().__init__(children)
        self._first_drawing = drawing

    def still(self) -> None:
        """Show the first drawing as a plain cell does, for readers of a page, of print or of GitHub."""
        for shown in self._first_drawing:
            if isinstance(shown, str):
                print(fill(shown, 100))
            else:
                display(shown)


def live(
    draw: Callable[..., Sequence[Shown]], controls: Mapping[str, Any], above: Sequence[ipywidgets.Widget] | None = None
) -> Live:
    """Controls above, and below them what ``draw`` gives for their values, drawn again at every change.

    The first drawing is made here, outside any Output: if it fails, the cell fails, and with it a headless run. Later
    ones are made inside the Output, which shows their errors in its place. (``interactive_output`` and a bare
    ``with output:`` show errors too, but let the cell and the run succeed.)

    Args:
        draw: Called with each control's value by its name; must be quick, since every change waits for it.
        controls: Name -> a widget with a ``value``, or several that share one, such as ``CellPicker``.
        above: What is shown above the drawing; the controls in a row when None.

    Returns:
        A box, to be the last line of a cell; its ``still()`` shows the same without the controls.

    Example:
        >>> slider = ipywidgets.IntSlider(value=20, max=29, description="Layer")
        >>> box = patchlib.widgets.live(lambda layer: [f"Layer {layer} is shown."], {"layer": slider})
        >>> [type(child).__name__ for child in box.children]
        ['HBox', 'Output']
    """
    output = ipywidgets.Output()

    def values() -> dict[str, Any]:
        return {name: control.value for name, control in controls.items()}

    first_drawing = list(draw(**values()))
    output.outputs = outputs(first_drawing)

    def redraw(change: object) -> None:
        with output:
            drawing = draw(**values())
            clear_output(wait=True)  # only now, so that the old drawing stays until the new one is there
            for shown in drawing:
                display(bundle(shown), raw=True)

    for control in controls.values():
        control.observe(redraw, "value")
    return Live([*([in_a_row(*controls.values())] if above is None else above), output], first_drawing)


def in_a_row(*widgets: ipywidgets.Widget) -> ipywidgets.HBox:
    """Side by side, and below one another where the page is narrow."""
    return ipywidgets.HBox(list(widgets), layout=ipywidgets.Layout(flex_flow="row wrap", align_items="center"))


def outputs(drawing: Iterable[Shown]) -> tuple[dict[str, Any], ...]:
    """What an ``Output`` holds to show these."""
    return tuple({"output_type": "display_data", "data": bundle(shown), "metadata": {}} for shown in drawing)


def bundle(shown: Shown) -> dict[str, Any]:
    """What a notebook shows of it: figures as data alone, since a picture of each move would take a second."""
    if isinstance(shown, go.Figure):
        return {"text/html": _page(shown)} if is_colab() else {PLOTLY_MIME: shown.to_plotly_json()}
    if isinstance(shown, pd.DataFrame):
        return {"text/html": shown.to_html(), "text/plain": shown.to_string()}
    return {"text/html": f"<p>{html.escape(shown)}</p>", "text/plain": shown}


def _page(figure: go.Figure) -> str:
    """A figure as a page in the page: in an Output, Colab runs a figure's script before plotly's own is there."""
    page = figure.to_html(include_plotlyjs="cdn", default_width="100%", default_height="100%")
    width, height = figure.layout.width or 820, figure.layout.height or 450
    size = f'width="{width + 20}" height="{height + 20}"'
    return f'<iframe srcdoc="{html.escape(page)}" {size} style="border: 0" title="figure"></iframe>'


def wide(widget: type[ipywidgets.Widget], label: str, **settings: Any) -> ipywidgets.Widget:
    """A control whose label has the room that it needs."""
    if issubclass(widget, ipywidgets.IntSlider | ipywidgets.FloatSlider | ipywidgets.SelectionSlider):
        settings = {"continuous_update": False, **settings}
    return widget(description=label, style={"description_width": "initial"}, **settings)


def labelled(widget: type[ipywidgets.Widget], label: str, **settings: Any) -> ipywidgets.Widget:
    """A control whose label is as wide as those of the others around it."""
    control = wide(widget, label, **settings)
    control.style.description_width = LABEL_WIDTH
    return control


def button(label: str, pressed: Callable[[], None], **settings: Any) -> ipywidgets.Button:
    """A button, and what happens when it is pressed."""
    made = ipywidgets.Button(description=label, **settings)
    made.on_click(lambda clicked: pressed())
    return made


def sentence(text: str) -> str:
    """A note as HTML, which screen readers say when it comes."""
    return f"<span role='status'>{html.escape(text)}</span>"
