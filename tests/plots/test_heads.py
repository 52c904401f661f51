"""Figures of induction show the numbers that they are given, and tokens that can be read."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import patchlib
from patchlib import SweepError, attention_patterns
from patchlib.circuits.attention import detector_scores
from patchlib.plots import heads as induction_plots
from tests.helpers import make_pairs
from tests.tiny import load_tiny


@pytest.fixture(scope="module")
def model():
    return load_tiny("llama")


def test_patterns_are_the_model_s_and_named_by_their_tokens(model):
    row = make_pairs(model).clean_tokens[0]
    patterns = attention_patterns(model, row, [(2, 1), (0, 3)])
    _, cache = model.run_with_cache(row[None])
    np.testing.assert_allclose(patterns.sel(cell="L2H1"), cache["blocks.2.attn.hook_pattern"][0, 1].detach(), atol=1e-5)
    np.testing.assert_allclose(patterns.sel(cell="L0H3"), cache["blocks.0.attn.hook_pattern"][0, 3].detach(), atol=1e-5)
    assert list(patterns.token.values) == [model.to_string([token]) for token in row.tolist()]
    text = attention_patterns(model, " and the store", [(0, 0)])
    assert text.sizes["src"] == model.to_tokens(" and the store").shape[1]


def test_a_panel_for_each_head_with_readable_tokens(model):
    row = make_pairs(model).clean_tokens[0]
    patterns = attention_patterns(model, row, [(0, 0), (1, 1), (2, 2)])
    figure = induction_plots.attention(patterns)
    assert len(figure.data) == 3 and [note.text for note in figure.layout.annotations] == ["L0H0", "L1H1", "L2H2"]
    z = np.array(figure.data[1].z, dtype=float)
    np.testing.assert_allclose(np.tril(z), np.tril(patterns.sel(cell="L1H1")), atol=1e-3)
    assert np.isnan(z[np.triu_indices(len(row), 1)]).all()
    assert len(figure.layout.xaxis.ticktext) == len(row) and figure.layout.yaxis.autorange == "reversed"
    with pytest.raises(SweepError, match="no pattern to draw"):
        induction_plots.attention(patterns[:0])


def test_labels_of_long_prompts_do_not_overlap_and_markup_is_escaped():
    n = 70
    tokens = ["<s>", "\n", " ", "averyveryverylongword", *["a"] * (n - 4)]
    coords = {"cell": ["L0H0"], "dest": range(n), "src": range(n), "token": ("src", tokens)}
    patterns = xr.DataArray(np.eye(n)[None], coords, ["cell", "dest", "src"])
    figure = induction_plots.attention(patterns)
    labels = list(figure.layout.xaxis.ticktext)
    assert len(labels) * 12 <= induction_plots.PANEL and labels[0] == "&lt;s&gt;"
    short = induction_plots.attention(patterns[:, :4, :4].assign_coords(token=("src", tokens[:4])))
    assert list(short.layout.xaxis.ticktext) == ["&lt;s&gt;", "\u21b5", "\u2423", "averyveryve\u2026"]


def test_loss_has_a_line_and_where_it_begins_again(model):
    pairs = patchlib.repeated_tokens(model, 4, 6)
    losses = patchlib.token_losses(model, pairs)
    figure = induction_plots.loss_by_position(losses, copy=7)
    band, line = figure.data
    np.testing.assert_allclose(line.y, losses.mean("example")[1:], atol=1e-3)
    assert len(band.x) == 2 * len(line.x) and figure.layout.shapes[0].x0 == 7
    wide = losses * 0 + np.array([0.1, 9.0, *[0.1] * (losses.sizes["example"] - 2)])[:, None]  # Student's goes below 0
    low = np.array(induction_plots.loss_by_position(wide).data[0].y)[len(line.x) :]
    assert (low == 0).all()
    alone = induction_plots.loss_by_position(losses[:1])
    assert not alone.layout.shapes and np.isfinite(np.array(alone.data[0].y)).all()


def test_a_score_map_and_two_measures_have_every_head(model):
    scores = detector_scores(model, n_rows=2, seq_len=6)
    grid = induction_plots.score_map(scores.induction, "Scores", "induction")
    np.testing.assert_allclose(grid.data[0].z, scores.induction, atol=1e-4)
    figure = induction_plots.measures_against(scores.induction, scores.previous_token, "one", "other", top_k=2)
    points = figure.data[0]
    i = list(points.customdata).index("L1H2")
    assert points.x[i] == pytest.approx(float(scores.induction.sel(layer=1, head=2)), abs=1e-4)
    assert points.y[i] == pytest.approx(float(scores.previous_token.sel(layer=1, head=2)), abs=1e-4)
    assert 2 <= sum(map(bool, points.text)) <= 4
