"""Figures and sentences of estimates, edges and curves show the numbers that they are given."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats as scipy_stats

import patchlib
from patchlib import FaithfulnessCurve, SweepError, plots, toys
from patchlib.plots import takeaways
from tests.helpers import contrast_pairs
from tests.tiny import load_tiny

pytestmark = pytest.mark.filterwarnings("ignore::patchlib.EngineWarning")
CELLS = ("z", ("layer", "head"))


@pytest.fixture(scope="module")
def model():
    return load_tiny("llama")


@pytest.fixture(scope="module")
def pairs(model):
    return contrast_pairs(model)


@pytest.fixture(scope="module")
def estimate(model, pairs):
    return patchlib.attribute(model, pairs, *CELLS, progress=False)


@pytest.fixture(scope="module")
def exact(model, pairs):
    return patchlib.sweep(model, pairs, *CELLS, progress=False)


@pytest.fixture(scope="module")
def edges(model, pairs):
    return patchlib.attribute_edges(model, pairs, progress=False)


def made_up(effects: np.ndarray, like: xr.Dataset) -> xr.Dataset:
    return like.assign(effect=(like.effect.dims, effects[None]))


def test_agreement_is_scipys_correlations_and_a_count_by_hand(estimate, exact):
    estimated, patched = (result.effect.values.ravel() for result in (estimate, exact))
    row = patchlib.agreement(estimate, exact, top_k=3).iloc[0]
    assert row.pearson == pytest.approx(scipy_stats.pearsonr(estimated, patched).statistic, abs=1e-6)
    assert row.spearman == pytest.approx(scipy_stats.spearmanr(estimated, patched).statistic, abs=1e-6)
    largest = [set(np.argsort(-abs(values))[:3]) for values in (estimated, patched)]
    assert row.top_k_shared == len(largest[0] & largest[1]) and row.n_cells == 12
    i = int(abs(estimated - patched).argmax())
    assert row.largest_miss_at == f"L{i // 4}H{i % 4}"
    assert row.largest_miss == pytest.approx(estimated[i] - patched[i], abs=1e-6)


def test_a_perfect_and_an_inverted_estimate(exact):
    truth = np.arange(1.0, 13).reshape(3, 4)
    right, turned = made_up(truth, exact), made_up(-truth, exact)
    table = patchlib.agreement({"right": right, "turned": turned}, right)
    assert table.pearson.round(6).tolist() == table.spearman.round(6).tolist() == [1, -1]
    assert table.top_k_shared.tolist() == [10, 10]  # of the size
    assert (table.largest_miss["turned"], table.largest_miss_at["turned"]) == (-24, "L2H3")
    flat = patchlib.agreement(made_up(truth * 0, exact), right).iloc[0]
    assert np.isnan(flat.pearson) and np.isnan(flat.spearman)
    assert "Pearson undefined" in takeaways.of_estimates(made_up(truth * 0, exact), right)


def test_an_estimate_is_compared_with_the_same_patch_only(model, pairs, estimate, exact):
    with pytest.raises(SweepError, match="Nothing exact to compare with: give exact="):
        patchlib.agreement(estimate)
    with pytest.raises(SweepError, match="other cells"):
        patchlib.agreement(estimate, exact.isel(layer=[0, 1]))
    noised = patchlib.sweep(model, pairs, *CELLS, direction="noise", progress=False)
    with pytest.raises(SweepError, match="differ in direction"):
        patchlib.agreement(estimate, noised)
    with pytest.raises(SweepError, match="no estimate"):
        patchlib.agreement({}, exact)
    checked = patchlib.attribute(model, pairs, *CELLS, check_top=3, progress=False)
    by_sweep = patchlib.agreement(checked, exact)
    assert patchlib.agreement(checked).n_cells.iloc[0] == 6 and by_sweep.n_cells.iloc[0] == 12


def test_points_stand_at_exact_and_estimated_effects_and_misses_are_named(estimate, exact):
    figure = plots.estimate_against_exact({"one": estimate, "other": exact}, exact, top_k=2)
    points, _, perfect, _ = figure.data
    np.testing.assert_allclose(points.x, exact.effect.values.ravel(), atol=1e-4)
    np.testing.assert_allclose(points.y, estimate.effect.values.ravel(), atol=1e-4)
    np.testing.assert_allclose(perfect.x, perfect.y)
    misses = np.argsort(-abs(estimate.effect - exact.effect).values.ravel())[:2]
    named = {name for name in points.text if name}
    assert named <= {points.customdata[i] for i in misses} and points.customdata[misses[0]] in named
    assert points.customdata.tolist()[5] == "L1H1"
    assert figure.layout.xaxis.range == figure.layout.xaxis2.range == figure.layout.yaxis.range


def test_the_sentence_names_both_correlations_and_the_largest_miss(estimate, exact):
    row = patchlib.agreement(estimate, exact).iloc[0]
    said = takeaways.of_estimates({"gradient": estimate}, exact)
    assert f"Pearson {row.pearson:.2f}, Spearman {row.spearman:.2f}, {row.top_k_shared} of the ten largest" in said
    missed = dict(zip(("layer", "head"), (int(row.largest_miss_at[1]), int(row.largest_miss_at[3])), strict=True))
    estimated, patched = (float(result.effect.isel(metric=0).sel(missed)) for result in (estimate, exact))
    assert f"misses {row.largest_miss_at} most, {estimated:.2f} for {patched:.2f}." in said


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_gap_is_told_as_a_share_of_the_way(direction, estimate):
    gap = xr.DataArray([[-1.0, 1.0, 0.5, 0.0]], dims=("metric", "example"))
    unpatched = {"clean": gap * 0 + 5, "corrupted": gap * 0 + 1}
    result = estimate.assign(gap=gap, **unpatched).assign_attrs(direction=direction)
    whole = 4 if direction == "denoise" else -4
    expected = f"sum to {whole + 0.125:.2f} of {whole:.2f} in the mean; a prompt's sum is off by 0% to 25% of it."
    assert expected in takeaways.of_gap(result)
    with pytest.raises(SweepError, match="no gap"):
        takeaways.of_gap(estimate)


def test_the_graph_draws_the_largest_edges_and_where_they_lead(edges):
    circuit = patchlib.edge_circuit(edges, 30)
    figure = plots.edge_graph(edges, circuit, most=5)
    score = edges.score.isel(metric=0).mean("example").where(circuit)
    table = score.to_series().dropna().sort_values(key=abs, ascending=False).head(5)
    hover = next(trace for trace in figure.data if trace.mode == "markers" and "to" in trace.text[0])
    assert set(hover.text) == {f"{sender} to {receiver}: {value:+.3f}" for (sender, receiver), value in table.items()}
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    widest = max(lines, key=lambda trace: trace.line.width)
    assert widest.line.width == 6 and widest.line.color == ("#0072B2" if table.iloc[0] > 0 else "#B2182B")
    assert set(figure.data[-1].text) >= {"embed", "logits", *(sender for sender, _ in table.index)}
    assert "5 of the circuit's" in figure.layout.title.subtitle.text
    with pytest.raises(SweepError, match="not one of the scores' edges"):
        plots.edge_graph(edges, circuit.isel(sender=slice(3)))


def test_a_circuit_without_edges_can_be_drawn(edges):
    nothing = patchlib.edge_circuit(edges, 0)
    assert plots.edge_graph(edges, nothing).data[-1].text == ("embed", "logits")


def test_the_largest_edges_are_told_with_their_share(edges):
    table = patchlib.edge_table(edges, top_k=None)
    said = takeaways.of_edges(edges, top_k=1)
    top = table.iloc[0]
    assert said.startswith(f"Largest edge: {top.sender} to {top.receiver} ({top.share:+.2f}); ")
    size = np.sort(abs(table.score))[::-1]
    n_half = next(n for n in range(1, len(size) + 1) if size[:n].sum() >= size.sum() / 2)
    assert f"{n_half} of {len(table)} edges hold half" in said


def curve_of(
    faithfulness: dict[tuple[str, str], list[float]], shares=(0.1, 0.5, 1.0), sources=("other",)
) -> FaithfulnessCurve:
    rows = [
        (source, of, ranking, share, int(100 * share), value, value, value - 0.1, value + 0.1, 4)
        for source in sources
        for (of, ranking), values in faithfulness.items()
        for share, value in zip(shares, values, strict=True)
    ]
    names = ["source", "of", "ranking", "share", "n_edges", "metric", "faithfulness", "ci_low", "ci_high", "n"]
    areas = [(source, of, ranking, 0.25, 0.75) for source in sources for of, ranking in faithfulness]
    columns = ["source", "of", "ranking", "cpr", "cmd"]
    return FaithfulnessCurve(pd.DataFrame(rows, columns=names), pd.DataFrame(areas, columns=columns), "so")


def test_the_curve_is_drawn_and_told():
    curve = curve_of(
        {
            ("edges", "signed"): [1.5, 1.7, 1],
            ("edges", "magnitude"): [0.5, 0.9, 1],
            ("edges", "random 1"): [0, 0.1, 1],
        }
    )
    figure = plots.faithfulness_curve(curve)
    drawn = {(trace.name, trace.xaxis): list(trace.y) for trace in figure.data if trace.name}
    assert drawn == {
        ("random edges", "x"): [0, 0.1, 1],
        ("edges", "x"): [0.5, 0.9, 1],
        ("random edges", "x2"): [0, 0.1, 1],
        ("edges", "x2"): [1.5, 1.7, 1],
    }
    assert [trace.name for trace in figure.data if trace.showlegend] == ["random edges", "edges"]
    assert figure.layout.xaxis.type == "log" and figure.layout.yaxis.range[1] == pytest.approx(1.8)
    assert takeaways.of_curve(curve) == (
        "Edges by size are within 0.2 of 1 from 50% on (50 edges, 0.90 [0.80, 1.00], n = 4); CMD 0.75 (by size), "
        "CPR 0.25 (by sign). Random edges: CMD 0.75, CPR 0.25. Edges by size are no closer to 1 than random ones: "
        "these scores find no circuit."
    )
    curve.areas.loc[curve.areas.ranking == "magnitude", "cmd"] = 0.7
    assert takeaways.of_curve(curve).endswith("Random edges: CMD 0.75, CPR 0.25.")


def test_curves_of_several_ablations_have_lines_and_sentences_of_their_own():
    rankings = {("edges", "signed"): [1.5, 1.7, 1], ("edges", "magnitude"): [0.5, 0.9, 1],
                ("edges", "magnitude complement"): [0, 0, 0], ("edges", "random 1"): [0, 0.1, 1]}  # fmt: skip
    curve = curve_of(rankings, sources=("mean", "drawn"))
    lines = [(trace.name, trace.line.dash) for trace in plots.faithfulness_curve(curve).data if trace.showlegend]
    assert lines == [("random edges", "solid"), ("edges, mean", "solid"), ("all but these edges", "dot"),
                     ("edges, drawn", "dash")]  # fmt: skip
    said = takeaways.of_curve(curve)
    assert said.count("from 50% on") == 2 and "size (mean) are" in said and "size (drawn) are" in said
    assert said.count("Random edges") == 1


def test_a_curve_that_leaves_1_again_is_faithful_only_from_there_on():
    rankings = {("edges", "signed"): [1.0, 1, 1], ("edges", "magnitude"): [0.9, 1.6, 1]}
    assert "from 100% on" in takeaways.of_curve(curve_of(rankings))
    rankings["edges", "magnitude"] = [0.9, 0.85, 0.81]
    assert "from 10% on" in takeaways.of_curve(curve_of(rankings))
    rankings["edges", "magnitude"] = [0.9, 0.85, 0.5]
    assert "are never within 0.2 of 1" in takeaways.of_curve(curve_of(rankings))


@pytest.mark.parametrize("name", ["or_gate", "and_gate", "induction", "backup"])
def test_auroc_counts_pairs(name):
    toy = getattr(toys, name)(n_prompts=6)
    scores = patchlib.attribute_edges(toy.model, toy.task, direction="noise", progress=False)
    size = abs(scores.score.isel(metric=0).mean("example")).to_series().dropna()
    true = [value for edge, value in size.items() if edge in toy.edges]
    false = [value for edge, value in size.items() if edge not in toy.edges]
    won = np.mean([(a > b) + 0.5 * (a == b) for a in true for b in false])
    assert toys.auroc(scores, toy) == pytest.approx(won)
    with pytest.raises(SweepError, match="not of all edges"):
        toys.auroc(scores.isel(sender=slice(2)), toy)
    with pytest.raises(SweepError, match="no scores of edges"):
        toys.auroc(scores.drop_vars("score"), toy)
