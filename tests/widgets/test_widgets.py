"""Controls: what they draw follows their values, and no error is swallowed."""

from __future__ import annotations

import base64
import subprocess
import sys

import ipywidgets
import nbformat
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import patchlib
from patchlib import Circuit, SweepError
from patchlib._util import cell_name, head_name
from patchlib.circuits.ablation import Ablation
from patchlib.plots.style import PLOTLY_MIME
from patchlib.widgets import (
    attention_view,
    circuit_builder,
    edge_explorer,
    estimate_explorer,
    head_explorer,
    live,
    result_explorer,
)
from patchlib.widgets.pickers import CellPicker
from tests.helpers import contrast_pairs, make_pairs
from tests.tiny import load_tiny
from tests.widgets.boxes import field, walk

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.ContrastWarning")


@pytest.fixture(scope="module")
def model():
    return load_tiny("llama")


@pytest.fixture(scope="module")
def result(model):
    return patchlib.sweep(model, contrast_pairs(model), "z", ("layer", "head"), progress=False)


class Shown:
    """The outputs of a control, as a notebook would show them."""

    def __init__(self, box, monkeypatch):
        self.box = box
        self.output = next(widget for widget in walk(box) if isinstance(widget, ipywidgets.Output))
        self.drawn = [output["data"] for output in self.output.outputs]

        def display(data, raw):
            self.drawn.append(data)

        monkeypatch.setattr("patchlib.widgets.drawing.display", display)
        monkeypatch.setattr("patchlib.widgets.drawing.clear_output", lambda wait: self.drawn.clear())

    def control(self, label):
        return field(self.box, label)

    def figures(self):
        return [bundle[PLOTLY_MIME] for bundle in self.drawn if PLOTLY_MIME in bundle]

    def titles(self):
        return [figure["layout"]["title"]["text"].replace("<br>", " ") for figure in self.figures()]

    def texts(self):
        return [bundle["text/plain"] for bundle in self.drawn if "text/plain" in bundle]


def test_a_drawing_that_fails_at_the_defaults_fails_the_cell():
    def draw(x):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        live(draw, {"x": ipywidgets.IntSlider()})


def test_every_change_draws_again(monkeypatch):
    shown = Shown(live(lambda x: [f"x is {x}"], {"x": ipywidgets.IntSlider(description="x")}), monkeypatch)
    assert shown.texts() == ["x is 0"]
    shown.control("x").value = 7
    assert shown.texts() == ["x is 7"] and shown.drawn[0]["text/html"] == "<p>x is 7</p>"


def places(table):
    """Each row's (layer, head)."""
    return list(table.iloc[:, :2].itertuples(index=False, name=None))


def drawn(shown):
    """The numbers of the map, from the form in which plotly stores arrays."""
    z = shown.figures()[0]["data"][0]["z"]
    return np.frombuffer(base64.b64decode(z["bdata"]), z["dtype"]).reshape([int(n) for n in z["shape"].split(",")])


def test_map_table_and_cell_of_the_explorer_stay_in_step(result, monkeypatch):
    shown = Shown(result_explorer({"denoising": result}), monkeypatch)
    top, second = places(patchlib.summary_table(result))[:2]
    assert shown.titles() == ["denoising: mean of all prompts", f"denoising, logit_diff: {head_name(*top)}"]
    framed = next(trace for trace in shown.figures()[0]["data"] if trace["type"] == "scatter")
    assert (list(framed["x"]), list(framed["y"])) == ([f"H{top[1]}"], [f"{top[0]}"])
    assert shown.control("By effect").value == top and len(shown.control("By effect").options) == 5
    shown.control("Next").click()
    assert shown.titles()[1].endswith(head_name(*second))
    assert (shown.control("layer").value, shown.control("head").value) == second
    framed = next(trace for trace in shown.figures()[0]["data"] if trace["type"] == "scatter")
    assert (list(framed["x"]), list(framed["y"])) == ([f"H{second[1]}"], [f"{second[0]}"])
    shown.control("layer").value, shown.control("head").value = 0, 1  # any cell, listed or not
    assert shown.titles()[1].endswith("L0H1") and shown.control("By effect").value in (None, (0, 1))
    shown.control("Prompt").value = 1
    assert shown.titles() == ["denoising: prompt 1", "denoising, logit_diff: L0H1"]
    alone = patchlib.stats.effect(result.isel(example=[1])).isel(metric=0)
    np.testing.assert_allclose(drawn(shown), alone.transpose("layer", "head"), atol=1e-3)
    shown.control("Rows").value = 3
    assert sum(len(text.splitlines()) == 4 for text in shown.texts()) == 1
    shown.control("Hide below").value = 0.5
    assert shown.titles()[0].endswith("effects below 0.50 hidden")
    kept = alone.transpose("layer", "head").values
    np.testing.assert_array_equal(np.isnan(drawn(shown)), abs(kept) < 0.5)


def test_explorers_begin_with_the_cell_of_the_sentence_and_the_table(model, result, monkeypatch):
    base, other = result.corrupted, result.clean
    effects = xr.zeros_like(result.effect)
    effects.loc[{"layer": 1, "head": 2}], effects.loc[{"layer": 0, "head": 1}] = -0.59, 0.4
    pushed = result.assign(patched=base + effects * (other - base), effect=effects)
    assert places(patchlib.summary_table(pushed))[0] == (1, 2)
    shown = Shown(result_explorer(pushed), monkeypatch)
    assert shown.titles()[1].endswith(": L1H2") and any("in size: L1H2 with -0.59" in text for text in shown.texts())
    framed = next(trace for trace in shown.figures()[0]["data"] if trace["type"] == "scatter")
    assert (list(framed["x"]), list(framed["y"])) == (["H2"], ["1"])
    heads = Shown(head_explorer(model, contrast_pairs(model), pushed), monkeypatch)
    assert heads.control("By effect").options[0][0] == "1. L1H2 (-0.59)"


@pytest.mark.parametrize("over", [("layer",), ("layer", "role"), ("layer", "head", "role"), ("role",)])
def test_the_explorer_takes_sweeps_over_any_axes(model, over, monkeypatch):
    site = "z" if "head" in over else "resid_pre"
    result = patchlib.sweep(model, contrast_pairs(model), site, over, progress=False)
    shown = Shown(result_explorer(result), monkeypatch)
    top = dict(zip(over, patchlib.summary_table(result).iloc[0], strict=False))  # the axes are the first columns
    assert shown.titles()[1] == f"result, logit_diff: {cell_name(top)}"
    last = over[-1]
    shown.control(last).value = result[last].values[0]
    assert shown.titles()[1].endswith(cell_name({**top, last: result[last].values[0]}))
    with pytest.raises(SweepError, match="an explorer of its own"):
        result_explorer({"whole": result, "cut": result.isel({last: 0})})


def test_there_must_be_something_to_explore(result):
    with pytest.raises(SweepError, match="the mapping of names to results is empty"):
        result_explorer({})
    with pytest.raises(SweepError, match="not swept over anything"):
        result_explorer(result.isel(layer=0, head=0))


def test_every_way_to_pick_a_cell_is_one_change():
    picker, seen = CellPicker({"layer": [0, 1, 2], "head": [0, 1]}, (2, 1)), []
    picker.observe(lambda change: seen.append(change["new"]), "value")
    picker.list_cells([("first", (2, 1)), ("second", (0, 0))])
    assert not seen and picker.listed.value == (2, 1)
    picker.listed.value = (0, 0)
    picker.sliders[1].value = 1
    picker.buttons[0].click()  # not in the list: to its start
    picker.buttons[1].click()
    assert seen == [(0, 0), (0, 1), (2, 1), (0, 0)]
    assert [slider.value for slider in picker.sliders] == [0, 0] and picker.listed.value == (0, 0)


def test_the_head_explorer_goes_through_heads_by_effect(model, result, monkeypatch):
    shown = Shown(head_explorer(model, contrast_pairs(model), result), monkeypatch)
    table = patchlib.summary_table(result)
    heads = places(table)
    names = [head_name(*head) for head in heads]
    assert shown.titles() == [f"{names[0]} on prompt 0"]
    shown.control("Next").click()
    assert shown.titles() == [f"{names[1]} on prompt 0"] and f"{table.effect[1]:.2f}" in shown.texts()[-1]
    assert shown.texts()[0].startswith(f"{names[1]} looks most at ")
    shown.control("Prompt").value = 2
    assert shown.titles() == [f"{names[1]} on prompt 2"]
    shown.control("Previous").click()
    shown.control("Previous").click()
    assert shown.titles() == [f"{names[0]} on prompt 2"]
    shown.control("By effect").value = heads[2]
    assert shown.titles() == [f"{names[2]} on prompt 2"]
    shown.control("layer").value, shown.control("head").value = 0, 0
    assert shown.titles() == ["L0H0 on prompt 2"]


def test_the_attention_view_has_every_prompt_and_head(model, monkeypatch):
    shown = Shown(attention_view(model, [" and the store", " the park and"], [(0, 0), (2, 1)]), monkeypatch)
    shown.control("Head").value = "L2H1"
    shown.control("Prompt").value = 1
    assert shown.titles() == ["L2H1 on prompt 1"]
    with pytest.raises(SweepError, match="no prompt to look at"):
        attention_view(model, [], [(0, 0)])
    with pytest.raises(SweepError, match="There is no head L3H0"):
        attention_view(model, ["the store"], [(3, 0)])


def test_the_head_explorer_says_what_a_search_found(model, result, monkeypatch):
    head = places(patchlib.summary_table(result))[0]
    head_types = pd.DataFrame([(*head, "name mover", "END")], columns=["layer", "head_index", "head_type", "position"])
    shown = Shown(head_explorer(model, contrast_pairs(model), result, head_types), monkeypatch)
    assert "name mover at END" in shown.texts()[-1]
    shown.control("Next").click()
    assert "not in the circuit" in shown.texts()[-1]


def test_the_circuit_builder_tests_what_is_ticked(model, monkeypatch):
    ablation = Ablation(model, make_pairs(model))
    circuit = Circuit({"early": [(0, 1), (1, 0)], "late": [(2, 3)]}, {"late": "END"})
    shown = Shown(circuit_builder(ablation, circuit), monkeypatch)
    assert shown.texts()[0] == "Left out: nothing."
    shown.control("L0H1").value = False
    assert shown.texts()[0] == "Left out: L0H1 (early)." and not shown.control("early").value
    expected = patchlib.faithfulness(ablation, circuit.without([(0, 1)]))
    assert f"faithfulness {expected.faithfulness:.2f}" in shown.texts()[-1]
    shown.control("late").value = False
    assert shown.texts()[0] == "Left out: L0H1 (early), L2H3 (late)."
    shown.control("early").value = True
    assert shown.texts()[0] == "Left out: L2H3 (late)." and shown.control("L0H1").value


def test_the_estimate_explorer_shows_the_method_and_steps_that_are_picked(model, result, monkeypatch):
    task = contrast_pairs(model)

    def estimate(**how):
        return patchlib.attribute(model, task, "z", ("layer", "head"), progress=False, **how)

    by_steps = {steps: estimate(method="integrated", steps=steps) for steps in (2, 5)}
    shown = Shown(estimate_explorer({"gradient": {1: estimate()}, "integrated": by_steps}, result), monkeypatch)
    assert shown.titles() == ["gradient: estimated against exact"]
    shown.control("Steps").value = 5
    assert shown.titles() == ["gradient: estimated against exact"]  # it has no steps
    shown.control("Method").value = "integrated"
    assert shown.titles() == ["integrated, 5 steps: estimated against exact"]
    row = patchlib.agreement(by_steps[5], result).iloc[0]
    assert f"Spearman {row.spearman:.2f}" in shown.texts()[0]
    shown.control("Steps").value = 1
    assert shown.titles() == ["integrated, 2 steps: estimated against exact"]  # the fewest that there are
    shown.control("Misses named").value = 0
    assert not any(shown.figures()[0]["data"][0]["text"])
    for wrong in ({}, {"gradient": {}}):
        with pytest.raises(SweepError, match=r"give \{method"):
            estimate_explorer(wrong, result)


def test_the_edge_explorer_shows_size_and_faithfulness_of_what_is_picked(model, monkeypatch):
    task = contrast_pairs(model)
    scores = patchlib.attribute_edges(model, task, progress=False)
    curve = patchlib.faithfulness_curve(patchlib.EdgeAblation(model, task), scores, shares=[0.1, 0.5, 1])
    shown = Shown(edge_explorer({"eap": scores}, {"eap": curve}), monkeypatch)
    assert shown.titles() == ["eap: 10% of the edges, by size"]
    shown.control("Share kept").value = 0.5
    for label, ranking in (("size", "magnitude"), ("sign", "signed")):
        shown.control("Ranking").label = label
        table = curve.table[(curve.table.of == "edges") & (curve.table.share == 0.5)].set_index("ranking")
        row = table.loc[ranking]
        assert f"{row.n_edges} are connected: faithfulness {row.faithfulness:.2f}" in shown.texts()[0]
        assert shown.titles() == [f"eap: 50% of the edges, by {label}"]
        drawn_of = shown.figures()[0]["layout"]["title"]["subtitle"]["text"]
        assert f"of the circuit's {row.n_edges} edges" in drawn_of
    with pytest.raises(SweepError, match="under the same names"):
        edge_explorer({"eap": scores}, {"other": curve})


def test_a_function_is_told_how_far_a_sweep_is_and_can_stop_it(model):
    told = []
    patchlib.sweep(model, make_pairs(model), "z", ("layer", "head"), progress=lambda *how_far: told.append(how_far))
    assert told[-1][0] == told[-1][1] == 4 * 12 and [done for done, _ in told] == sorted(done for done, _ in told)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        patchlib.sweep(model, make_pairs(model), "z", ("layer", "head"), progress=stop)


@pytest.mark.slow
@pytest.mark.parametrize(("value", "status", "code"), [(1, "ok", 0), (0, "failed", 1)])
def test_a_control_that_fails_to_draw_fails_papermill_and_nbval(value, status, code, tmp_path):
    source = (
        "import ipywidgets\nfrom patchlib.widgets import live\n"
        f"live(lambda x: [f'{{1 / x}}'], {{'x': ipywidgets.IntSlider(value={value}, min=0)}})"
    )
    cell = nbformat.v4.new_code_cell(source, execution_count=1, metadata={"tags": ["live", "nbval-ignore-output"]})
    path = tmp_path / "controls.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    record = patchlib.run([path], out_dir=tmp_path / "out", progress=False)[0]
    assert record.status == status and (record.error is None or "ZeroDivisionError" in record.error)
    nbval = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--nbval",
        "--nbval-current-env",
        "-p",
        "no:cacheprovider",
        str(path),
    ]
    finished = subprocess.run(nbval, cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == code, finished.stdout
