"""The seed's figures, from result objects that are written down."""

from __future__ import annotations

import numpy as np
import pytest

import patchlib
from patchlib.compat import figures
from patchlib.errors import RunError, SweepError


def made_head(layer: int, head: int, effect: float) -> patchlib.HeadPatchingResult:
    return patchlib.HeadPatchingResult(layer, head, effect, clean_metric=3, corrupted_metric=-2, patched_metric=0.5)


HEADS = [made_head(layer, head, (layer - 1) * 0.1 + head * 0.01) for layer in range(3) for head in range(4)]


def layer_results() -> dict[str, list[patchlib.PatchingResult]]:
    names = [f"blocks.{layer}.{kind}" for kind in ("hook_attn_out", "hook_mlp_out") for layer in (1, 0, 2)]
    return {
        name: [patchlib.PatchingResult(name, 3, -1, -1 + i, i / 4), patchlib.PatchingResult(name, 5, 1, 1 + i, i / 4)]
        for i, name in enumerate(names)
    }


def test_head_map():
    figure = figures.create_head_heatmap(HEADS[:-1], 3, 4, title="Seed")
    assert figure.data[0].z[2, 0] == pytest.approx(0.1) and np.isnan(figure.data[0].z[2, 3])
    assert list(figure.data[0].x) == ["H0", "H1", "H2", "H3"] and figure.layout.title.text == "Seed"
    with pytest.raises(SweepError, match="There is no head L2H0: the model has 2 layers of 4 heads"):
        figures.create_head_heatmap(HEADS, 2, 4)


def test_layer_comparison_is_sorted_and_a_ratio_of_means():
    figure = figures.create_layer_comparison(layer_results())
    attention, mlp = figure.data
    assert (attention.name, mlp.name) == ("hook_attn_out", "hook_mlp_out")
    assert attention.x == (0, 1, 2) and attention.y.tolist() == [0.25, 0, 0.5] and mlp.y.tolist() == [1, 0.75, 1.25]
    with pytest.raises(SweepError, match="'hook_embed' belongs to no layer"):
        figures.create_layer_comparison({"hook_embed": layer_results()["blocks.0.hook_mlp_out"]})


def test_bars_leave_out_what_has_no_number():
    figure = figures.create_top_heads_bar([*HEADS, made_head(2, 4, float("nan"))], top_k=3)
    assert list(figure.data[0].y) == ["L2H3", "L2H2", "L2H1"]
    assert "L2H4" not in figures.create_top_heads_bar([*HEADS, made_head(2, 4, float("nan"))], top_k=50).data[0].y


def test_scatter_has_every_head_and_both_unpatched_means():
    figure = figures.create_metric_scatter(HEADS)
    assert list(figure.data[0].text) == [head.hook_name for head in HEADS]
    assert [note.text for note in figure.layout.annotations] == ["clean", "corrupted"]
    assert [shape.y0 for shape in figure.layout.shapes] == [3, -2]


@pytest.mark.parametrize("name", ["create_top_heads_bar", "create_metric_scatter", "create_layer_comparison"])
def test_figures_of_nothing_are_an_error(name):
    with pytest.raises(SweepError, match="no results"):
        getattr(figures, name)({} if name == "create_layer_comparison" else [])


def test_full_report_makes_its_folder_and_pages_open_offline(tmp_path):
    folder = tmp_path / "new" / "figures"
    written = figures.create_full_report(HEADS, layer_results(), 3, 4, folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(written)
    assert set(written) == {"head_heatmap.html", "layer_comparison.html", "top_heads.html", "metric_scatter.html"}
    for path in folder.iterdir():
        page = path.read_text(encoding="utf-8")
        assert "plotly.js v" in page and "<script src=" not in page and "cdn.plot.ly/plotly" not in page[-20_000:]


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="choose another folder"):
        figures.create_full_report(HEADS, layer_results(), 3, 4, tmp_path / "file" / "figures")
