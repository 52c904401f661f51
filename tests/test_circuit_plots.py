"""Figures of circuits show the numbers that they are given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from patchlib import Circuit, Discovery, SweepError, attention_between, circuit_plots, direct_logit_attribution
from tests.helpers import make_pairs
from tests.tiny import load_tiny


def test_writers_stand_at_their_attention_and_attribution():
    model = load_tiny("llama")
    pairs = make_pairs(model)
    attribution, attention = direct_logit_attribution(model, pairs), attention_between(model, pairs, "END")
    figure = circuit_plots.writers(attribution, attention, roles=("first", "varied"), top_k=3)
    points = figure.data[0]
    gap = (attention.sel(role="first") - attention.sel(role="varied")).mean("example")
    i = list(points.customdata).index("L1H2")
    assert points.x[i] == pytest.approx(float(gap.sel(layer=1, head=2)), abs=1e-4)
    assert points.y[i] == pytest.approx(float(attribution.sel(layer=1, head=2).mean()), abs=1e-4)
    labelled = [name for name in points.text if name]
    order = np.argsort(-abs(attribution.mean("example").values.ravel()))[:3]
    assert set(labelled) == {points.customdata[j] for j in order}
    with pytest.raises(SweepError, match="Unknown role 'IO'"):
        circuit_plots.writers(attribution, attention)


def test_the_graph_has_a_mark_for_each_head_and_a_line_for_each_path():
    columns = ["depth", "to", "site", "layer", "head", "at", "effect", "ci_low", "ci_high", "n"]
    steps = pd.DataFrame(
        [
            (1, "logits", "logits", 9, 6, "END", 0.5, 0.4, 0.6, 8),
            (1, "logits", "logits", 10, 7, "END", -0.3, -0.4, -0.2, 8),
            (2, "L9H6", "q", 8, 6, "END", 0.2, 0.1, 0.3, 8),
            (3, "L8H6", "v", 5, 5, "S2", 0.1, 0.05, 0.2, 8),
            (3, "L8H6", "v", 3, 0, "S2", 0.05, 0.02, 0.2, 8),
        ],
        columns=columns,
    )
    roles = steps.assign(role=["name mover", "negative name mover", "S-inhibition", "induction", "duplicate token"],
                         looks_at=["IO", "IO", "S2", "S1+1", "S1"], attention=0.5)  # fmt: skip
    discovery = Discovery(Circuit({}), steps, pd.DataFrame(), {}, roles, ("IO", "S2", "END"))
    figure = circuit_plots.circuit_graph(discovery)
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    marks = {trace.name: trace for trace in figure.data if trace.mode == "markers+text"}
    assert len(lines) == 5 and set(marks) == set(roles.role)
    assert list(figure.layout.xaxis.ticktext) == ["S2", "END"]
    assert marks["induction"].x == (0,) and marks["induction"].y == (5,) and marks["induction"].text == ("5.5",)
    to_inhibition = [line for line in lines if tuple(line.x) == (0, 1)]
    assert sorted(tuple(line.y) for line in to_inhibition) == [(3, 8), (5, 8)]
    assert sum(line.line.color == circuit_plots.RED for line in lines) == 1
    widths = {tuple(line.y): line.line.width for line in to_inhibition}
    assert widths[5, 8] > widths[3, 8]
