"""How long the kernel takes to answer a move of each control, on the default model.

    python -m tests.benchmarks.bench_controls [--repeats 5]

Every control of the notebooks is made from results of a few prompts, and each of its widgets is moved to and fro. A
line has the median and the slowest time from a widget's new value to the drawing being sent to the page, in
milliseconds; what the browser needs to draw it comes on top. "First" moves are those that work something out once,
such as a prompt's intervals or attention patterns, and keep it. `circuit_builder` runs the model at each move.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets
import pandas as pd

import patchlib
from patchlib import widgets
from patchlib.widgets.pickers import LISTED


def walk(box: Any) -> Iterator[Any]:
    """A widget and all those inside."""
    yield box
    for child in getattr(box, "children", ()):
        yield from walk(child)


def values_of(widget: Any) -> list[Any]:
    """What to move a widget to: its first choices, or a few steps of its range."""
    if isinstance(widget, ipywidgets.Text):
        return [f"{widget.value} now", widget.value]
    if isinstance(widget, ipywidgets.Checkbox):
        return [not widget.value, widget.value]
    if hasattr(widget, "options"):
        return [value for _, value in widget._options_full[:LISTED]]
    if hasattr(widget, "max"):
        return [widget.min + i * (widget.max - widget.min) / 4 for i in range(5)]
    return []


def moved(name: str, box: Any, only: Callable[[Any], bool] = lambda widget: True) -> list[dict[str, Any]]:
    """Milliseconds of each move of each widget, first and again."""
    timings = []
    for widget in walk(box):
        if not getattr(widget, "description", "") or widget.disabled or not only(widget):
            continue
        for turn in ("first", "again"):
            for value in values_of(widget):
                if value == widget.value:
                    continue
                with contextlib.redirect_stdout(io.StringIO()):  # where drawings go that have no page
                    begin = time.perf_counter()
                    widget.value = int(value) if isinstance(widget, ipywidgets.IntSlider) else value
                    ms = 1000 * (time.perf_counter() - begin)
                timings.append({"control": name, "widget": widget.description, "turn": turn, "ms": ms})
    return timings


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    model = patchlib.load_model()
    task = patchlib.IOIDataset(model, n_prompts=6, seed=0)
    swept = {
        "denoising": patchlib.sweep(model, task, "z", ("layer", "head"), progress=False),
        "noising": patchlib.sweep(model, task, "z", ("layer", "head"), direction="noise", progress=False),
    }
    texts = [pair[0] for pair in task.get_clean_corrupt_pairs()]
    unseen = patchlib.IOIDataset(model, n_prompts=8, seed=1, corruption="abc")
    circuit = patchlib.Circuit({"writers": [(23, 3), (29, 1)], "inhibitors": [(20, 0)]}, {"writers": "END"})
    layer_heads = [
        (row.layer, row.head_index) for row in patchlib.summary_table(swept["denoising"], LISTED).itertuples()
    ]
    rows = []
    for _ in range(repeats):
        rows += moved("result_explorer", widgets.result_explorer(swept))
        rows += moved("head_explorer", widgets.head_explorer(model, task, swept["denoising"]))
        rows += moved("attention_view", widgets.attention_view(model, texts, layer_heads))
        rows += moved("circuit_builder", widgets.circuit_builder(patchlib.Ablation(model, unseen), circuit))
        playground = widgets.prompt_playground(model)
        rows += moved("prompt_playground", playground, lambda widget: isinstance(widget, ipywidgets.Text))
    table = pd.DataFrame(rows).groupby(["control", "widget", "turn"], sort=False).ms
    print(table.agg(median=statistics.median, slowest="max", n="count").round(0).astype(int).to_string())


if __name__ == "__main__":
    main()
