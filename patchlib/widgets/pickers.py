"""Several widgets that hold one value between them, so that a move in any of them is one change."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import ipywidgets
import traitlets

from patchlib._util import Head, head_name
from patchlib.widgets.drawing import in_a_row, wide

LISTED = 8
"""Rows of a list that are seen without scrolling."""


class Picker(traitlets.HasTraits):
    """What ``live`` observes: a value, the widgets that show it, and a guard, since they also change it."""

    value = traitlets.Any()

    def __init__(self, value: Any) -> None:
        super().__init__(value=value)
        self._moving = False
        self.observe(lambda change: self._show(), "value")

    def _follow(self, widget: ipywidgets.Widget, value: Callable[[], Any]) -> None:
        """Let a widget's change set the value, unless it was we who changed the widget."""

        def changed(change: object) -> None:
            if not self._moving:
                self.value = value()

        widget.observe(changed, "value")

    def _show(self) -> None:
        """Make all widgets show the value."""
        self._moving = True
        try:
            self._set_widgets()
        finally:
            self._moving = False

    def _set_widgets(self) -> None:
        raise NotImplementedError


class CellPicker(Picker):
    """One cell of a sweep: a slider for each axis, and a list of cells to click or to step through.

    Attributes:
        value: The cell's value on each axis.
        sliders: A widget for each axis.
        listed: The list.
        buttons: Previous and Next, along the list.
    """

    def __init__(self, axes: Mapping[str, Sequence[Any]], start: Sequence[Any]) -> None:
        super().__init__(tuple(start))
        self.sliders, self.buttons = [], []
        self.listed = wide(ipywidgets.Select, "By effect", options=[], rows=LISTED)
        for name, step in (("Previous", -1), ("Next", 1)):
            button = ipywidgets.Button(description=name, tooltip=f"{name} in the list")
            button.on_click(partial(self._step, step))
            self.buttons.append(button)
        for axis, values in axes.items():
            options = [(str(value), value) for value in values]
            self.sliders.append(wide(ipywidgets.SelectionSlider, axis, options=options))
            self._follow(self.sliders[-1], lambda: tuple(slider.value for slider in self.sliders))
        self._follow(self.listed, lambda: self.listed.value)
        self._show()

    def list_cells(self, cells: Iterable[tuple[str, tuple[Any, ...]]]) -> None:
        """Offer these cells, by a label, in this order."""
        self._moving = True
        self.listed.options = list(cells)
        self._show()

    def _set_widgets(self) -> None:
        for slider, value in zip(self.sliders, self.value, strict=True):
            slider.value = value
        self.listed.value = self.value if self.value in self._cells() else None

    def _cells(self) -> list[tuple[Any, ...]]:
        return [cell for _, cell in self.listed.options]

    def _step(self, step: int, button: ipywidgets.Button) -> None:
        cells = self._cells()
        if cells:
            row = cells.index(self.value) + step if self.value in cells else 0
            self.value = cells[min(max(row, 0), len(cells) - 1)]


class HeadTicks(Picker):
    """Heads that are in or out: a box for each, and one for each head type.

    Attributes:
        value: The heads that are in, by type.
        rows: The widgets, a row for each type.
    """

    def __init__(self, head_types: Mapping[str, Sequence[Head]]) -> None:
        super().__init__({head_type: tuple(heads) for head_type, heads in head_types.items()})
        self._type_boxes = {head_type: _box(head_type, "180px") for head_type in self.value}
        self._boxes: dict[str, dict[Head, ipywidgets.Checkbox]] = {}
        for head_type, type_box in self._type_boxes.items():
            self._boxes[head_type] = {head: _box(head_name(*head), "90px") for head in self.value[head_type]}
            self._follow(type_box, partial(self._with_type, head_type))
            for box in self._boxes[head_type].values():
                self._follow(box, partial(self._with_ticked, head_type))
        self.rows = [in_a_row(self._type_boxes[name], *boxes.values()) for name, boxes in self._boxes.items()]

    def _with_ticked(self, head_type: str) -> dict[str, tuple[Head, ...]]:
        """The value with those heads of one type whose boxes are ticked."""
        return {**self.value, head_type: tuple(head for head, box in self._boxes[head_type].items() if box.value)}

    def _with_type(self, head_type: str) -> dict[str, tuple[Head, ...]]:
        """The value with all heads of one type or none of them, as its box says."""
        return {**self.value, head_type: tuple(self._boxes[head_type]) if self._type_boxes[head_type].value else ()}

    def _set_widgets(self) -> None:
        for head_type, boxes in self._boxes.items():
            self._type_boxes[head_type].value = len(self.value[head_type]) == len(boxes)
            for head, box in boxes.items():
                box.value = head in self.value[head_type]


def _box(name: str, width: str) -> ipywidgets.Checkbox:
    return ipywidgets.Checkbox(value=True, description=name, indent=False, layout=ipywidgets.Layout(width=width))
