"""Figures over many runs and the sentences under them, on tables whose numbers are known."""

import numpy as np
import pandas as pd
import pytest

from patchlib.plots import runs


def stream(n_layers: int, n_runs: int = 2) -> pd.DataFrame:
    """The residual stream: at S2 from 1 to 0, at END from 0 to 1."""
    index = pd.MultiIndex.from_product([range(n_layers), ["S2", "END"]], names=["layer", "role"])
    rises = np.linspace(0, 1, n_layers)
    effect = np.stack([1 - rises, rises], -1).ravel()
    return pd.DataFrame({f"seed={seed}": effect + 0.01 * seed for seed in range(n_runs)}, index)


def heads(n_layers: int = 3, n_runs: int = 3) -> pd.DataFrame:
    """L1H0 is large and L2H1 negative in all runs."""
    index = pd.MultiIndex.from_product([range(n_layers), range(2)], names=["layer", "head"])
    columns = {}
    for seed in range(n_runs):
        effect = pd.Series(np.random.default_rng(seed).normal(0, 0.05, len(index)), index)
        effect[1, 0], effect[2, 1] = 0.8 + 0.01 * seed, -0.3
        columns[f"seed={seed}"] = effect
    return pd.DataFrame(columns)


def test_the_largest_cells_are_followed_from_run_to_run():
    figure = runs.top_cells(heads(), "logit_diff")
    assert [line.name for line in figure.data][:2] == ["L1H0", "L2H1"]
    assert figure.data[0].x == ("seed=0", "seed=1", "seed=2") and figure.data[0].y == (0.8, 0.81, 0.82)
    assert runs.say_largest(heads()) == (
        "Over 3 runs, L1H0 has the largest mean effect: 0.81, from 0.80 to 0.82."
    )  # fmt: skip


def test_many_runs_are_boxes_and_a_mean_is_of_one_model_only():
    many = {"a/small": pd.Series(np.arange(31.0)), "large": pd.Series([2.0])}
    assert [one.type for one in runs.headline(many, "score").data] == ["box", "box"]
    assert runs.headline({"a/small": pd.Series([1.0, np.nan], ["x", "y"])}, "score").data[0].y == (1.0, None)
    assert runs.say_headline(many) == "Over 32 runs of 2 models: from 0.00 to 30.00."
    assert runs.say_headline({"a": pd.Series([1.0, 2.0])}) == "Over 2 runs: mean 1.50, from 1.00 to 2.00."


def test_layers_are_read_as_layers_at_each_role():
    figure = runs.effect_by_layer(stream(6), "logit_diff")
    assert [line.name for line in figure.data if line.name] == ["S2", "END"] and len(figure.data) == 4
    band, mean = figure.data[:2]
    assert mean.y[0] == pytest.approx(1.005) and (band.fillcolor, band.opacity) == ("#0072B2", 0.2)
    assert runs.say_layers(stream(6)) == "The effect passes 0.5 for S2 at L3, for END at L3; 2 runs."
    assert runs.say_layers(stream(6) * 0.1).startswith("Over 2 runs, L0 at S2 has the largest")


def test_models_are_compared_along_their_depth():
    tables = {"org/deep": stream(12), "tiny": stream(6)}
    figure = runs.along_the_depth(tables, "logit_diff")
    assert [(line.name, len(line.x)) for line in figure.data] == [("deep (2 runs)", 12), ("tiny (2 runs)", 6)]
    assert figure.data[1].text[0] == "L0 at END" and figure.data[0].x[-1] == 1
    said = runs.say_depth(tables, is_stream=True)
    assert said == "The effect passes 0.5 after 58% to 67% of a model's layers: L6 at END of deep, L3 at END of tiny."
    said = runs.say_depth({"big": heads(4), "tiny": heads(3)}, is_stream=False)
    assert said.startswith("The layer with the largest effect comes after 50% to 67% of a model's layers: L1H0 of big")
    depths = runs.at_same_depths(tables)
    assert list(depths) == ["deep", "tiny"] and len(depths) == 6 * 2
    assert "order the 12 layers: a Spearman correlation of 0.99" in runs.say_agreement(depths, "models", "layers")


def test_where_only_some_layers_were_patched_the_depth_is_not_known():
    assert runs.has_all_layers(heads()) and not runs.has_all_layers(heads().drop(index=0, level="layer"))
    assert not runs.has_all_layers(pd.DataFrame({"a": [1.0]}, pd.Index([0], name="head")))


def test_agreement_is_of_ranks_and_says_what_it_leaves_out():
    table = heads()
    ranks = runs.rank_agreement(table).data[0].z
    assert [ranks[i][i] for i in range(3)] == [1, 1, 1]
    assert ranks[0][1] == pytest.approx(table.corr("spearman").iloc[0, 1], abs=1e-4)
    said = runs.say_agreement(table, left_out=2)
    assert said.startswith("How alike two runs order the 6 cells of 8 that all of them have: a Spearman correlation of")
    assert said.endswith("of the 2 largest, 2.0 are the same on average.")
    wide = pd.concat([table] * 20, axis=1)
    wide.columns = map(str, range(60))
    assert runs.say_agreement(wide).endswith("the first 40 only.") and len(runs.rank_agreement(wide).data[0].x) == 40
