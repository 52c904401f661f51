"""Several widgets that hold one value between them, so that a move in any of them is one change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ipywidgets
import traitlets

from patchlib._util import Head, head_names
from patchlib.widgets.drawing import wide

LISTED = 8
"""Rows of a list that are seen without scrolling."""


class Picker(traitlets.HasTraits):
    """What ``live`` observes: a value, the widgets that show it, and a guard, since they also change it."""

    value = traitlets.Any()

    def __init__(self, value: Any) -> None:
        super().__init__(value=value)
        self._moving = False
        self.observe(lambda change: self._show(), "value")

    def _from(self, widget: ipywidgets.Widget, value: Any) -> None:
        """Let a widget's change set the value, unless it was we who changed the widget."""

        def changed(change: Any) -> None:
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
        value: The cell's place on each axis.
        sliders: A widget for each axis.
        listed: The list.
        buttons: Previous and Next, along the list.
    """

    def __init__(self, axes: Mapping[str, Sequence[Any]], start: Sequence[Any], what: str = "By effect") -> None:
        super().__init__(tuple(start))
        self.sliders = [
            wide(ipywidgets.SelectionSlider, name, options=[(str(one), one) for one in places])
            for name, places in axes.items()
        ]
        self.listed = wide(ipywidgets.Select, what, options=[], rows=LISTED)
        self.buttons = []
        for name, step in (("Previous", -1), ("Next", 1)):
            button = ipywidgets.Button(description=name, tooltip=f"{name} in the list")
            button.on_click(lambda _, step=step: self._step(step))
            self.buttons.append(button)
        for slider in self.sliders:
            self._from(slider, lambda: tuple(one.value for one in self.sliders))
        self._from(self.listed, lambda: self.listed.value)
        self._show()

    def list_cells(self, cells: Iterable[tuple[str, tuple[Any, ...]]]) -> None:
        """Offer these cells, by a label, in this order."""
        self._moving = True
        self.listed.options = list(cells)
        self._show()

    def _set_widgets(self) -> None:
        for slider, place in zip(self.sliders, self.value, strict=True):
            slider.value = place
        self.listed.value = self.value if self.value in self._cells() else None

    def _cells(self) -> list[tuple[Any, ...]]:
        return [cell for _, cell in self.listed.options]

    def _step(self, step: int) -> None:
        cells = self._cells()
        if cells:
            at = cells.index(self.value) + step if self.value in cells else 0
            self.value = cells[min(max(at, 0), len(cells) - 1)]


class HeadTicks(Picker):
    """Heads that are in or out: a box for each, and one for each role.

    Attributes:
        value: The heads that are in, by role.
        rows: The widgets, a row for each role.
    """

    def __init__(self, roles: Mapping[str, Sequence[Head]]) -> None:
        super().__init__({role: tuple(heads) for role, heads in roles.items()})
        self._heads = dict(self.value)
        self._whole = {role: self._box(role, "180px") for role in roles}
        self._boxes = {(role, head): self._box(head_names([head]), "90px") for role in roles for head in roles[role]}
        for box in self._boxes.values():
            self._from(box, self._ticked)
        for role, box in self._whole.items():
            self._from(box, lambda role=role, box=box: {**self.value, role: self._heads[role] if box.value else ()})
        wrap = ipywidgets.Layout(flex_flow="row wrap")
        self.rows = [
            ipywidgets.HBox([self._whole[role], *(self._boxes[role, head] for head in heads)], layout=wrap)
            for role, heads in self._heads.items()
        ]

    @staticmethod
    def _box(name: str, width: str) -> ipywidgets.Checkbox:
        return ipywidgets.Checkbox(value=True, description=name, indent=False, layout=ipywidgets.Layout(width=width))

    def _ticked(self) -> dict[str, tuple[Head, ...]]:
        return {
            role: tuple(one for one in heads if self._boxes[role, one].value) for role, heads in self._heads.items()
        }

    def _set_widgets(self) -> None:
        for role, heads in self._heads.items():
            self._whole[role].value = len(self.value[role]) == len(heads)
            for head in heads:
                self._boxes[role, head].value = head in self.value[role]
