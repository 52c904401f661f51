"""Figures and their sentences, on results that are made up after the schema of `sweep`."""

from __future__ import annotations

import base64

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest
import xarray as xr

from patchlib import plots, stats
from patchlib._util import cell_name
from patchlib.errors import SweepError
from patchlib.plots import takeaways
from patchlib.plots.style import RED
from patchlib.plots.wording import NO_CONTRAST

TOKENS = ["<s>", "When", "Mary", "and", "<S1>", "went", "to", "the", "shop", ",", "<S2>", "gave", "a", "book", "to", ""]
ROLES = ["IO", "S1", "S1+1", "S2", "END"]


def made(
    axes: dict[str, int] | None = None,
    n: int = 8,
    direction: str = "denoise",
    site: str = "z",
    metrics: tuple[str, ...] = ("logit_diff",),
    effects: np.ndarray | None = None,
    contrast: bool = True,
    spread: float = 0.1,
    seed: int = 0,
) -> xr.Dataset:
    """A result as `sweep` gives it; axes are {"layer": 30, "head": 9} where None, effects noise around a few cells."""
    axes = {"layer": 30, "head": 9} if axes is None else axes
    rng = np.random.default_rng(seed)
    shape = tuple(axes.values())
    if effects is None:
        effects = rng.normal(0, 0.01, shape)
        effects.flat[[17 % effects.size, effects.size // 2, -1]] = 0.42, 0.25, -0.3
    clean = 4 + rng.normal(0, 0.5, (len(metrics), n))
    corrupted = clean + rng.normal(0, 0.3, (len(metrics), n)) if not contrast else -3 + rng.normal(0, 0.5, clean.shape)
    base, other = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
    factor = 1 + rng.normal(0, spread, (len(metrics), *shape, n))
    gap = np.expand_dims(other - base, tuple(range(1, 1 + len(shape))))
    patched = np.expand_dims(base, tuple(range(1, 1 + len(shape)))) + effects[None, ..., None] * factor * gap
    coords: dict = {"metric": list(metrics), "example": np.arange(n)}
    for axis, size in axes.items():
        coords[axis] = ROLES[:size] if axis == "role" else np.arange(size)
    if "pos" in axes:
        coords["pos_label"] = ("pos", [TOKENS[i % len(TOKENS)] for i in range(axes["pos"])])
    prompts = {"clean_prompt": "<s>When Mary {}", "corrupted_prompt": "<s>When John {}"}
    coords |= {name: ("example", [text.format(i) for i in range(n)]) for name, text in prompts.items()}
    attrs = {"model": "smollm2-135m", "task": "IOI", "direction": direction, "site": site, "positions": "all"}
    result = xr.Dataset(
        {
            "patched": (("metric", *axes, "example"), patched.astype("float32")),
            "clean": (("metric", "example"), clean.astype("float32")),
            "corrupted": (("metric", "example"), corrupted.astype("float32")),
        },
        coords,
        {**attrs, "n_examples": n},
    )
    return result.assign(effect=stats.effect(result))


def unlabelled(effects: list, axis: str = "role", labels: list[str] | None = None, n: int = 4) -> xr.Dataset:
    """A result over layer and one axis with these effects."""
    grid = np.asarray(effects, dtype=float)
    result = made({"layer": grid.shape[0], axis: grid.shape[1]}, n=n, effects=grid, spread=0)
    return result if labels is None else result.assign_coords({axis: labels})


def subtitle(figure: go.Figure) -> str:
    return figure.layout.title.subtitle.text.replace("<br>", " ").replace("\u00a0", " ")


def cells(figure: go.Figure, panel: int = 0) -> np.ndarray:
    return np.asarray(figure.data[panel].z, dtype=float)


# ---- Maps


def test_map_shows_every_cell_with_layer_0_at_the_bottom():
    result = made()
    figure = plots.head_heatmap(result)
    np.testing.assert_allclose(cells(figure), result.effect.values[0], atol=1e-4)
    assert list(figure.data[0].x) == [f"H{i}" for i in range(9)]
    assert (
        figure.layout.yaxis.categoryarray == tuple(map(str, range(30)))
        and figure.layout.yaxis.range[0] < figure.layout.yaxis.range[1]
    )
    assert figure.layout.yaxis.dtick == 5  # 30 labels would overlap
    assert plots.head_heatmap(made({"layer": 12, "head": 12})).layout.yaxis.dtick == 1


def test_map_does_not_mind_the_order_of_the_axes():
    result = made()
    swapped = result.transpose("metric", "head", "layer", "example")
    np.testing.assert_array_equal(cells(plots.head_heatmap(swapped)), cells(plots.head_heatmap(result)))


def test_map_stands_alone():
    figure = plots.head_heatmap(made(), title="Heads")
    assert figure.layout.title.text == "Heads"
    said = subtitle(figure)
    assert said == (
        "denoising (clean into corrupted), z, logit difference, 8 prompt pairs, smollm2-135m (Instruct, 4-bit weights)"
    )
    without_bos = plots.head_heatmap(made().assign_attrs(model="gpt2", prepend_bos="False"))
    assert subtitle(without_bos).endswith("8 prompt pairs, gpt2, without BOS")
    assert "1 = clean restored" in figure.layout.coloraxis.colorbar.title.text
    noised = plots.head_heatmap(made(direction="noise", n=1, metrics=("prob",)))
    assert "noising (corrupted into clean)" in subtitle(noised) and "1 prompt pair," in subtitle(noised)
    assert "probability of the answer" in subtitle(noised)
    assert "1 = clean destroyed" in noised.layout.coloraxis.colorbar.title.text


def test_map_says_at_which_positions_or_in_which_cell_it_is():
    result = made().assign_attrs(positions="S2, END")
    assert "z at S2, END, logit difference" in subtitle(plots.head_heatmap(result))
    three = made({"layer": 3, "head": 4, "role": 5}).assign_attrs(positions="IO, S1, S1+1, S2, END")
    one = plots.head_heatmap(three.sel(role="END"))
    assert "z, role END, logit difference" in subtitle(one)


@pytest.mark.parametrize("largest", [0.013, 0.42, 1.0, -3.72])
def test_colours_are_symmetric_and_clip_nothing(largest):
    grid = np.zeros((3, 4))
    grid[1, 2] = largest
    axis = plots.head_heatmap(made({"layer": 3, "head": 4}, effects=grid)).layout.coloraxis
    assert axis.cmin == -axis.cmax
    assert abs(largest) <= axis.cmax * 1.15 and axis.cmax <= max(0.05, abs(largest) * 1.15 + 0.05)
    assert axis.colorscale[0][1] == "rgb(103,0,31)" and axis.colorscale[-1][1] == "rgb(5,48,97)"  # red to blue


def test_positions_carry_tokens_that_plotly_does_not_read_as_markup():
    figure = plots.position_heatmap(made({"layer": 30, "pos": 16}, n=1, site="resid_pre"))
    labels = list(figure.data[0].x)
    assert labels[0] == "&lt;s&gt; 0" and labels[2] == "Mary 2" and labels[15] == "15"
    assert len(set(labels)) == 16  # "to" stands there twice
    assert figure.layout.xaxis.type == "category" and figure.layout.xaxis.dtick == 1


def test_axis_names_follow_what_was_swept():
    roles = plots.position_heatmap(made({"layer": 30, "role": 5}))
    assert list(roles.data[0].x) == ROLES
    values = plots.head_heatmap(made({"layer": 30, "kv_head": 3}, site="v"))
    assert list(values.data[0].x) == ["KV0", "KV1", "KV2"] and values.layout.xaxis.title.text == "k/v head"


def test_layers_that_were_left_out_leave_no_gap():
    figure = plots.head_heatmap(made().sel(layer=[17, 20, 23]))
    assert figure.layout.yaxis.type == "category" and list(figure.data[0].y) == ["17", "20", "23"]


def test_cells_without_a_number_are_blank_and_explained():
    result = made({"layer": 30, "pos": 16}, n=4)
    result.patched.loc[{"pos": 15}] = np.nan
    figure = plots.position_heatmap(result)
    assert np.isnan(cells(figure)[:, 15]).all() and np.isfinite(cells(figure)[:, :15]).all()
    assert "grey: not measured" in subtitle(figure)
    assert "grey" not in subtitle(plots.head_heatmap(made()))


def test_without_a_contrast_every_figure_is_empty_and_none_fails():
    result, whole = made(contrast=False), made({"layer": 30}, contrast=False)
    assert result.effect.isnull().all()
    figure = plots.head_heatmap(result)
    assert figure.layout.annotations[0].text == NO_CONTRAST
    assert tuple(figure.layout.yaxis.range) == (-0.5, 29.5) and tuple(figure.layout.xaxis.range) == (-0.5, 8.5)
    assert np.isnan(cells(figure)).all() and "grey: not measured" in subtitle(figure)
    assert len(plots.top_bar(result).data[0].y) == 0
    assert np.isnan(np.asarray(plots.layer_lines({"z": whole}).data[0].y, dtype=float)).all()
    assert takeaways.of_cells(result).startswith(NO_CONTRAST[:-1])
    assert takeaways.of_positions(made({"layer": 3, "role": 5}, contrast=False)).startswith(NO_CONTRAST[:-1])
    assert NO_CONTRAST[:-1] in takeaways.of_layers({"z": whole})


def test_panels_share_one_range_one_bar_and_the_layers_in_order():
    some = made({"layer": 30, "kv_head": 3}, site="v").sel(layer=[20, 29])
    results = {"values": some, "output": made(), "pattern": made(site="pattern", effects=np.full((30, 9), 0.8))}
    figure = plots.heatmap_panels(results)
    assert [trace.coloraxis for trace in figure.data] == ["coloraxis"] * 3
    assert figure.layout.coloraxis.cmax >= 0.8
    assert [note.text for note in figure.layout.annotations] == list(results)
    assert figure.layout.yaxis2.categoryarray == tuple(map(str, range(30)))
    assert "v / z / pattern, logit difference, 8 prompt pairs" in subtitle(figure)
    both = plots.heatmap_panels({"denoising": made(), "noising": made(direction="noise", n=6)})
    assert "1 = all of it" in both.layout.coloraxis.colorbar.title.text
    assert "8 prompt pairs / 6 prompt pairs" in subtitle(both)


def test_figures_are_small_and_fit_a_notebook():
    for figure in (
        plots.head_heatmap(made()),
        plots.position_heatmap(made({"layer": 30, "pos": 16})),
        plots.heatmap_panels({name: made() for name in ("z", "pattern", "q")}),
        plots.layer_lines({site: made({"layer": 30}, site=site) for site in ("attn_out", "mlp_out")}),
        plots.top_bar(made()),
        plots.contrast_plot({name: made() for name in ("swap_subject", "swap_order")}),
    ):
        assert len(figure.to_json()) < 20_000 and figure.layout.width <= 900
        assert figure.layout.template.layout.to_plotly_json() == {}


@pytest.mark.parametrize(("columns", "step"), [(9, 1), (32, 2)])
def test_labels_of_many_columns_are_thinned(columns, step):
    assert plots.head_heatmap(made({"layer": 4, "head": columns})).layout.xaxis.dtick == step
    assert plots.position_heatmap(made({"layer": 4, "pos": 16}, n=1)).layout.xaxis.tickangle == -45
    assert plots.position_heatmap(made({"layer": 4, "pos": 50}, n=1)).layout.xaxis.tickangle == -90


def test_long_titles_wrap_instead_of_being_cut():
    title = "Effect of patching the output of each and every attention head at the position where the answer is read"
    figure = plots.head_heatmap(made().assign_attrs(model="some-organisation/some-very-long-model-name"), title=title)
    assert "<br>" in figure.layout.title.text and "<br>" in figure.layout.title.subtitle.text
    assert figure.layout.margin.t > plots.head_heatmap(made()).layout.margin.t


def test_hovering_tells_effect_and_both_unpatched_means():
    result = made()
    template = plots.head_heatmap(result).data[0].hovertemplate
    assert "%{y}" in template and "%{x}" in template and "%{z:.3f}" in template
    assert f"clean {float(result.clean.mean()):.2f}, corrupted {float(result.corrupted.mean()):.2f}" in template


def test_metric_is_the_first_or_the_one_asked_for_or_the_one_selected():
    result = made(metrics=("logit_diff", "prob"))
    np.testing.assert_allclose(cells(plots.head_heatmap(result, "prob")), result.effect.sel(metric="prob"), atol=1e-4)
    assert "logit difference" in subtitle(plots.head_heatmap(result))
    assert "probability" in subtitle(plots.head_heatmap(result.sel(metric="prob")))
    with pytest.raises(SweepError, match="Unknown metric 'kl': choose 'logit_diff' or 'prob'"):
        plots.head_heatmap(result, "kl")


def test_prompts_picked_from_a_result_are_those_shown():
    result = made()
    half = plots.head_heatmap(result.isel(example=slice(4)))
    assert "4 prompt pairs" in subtitle(half) and not np.allclose(cells(half), cells(plots.head_heatmap(result)))


@pytest.mark.parametrize(
    ("draw", "axes", "named"),
    [
        (plots.head_heatmap, {"layer": 3, "pos": 4}, r"'layer', 'head'.*over \('layer', 'pos'\)"),
        (plots.position_heatmap, {"layer": 3, "head": 4}, r"'layer', 'role'.*over \('layer', 'head'\)"),
        (plots.heatmap_panels, {"layer": 3}, r"over \('layer',\)"),
        (
            plots.heatmap_panels,
            {"layer": 3, "head": 2, "role": 4},
            r"over \('layer', 'head', 'role'\).*sel\(role='END'\)",
        ),
        (plots.layer_lines, {"layer": 3, "head": 4}, r"\('layer',\).*over \('layer', 'head'\)"),
    ],
)
def test_wrong_axes_are_named(draw, axes, named):
    with pytest.raises(SweepError, match=named):
        draw(made(axes))


@pytest.mark.parametrize("draw", [plots.head_heatmap, plots.heatmap_panels, plots.layer_lines, plots.top_bar])
def test_a_baseline_has_no_effects_to_draw(draw):
    baseline = made().drop_vars(["patched", "effect"]).drop_dims(["layer", "head"])
    with pytest.raises(SweepError, match="sweep"):
        draw(baseline)


@pytest.mark.parametrize("draw", [plots.heatmap_panels, plots.layer_lines, plots.contrast_plot])
def test_no_results_is_an_error(draw):
    with pytest.raises(SweepError, match="no result to draw"):
        draw({})


# ---- Lines, bars, prompts


def test_lines_lie_inside_their_bands():
    results = {site: made({"layer": 30}, site=site, seed=i) for i, site in enumerate(("attn_out", "mlp_out"))}
    figure = plots.layer_lines(results)
    assert [trace.name for trace in figure.data if trace.name] == ["attn_out", "mlp_out"]
    band, line = figure.data[:2]
    high, low = np.asarray(band.y[:30], dtype=float), np.asarray(band.y[30:], dtype=float)[::-1]
    assert (low <= np.asarray(line.y) + 1e-4).all() and (np.asarray(line.y) <= high + 1e-4).all()
    assert "95% intervals over prompts" in subtitle(figure) and "1 = clean restored" in subtitle(figure)


def test_a_single_prompt_has_lines_and_bars_without_intervals():
    whole, heads = made({"layer": 30}, n=1), made(n=1)
    lines, bars = plots.layer_lines(whole), plots.top_bar(heads)
    assert len(lines.data) == 1 and "interval" not in subtitle(lines)
    assert not bars.data[0].error_x.visible and "interval" not in subtitle(bars)
    assert "nan" not in takeaways.of_cells(heads) + takeaways.of_layers({"z": whole})


def test_many_lines_stay_apart():
    figure = plots.layer_lines({str(i): made({"layer": 3}, n=1) for i in range(8)})
    assert len({(trace.line.color, trace.line.dash) for trace in figure.data}) == 8


def test_bars_are_the_summary_table():
    result = made()
    table = stats.summary_table(result, top_k=5)
    bars = plots.top_bar(result, top_k=5)
    trace = bars.data[0]
    assert list(trace.y) == [cell_name(row) for row in table.to_dict("records")]
    assert bars.layout.yaxis.autorange == "reversed"  # the largest on top
    np.testing.assert_allclose(trace.x, table.effect, atol=1e-4)
    np.testing.assert_allclose(np.add(trace.x, trace.error_x.array), table.ci_high, atol=2e-4)
    np.testing.assert_allclose(np.subtract(trace.x, trace.error_x.arrayminus), table.ci_low, atol=2e-4)
    assert (np.asarray(trace.marker.color) == RED).tolist() == (table.effect < 0).tolist()


def test_bars_name_cells_of_any_sweep():
    names = plots.top_bar(made({"layer": 3, "kv_head": 2, "role": 5})).data[0].y
    assert all(" at " in name and "KV" in name for name in names)


def test_contrast_plot_joins_each_prompts_two_values():
    results = {"swap_subject": made(n=3), "swap_order": made(n=3, contrast=False).drop_vars(["patched", "effect"])}
    figure = plots.contrast_plot(results)
    for trace, result in zip(figure.data, results.values(), strict=True):
        assert list(trace.x) == ["clean", "corrupted", None] * 3 and trace.y[2] is None
        np.testing.assert_allclose([trace.y[0], trace.y[1]], [result.clean[0, 0], result.corrupted[0, 0]], atol=1e-4)
    assert figure.data[0].text[0] == "&lt;s&gt;When Mary 0"
    assert subtitle(figure).startswith(
        "logit difference, 3 prompt pairs, smollm2-135m"
    )  # nothing of a patch that it hides


def test_contrast_plot_of_one_cell_has_the_patched_values_between():
    result = made(n=2)
    figure = plots.contrast_plot(result.sel(layer=29, head=8))
    assert list(figure.data[0].x) == ["clean", "patched", "corrupted", None] * 2
    assert figure.data[0].y[1] == pytest.approx(float(result.patched[0, 29, 8, 0]), abs=1e-4)
    assert "layer 29, head 8" in subtitle(figure)


# ---- Sentences


def test_takeaway_of_cells_counts_what_the_map_shows():
    grid = np.zeros((3, 4))
    grid[1, 2], grid[2, 0], grid[0, 0], grid[2, 3] = 0.4, 0.35, 0.15, -0.2
    sentence = takeaways.of_cells(made({"layer": 3, "head": 4}, effects=grid, spread=0))
    assert sentence == (
        "Largest effect: L1H2 with 0.40 [0.40, 0.40], n = 8; 2 of 12 cells hold half of all positive effect; "
        "L2H3 pushes the other way, -0.20 [-0.20, -0.20]."
    )


def test_takeaway_of_cells_without_a_positive_effect():
    sentence = takeaways.of_cells(made({"layer": 2, "head": 2}, effects=np.full((2, 2), -0.4)))
    assert sentence.startswith("No cell has a positive effect; the lowest is that of L")


def test_sentence_table_and_bars_name_the_same_cell_when_the_largest_in_size_is_negative():
    grid = np.zeros((2, 3))
    grid[1, 2], grid[0, 1] = -0.59, 0.4
    result = made({"layer": 2, "head": 3}, effects=grid, spread=0.05)
    top = stats.summary_table(result).iloc[0]
    assert (top.layer, top.head_index) == (1, 2)
    sentence = takeaways.of_cells(result)
    assert sentence.startswith("Largest effect in size: L1H2 with -0.")
    assert "; L0H1 pushes the other way, 0." in sentence and "L1H2 pushes" not in sentence
    assert plots.top_bar(result).data[0].y[0] == "L1H2"
    by_role = takeaways.of_positions(unlabelled([[0.2, -0.9], [0.1, -0.7]], labels=["IO", "S2"]))
    assert by_role == "At layer 0 the largest effect is at S2 (-0.90), as it is at layer 1 (-0.70)."


def test_takeaway_of_positions_follows_the_information():
    moved = unlabelled([[0, 1, 0], [0, 1, 0], [0, 0.4, 0.6], [0, 0, 1]], labels=["IO", "S2", "END"])
    sentence = takeaways.of_positions(moved)
    assert sentence == (
        "At layer 0 it all sits at S2 (1.00); END first holds more than half of it at layer 2, "
        "and from layer 3 on S2 holds less than a tenth."
    )


def test_takeaway_of_positions_claims_no_more_than_there_is():
    spread = takeaways.of_positions(unlabelled([[0.5, 0.3, 0], [0, 0.2, 0.3]], labels=["IO", "S2", "END"]))
    assert "At layer 0 the largest effect is at IO (0.50)" in spread and "never holds more than half" in spread
    back = [[0, 1, 0], [0, 0, 0.8], [0, 0.5, 0.4], [0, 0, 1]]
    sentence = takeaways.of_positions(unlabelled(back, labels=["IO", "S2", "END"]))
    assert "at layer 1" in sentence and "from layer 3 on S2" in sentence  # not from layer 1, as it comes back
    stays = takeaways.of_positions(unlabelled([[0, 1], [0, 0.9]], labels=["IO", "S2"]))
    assert ", as it is at layer 1 (0.90)." in stays


def test_takeaway_of_positions_skips_positions_without_numbers():
    result = made({"layer": 3, "pos": 4}, n=3, effects=np.eye(4)[[2, 2, 3]])
    result.patched.loc[{"pos": 0}] = np.nan
    assert "position 2 (Mary)" in takeaways.of_positions(result)


def test_takeaways_of_layers_and_contrast():
    whole = made({"layer": 4}, effects=np.array([0, 0.1, 0.7, 0]))
    assert takeaways.of_layers({"attention": whole}).startswith("attention peaks at layer 2 (0.")
    said = takeaways.of_contrast({"good": whole, "bad": made(contrast=False)})
    assert "a contrast that we can divide by" in said and "no usable contrast" in said


# ---- Renderer


def test_renderer_stores_data_only_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr(pio.renderers, "default", "browser")
    monkeypatch.setenv("PLOTLY_RENDERER", "png")
    plots.set_renderer()
    assert pio.renderers.default == "browser"
    monkeypatch.delenv("PLOTLY_RENDERER")
    with monkeypatch.context() as colab:
        colab.setenv("COLAB_NOTEBOOK_ID", "1")
        plots.set_renderer()
        assert pio.renderers.default == "browser"
    plots.set_renderer()
    assert pio.renderers.default == "plotly_mimetype"


def test_arrays_are_stored_compactly():
    stored = plots.head_heatmap(made()).to_plotly_json()["data"][0]["z"]
    assert stored["dtype"] == "f4" and len(base64.b64decode(stored["bdata"])) == 30 * 9 * 4


def test_takeaways_of_attention_and_scores_name_places_and_heads():
    tokens = ["<s>", "a", "b", "a", "b"]
    values = np.zeros((2, 5, 5))
    values[:, :, 0] = 0.4
    values[0, 3:, [2, 3]] = np.eye(2) * 0.6  # each second token at what followed the first one
    values[1, 1:, 0] = 0.9
    patterns = xr.DataArray(
        values,
        {"cell": ["L0H1", "L1H0"], "dest": range(5), "src": range(5), "token": ("src", tokens)},
        ["cell", "dest", "src"],
    )  # fmt: skip
    sentence = takeaways.of_attention(patterns)
    assert "L0H1 looks most at what followed the same token (0.60 on average over 2 positions)" in sentence
    assert sentence.endswith("L1H0 looks most at the first token (0.90 on average over 4 positions), from the last "
                             "token at <s>, position 0 (0.90).")  # fmt: skip
    score = xr.DataArray([[0.1, 0.9], [0.3, 0.0]], dims=["layer", "head"], coords={"layer": [0, 1], "head": [0, 1]})
    assert takeaways.of_scores(score, "scores", top_k=2) == (
        "Highest scores: L0H1 0.90, L1H0 0.30; 2 of 4 heads above 0.2."
    )
    with pytest.raises(SweepError, match="top_k must be a whole number of 1 or more"):
        takeaways.of_scores(score, "scores", top_k=0)
