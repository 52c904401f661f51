"""The seed's four figures and its report, from the result objects of ``patchlib.patchers``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from patchlib.errors import RunError
from patchlib.patchers import HeadPatchingResult, PatchingResult
from patchlib.plots import COLORS, GREY, LINES, style

LayerResults = Mapping[str, Sequence[PatchingResult]]


def _saved(figure: go.Figure, save_path: str | Path | None) -> go.Figure:
    """Write the figure as a page of its own, plotly.js included: it opens without a network, at 4.5 MB."""
    if save_path is not None:
        try:
            figure.write_html(save_path, include_plotlyjs=True)
        except OSError as error:
            raise RunError(
                f"The figure cannot be written to {save_path} ({error.strerror}); choose another folder."
            ) from error
    return figure


def create_head_heatmap(
    results: Sequence[HeadPatchingResult],
    n_layers: int,
    n_heads: int,
    title: str = "Effect of patching each head",
    save_path: str | Path | None = None,
) -> go.Figure:
    """Map of layer by head; grey where there is no result. HTML is written where ``save_path`` is given."""
    grid = np.full((n_layers, n_heads), np.nan)
    for result in results:
        grid[result.layer, result.head] = round(result.patching_effect, 4)
    limit = max(0.05, np.abs(grid[np.isfinite(grid)]).max(initial=0.0))
    figure = go.Figure(
        go.Heatmap(
            z=grid, colorscale=COLORS, zmin=-limit, zmax=limit, xgap=1, ygap=1, colorbar={"title": {"text": "effect"}},
            hovertemplate="L%{y}H%{x}<br>effect %{z:.3f}<extra></extra>",
        )
    )  # fmt: skip
    style(figure, title, "1 = clean restored, 0 = nothing, below 0 = worse", max(380, 170 + 15 * n_layers))
    figure.update_xaxes(title="head", showgrid=False, zeroline=False, dtick=1)
    figure.update_yaxes(title="layer", showgrid=False, zeroline=False, dtick=1 if n_layers <= 16 else 5)
    return _saved(figure.update_layout(plot_bgcolor="#e8e8e8", width=620), save_path)


def create_layer_comparison(
    results: LayerResults, title: str = "Effect of patching each hook point", save_path: str | Path | None = None
) -> go.Figure:
    """Effect (ratio of means over pairs) by layer, one line for each kind of hook point."""
    lines: dict[str, dict[int, float]] = {}
    for name, per_pair in results.items():
        layer, kind = name.removeprefix("blocks.").split(".", 1)
        clean, corrupted, patched = (
            np.mean([getattr(result, f"{run}_logit_diff") for result in per_pair])
            for run in ("clean", "corrupted", "patched")
        )
        lines.setdefault(kind, {})[int(layer)] = round(float((patched - corrupted) / (clean - corrupted)), 4)
    figure = go.Figure()
    for color, (kind, effects) in zip(LINES * len(lines), lines.items(), strict=False):
        x, y = zip(*sorted(effects.items()), strict=True)
        figure.add_scatter(x=x, y=y, name=kind, mode="lines+markers", line={"color": color})
    figure.add_hline(y=0, line={"color": GREY, "width": 1})
    figure.update_xaxes(title="layer", showgrid=False, zeroline=False)
    figure.update_yaxes(title="effect", gridcolor="#eee", zeroline=False)
    return _saved(style(figure, title, "1 = clean restored, 0 = nothing, below 0 = worse", 420), save_path)


def create_top_heads_bar(
    results: Sequence[HeadPatchingResult],
    top_k: int = 15,
    title: str = "Heads with the largest effect",
    save_path: str | Path | None = None,
) -> go.Figure:
    """The heads with the largest absolute effect, as bars."""
    top = sorted(results, key=lambda result: -abs(np.nan_to_num(result.patching_effect)))[:top_k][::-1]
    effects = [round(result.patching_effect, 4) for result in top]
    figure = go.Figure(go.Bar(x=effects, y=[result.hook_name for result in top], orientation="h"))
    figure.update_traces(marker={"color": [LINES[0] if effect > 0 else "#B2182B" for effect in effects]})
    figure.update_xaxes(title="effect", gridcolor="#eee", zerolinecolor=GREY)
    style(figure, title, "1 = clean restored, 0 = nothing, below 0 = worse", 150 + 24 * max(4, len(top)))
    return _saved(figure, save_path)


def create_metric_scatter(
    results: Sequence[HeadPatchingResult],
    title: str = "The metric after patching each head",
    save_path: str | Path | None = None,
) -> go.Figure:
    """Patched metric of each head by layer, between the corrupted and the clean run's."""
    figure = go.Figure(
        go.Scatter(
            x=[result.layer for result in results],
            y=[round(result.patched_metric, 4) for result in results],
            text=[result.hook_name for result in results],
            mode="markers",
            marker={"color": LINES[0], "opacity": 0.7},
            hovertemplate="%{text}<br>patched %{y:.3f}<extra></extra>",
        )
    )
    for name in ("clean", "corrupted"):
        mean = float(np.mean([getattr(result, f"{name}_metric") for result in results]))
        figure.add_hline(y=mean, line={"color": GREY, "dash": "dot"}, annotation_text=name)
    figure.update_xaxes(title="layer", showgrid=False, zeroline=False)
    figure.update_yaxes(title="metric (mean over prompts)", gridcolor="#eee", zeroline=False)
    return _saved(style(figure, title, f"{len(results)} heads, one at a time", 420), save_path)


def create_full_report(
    head_results: Sequence[HeadPatchingResult],
    layer_results: LayerResults,
    n_layers: int,
    n_heads: int,
    save_dir: str | Path = ".",
) -> dict[str, go.Figure]:
    """Write head_heatmap.html, layer_comparison.html, top_heads.html and metric_scatter.html to a folder.

    Returns:
        File name -> figure.

    Raises:
        RunError: The folder cannot be written.
    """
    folder = Path(save_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"The folder {folder} cannot be made ({error.strerror}); choose another save_dir.") from error
    return {
        "head_heatmap.html": create_head_heatmap(
            head_results, n_layers, n_heads, save_path=folder / "head_heatmap.html"
        ),
        "layer_comparison.html": create_layer_comparison(layer_results, save_path=folder / "layer_comparison.html"),
        "top_heads.html": create_top_heads_bar(head_results, save_path=folder / "top_heads.html"),
        "metric_scatter.html": create_metric_scatter(head_results, save_path=folder / "metric_scatter.html"),
    }
