"""Figures of circuits show the numbers that they are given."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import patchlib
import patchlib.tasks.ioi
from patchlib import (
    Ablation,
    Circuit,
    Discovery,
    SweepError,
    attention_between,
    completeness,
    direct_logit_attribution,
    faithfulness,
    minimality,
)
from patchlib.plots import ablations as ablation_plots
from patchlib.plots import circuits as circuit_plots
from patchlib.plots import takeaways
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
    columns = ["depth", "receivers", "site", "layer", "head_index", "position", "effect", "ci_low", "ci_high", "n"]
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
    names = ["name mover", "negative name mover", "S-inhibition", "induction", "duplicate token"]
    types = steps.assign(head_type=names, looks_at=["IO", "IO", "S2", "S1+1", "S1"], attention=0.5)
    discovery = Discovery(Circuit({}), steps, pd.DataFrame(), {}, types, ("IO", "S2", "END"))
    figure = circuit_plots.circuit_graph(discovery)
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    paths = [line for line in lines if line.line.color != circuit_plots.GREY]
    marks = {trace.name: trace for trace in figure.data if trace.mode == "markers+text"}
    assert set(marks) == set(names) and list(figure.layout.xaxis.ticktext) == ["S2", "END"]
    assert marks["induction"].y == (5,) and marks["induction"].text == ("L5H5",)
    assert [mark.marker.color for mark in marks.values()] == [circuit_plots.COLORS[name] for name in names]
    # Each head's path leads to the input that it was patched at; grey lines lead on to those that read the input.
    inputs = {note.text: (note.x, note.y) for note in figure.layout.annotations}
    assert set(inputs) == {"q", "v", "<b>logits</b>"} and len(paths) == 5
    ends = [(line.x[1], line.y[1]) for line in paths]
    assert [ends.count(inputs[name]) for name in ("<b>logits</b>", "q", "v")] == [2, 1, 2]
    on = {(line.x[0], line.y[0]): line.y[1] for line in lines if line.line.color == circuit_plots.GREY}
    assert on == {inputs["q"]: 9, inputs["v"]: 8}
    assert [line.line.color for line in paths].count(circuit_plots.RED) == 1
    widths = {line.y[0]: line.line.width for line in paths if (line.x[1], line.y[1]) == inputs["v"]}
    assert widths[5] > widths[3]


def test_marks_of_one_place_stand_apart():
    cells = [(9, head, "END") for head in range(5)] + [(8, 0, "END"), (7, 0, "END")]
    types = pd.DataFrame(cells, columns=["layer", "head_index", "position"]).assign(
        head_type="unnamed", effect=0.1, looks_at="IO", attention=0.5
    )
    steps = types.assign(depth=1, receivers="logits", site="logits", n=4)
    discovery = Discovery(Circuit({}), steps, pd.DataFrame(), {}, types, ("IO", "END"))
    marks = next(trace for trace in circuit_plots.circuit_graph(discovery).data if trace.name == "unnamed")
    assert len(set(zip(marks.x, marks.y, strict=True))) == len(cells)
    assert all(abs(x) < 0.4 for x in marks.x)


def test_knock_outs_stand_beside_chance():
    table = pd.DataFrame(
        {"metric_mean": [4.0, 1.5, 3.9, 4.3], "change": [0, -2.5, -0.1, 0.3], "ci_low": [0, -3, -0.2, 0.1],
         "ci_high": [0, -2, 0, 0.5], "heads": ["", "L9H6", "L9H1", "L9H2"], "n": 8, "metric": "logit_diff"},
        index=["none", "the writers", "random 0", "random 1"],
    )  # fmt: skip
    chance, named = ablation_plots.knock_out_strip(table).data
    assert tuple(chance.x) == (-0.1, 0.3) and set(chance.y) == {"2 random sets"}
    assert named.x == (-2.5,) and named.error_x.array[0] == pytest.approx(0.5)
    assert named.error_x.arrayminus[0] == pytest.approx(0.5)
    assert takeaways.of_knock_out(table) == (
        "From 4.00: without the writers (L9H6) the logit difference changes by -2.50 [-3.00, -2.00]; 2 random sets of "
        "as many heads in the same layers change it by -0.10 to +0.30, mean +0.10. n = 8. "
        "No random set changes it as much as the writers."
    )
    table.loc["random 1", "change"] = 2.5  # as much, in the other direction
    assert takeaways.of_knock_out(table).endswith(
        "n = 8. 1 of the random sets change it as much: nothing tells the writers from them."
    )


def test_backup_heads_stand_above_the_line():
    table = pd.DataFrame(
        {"layer": [10, 9, 11], "head_index": [2, 1, 0], "before": [0.1, 0.2, 0.5], "after": [0.9, 0.2, 0.4],
         "change": [0.8, 0.0, -0.1], "ci_low": [0.5, -0.1, -0.2], "ci_high": [1.0, 0.1, 0.0], "n": 8,
         "knocked_out": "L9H6"},
    )  # fmt: skip
    points, diagonal = ablation_plots.backup_scatter(table, top_k=1).data
    assert tuple(points.text) == ("L10H2", "", "") and tuple(points.y) == (0.9, 0.2, 0.4)
    assert tuple(diagonal.x) == tuple(diagonal.y)
    said = takeaways.of_backup(table)
    assert said == (
        "Without L9H6, L10H2 writes +0.80 [0.50, 1.00] logits more of the answer than before; "
        "all other heads together +0.70."
    )
    table.ci_low = -0.1
    assert "no head's increase stands out" in takeaways.of_backup(table.iloc[1:])


@pytest.fixture(scope="module")
def tested():
    model = load_tiny("llama")
    circuit = Circuit({"early": [(0, 1), (1, 0)], "late": [(2, 3)]}, {"late": "END"})
    return Ablation(model, make_pairs(model)), circuit


def test_completeness_compares_circuit_and_model_point_by_point(tested):
    table = completeness(*tested, n_random=2, n_greedy=2)
    figure = ablation_plots.completeness_scatter(table)
    points = {trace.name: trace for trace in figure.data if trace.name}
    assert list(points) == [
        "without nothing", "without a head type", "without random sets", "without greedy sets, grown to be worst",
    ]  # fmt: skip
    assert [len(trace.x) for trace in points.values()] == [1, 2, 2, 2]
    np.testing.assert_allclose(points["without a head type"].x, table.model[1:3], atol=1e-4)
    np.testing.assert_allclose(points["without a head type"].y, table.circuit[1:3], atol=1e-4)
    worst = table.loc[table.incompleteness.idxmax()]
    assert f"an incompleteness of {worst.incompleteness:.2f}" in takeaways.of_completeness(table)


def test_minimality_has_a_bar_for_each_head(tested):
    table = minimality(*tested)
    figure = ablation_plots.minimality_bar(table)
    shares = {head: share for trace in figure.data for head, share in zip(trace.x, trace.y, strict=True)}
    assert shares == pytest.approx(dict(zip(table.head_name, table.share, strict=True)), abs=1e-4)
    assert takeaways.of_minimality(table).startswith(f"{table.head_name[0]} adds most ({table.share[0]:.0%}")
    table.share = [0.5, 0.2, 0.001]
    assert takeaways.of_minimality(table).endswith(f"{table.head_name[2]} adds less than 1%.")


def test_faithfulness_is_said_with_its_protocol(tested):
    found = replace(faithfulness(*tested), floor=-9.0, ci_low=-2.0, ci_high=0.4)
    said = takeaways.of_faithfulness(found)
    assert "keeps less than half, and other heads do the rest: do not trust the names" in said
    assert "do not say" in takeaways.of_faithfulness(replace(found, ci_low=np.nan, ci_high=np.nan))
    assert "take the names as candidates" in takeaways.of_faithfulness(replace(found, ci_high=0.9))
    assert "there are heads outside it" in takeaways.of_faithfulness(replace(found, ci_low=0.6, ci_high=0.9))
    assert "no better than no head" in takeaways.of_faithfulness(replace(found, floor=found.circuit))
    assert f"faithfulness {found.faithfulness:.2f} [{found.ci_low:.2f}, {found.ci_high:.2f}]" in said
    assert found.protocol in said and f"with no head at all {found.floor:.2f}" in said


def test_writers_are_said_with_where_they_look():
    coords = {"layer": [0, 1], "head": [0, 1], "example": [0]}
    attribution = xr.DataArray(np.array([0.1, -0.5, 2.0, 0.0]).reshape(2, 2, 1), coords, list(coords))
    attention = xr.DataArray(
        np.zeros((2, 2, 2, 1)), {**coords, "role": ["IO", "S2"]}, ["layer", "head", "role", "example"]
    )
    attention.loc[{"layer": 1, "head": 0, "role": "S2"}] = 0.7
    attention.loc[{"layer": 0, "head": 1, "role": "IO"}] = 0.6
    assert takeaways.of_writers(attribution, attention) == (
        "L1H0 writes most towards the answer (+2.00 logits) and attends most to S2 (0.70); "
        "L0H1 writes most against it (-0.50 logits) and attends most to IO (0.60)."
    )


def test_a_circuit_stands_beside_the_published_one():
    model = load_tiny("llama")
    circuit = Circuit({"name mover": [(2, 0), (1, 1)], "unnamed at END": [(2, 2)], "subject suppressor": [(2, 3)]})
    table = patchlib.beside_published(model, circuit)
    assert table.loc["name mover", "heads"] == "L1H1, L2H0" and table.loc["name mover", "depth"] == 0.75
    assert table.loc["name mover", "gpt2_heads"] == "L9H6, L9H9, L10H0"
    assert table.loc["name mover", "gpt2_depth"] == pytest.approx(28 / 3 / 11)
    assert "unnamed at END" not in table.index and "n_shared" not in table
    assert table.loc["subject suppressor", "gpt2_heads"] == ""


def test_gpt2_s_own_circuit_shares_all_of_its_heads(monkeypatch):
    model = load_tiny("gpt2")
    monkeypatch.setattr(model.cfg, "model_name", "gpt2")
    published = {name.lower(): heads for name, heads in patchlib.tasks.ioi.IOI_HEADS.items()}
    table = patchlib.beside_published(model, Circuit(published))
    assert table.n_shared.sum() == sum(map(len, published.values())) == 26
