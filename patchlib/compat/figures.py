"""The seed's four figures and its report, from the result objects of ``patchlib.results``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from patchlib.compat.printing import HeadPatchingResult, PatchingResult, pooled, ranked
from patchlib.errors import RunError, SweepError
from patchlib.plots.style import GREY, LEGEND, LINES, PALE, draw_bars, draw_maps, layer_step, style
from patchlib.plots.wording import MEANING

SIGN = ", ".join(MEANING["denoise"][1:])


def _needed(results: Sequence | Mapping) -> None:
    if not results:
        raise SweepError("There are no results to draw; run_all_heads_experiment or run_patching_experiment give some.")


def _saved(figure: go.Figure, save_path: str | Path | None) -> go.Figure:
    """Write the figure as a page of its own, plotly.js included: it opens alone and without a network, at 4.5 MB."""
    if save_path is not None:
        try:
            Path(save_path).parent.mkdir(parents=True, exist_ok=True)
            figure.write_html(save_path, include_plotlyjs=True)
        except OSError as error:
            raise RunError(
                f"The figure cannot be written to {save_path} ({error.strerror}); choose another folder."
            ) from error
    return figure


def _runs(results: Sequence[HeadPatchingResult]) -> str:
    clean, corrupted = (
        float(np.mean([getattr(r, f"{run}_metric") for r in results])) for run in ("clean", "corrupted")
    )
    return f"metric: clean {clean:.2f}, corrupted {corrupted:.2f}"


def create_head_heatmap(
    results: Sequence[HeadPatchingResult],
    n_layers: int,
    n_heads: int,
    title: str = "Effect of patching each head",
    save_path: str | Path | None = None,
) -> go.Figure:
    """Map of layer by head; grey where there is no result. HTML is written where ``save_path`` is given.

    Raises:
        SweepError: No results, or one of a head that is not among ``n_layers`` layers of ``n_heads``.
        RunError: The file cannot be written.
    """
    _needed(results)
    grid = np.full((n_layers, n_heads), np.nan)
    for result in results:
        if not (0 <= result.layer < n_layers and 0 <= result.head < n_heads):
            raise SweepError(
                f"{result.hook_name} is outside {n_layers} layers of {n_heads} heads; pass the model's own."
            )
        grid[result.layer, result.head] = result.patching_effect
    coords = {"layer": np.arange(n_layers), "head": np.arange(n_heads)}
    effect = xr.DataArray(grid, coords, ("layer", "head"), attrs={"hover": f"<br>{_runs(results)}"})
    return _saved(
        draw_maps({"": effect}, title, f"{len(results)} heads; {_runs(results)}", MEANING["denoise"]), save_path
    )


def create_layer_comparison(
    results: Mapping[str, Sequence[PatchingResult]],
    title: str = "Effect of patching each hook point",
    save_path: str | Path | None = None,
) -> go.Figure:
    """Effect (ratio of means over pairs) by layer, one line for each kind of hook point.

    Raises:
        SweepError: No results, or one of a hook point outside the layers.
        RunError: The file cannot be written.
    """
    _needed(results)
    lines: dict[str, dict[int, float]] = {}
    for name, per_pair in results.items():
        layer, _, kind = name.removeprefix("blocks.").partition(".")
        if not layer.isdigit():
            raise SweepError(
                f"{name!r} belongs to no layer; the comparison takes hook points such as blocks.0.hook_mlp_out."
            )
        lines.setdefault(kind, {})[int(layer)] = round(pooled(per_pair)[0], 4)
    figure = go.Figure()
    for i, (kind, effects) in enumerate(lines.items()):
        x, y = zip(*sorted(effects.items()), strict=True)
        hover = f"{kind} layer %{{x}}<br>effect %{{y:.3f}}<extra></extra>"
        line = {"color": LINES[i % len(LINES)]}
        figure.add_scatter(x=x, y=y, name=kind, mode="lines+markers", line=line, hovertemplate=hover)
    figure.add_hline(y=0, line={"color": GREY, "width": 1})
    layers = {layer for effects in lines.values() for layer in effects}
    figure.update_xaxes(title="layer", showgrid=False, zeroline=False, dtick=layer_step(len(layers)))
    figure.update_yaxes(title="effect", gridcolor=PALE, zeroline=False)
    figure.update_layout(showlegend=True, legend=LEGEND)
    n = max(map(len, results.values()))
    return _saved(style(figure, title, f"{n} prompt pair{'s'[: n > 1]}; {SIGN}", 440, above=30), save_path)


def create_top_heads_bar(
    results: Sequence[HeadPatchingResult],
    top_k: int = 15,
    title: str = "Heads with the largest effect",
    save_path: str | Path | None = None,
) -> go.Figure:
    """The heads with the largest absolute effect, as bars; raises as ``create_head_heatmap``."""
    _needed(results)
    top = ranked(results)[:top_k]
    names, effects = [result.hook_name for result in top], [result.patching_effect for result in top]
    subtitle = f"{len(top)} of {len(results)} heads; {_runs(results)}"
    return _saved(draw_bars(names, effects, title, subtitle, MEANING["denoise"]), save_path)


def create_metric_scatter(
    results: Sequence[HeadPatchingResult],
    title: str = "The metric after patching each head",
    save_path: str | Path | None = None,
) -> go.Figure:
    """Patched metric of each head by layer, between the corrupted and the clean run's; raises as the heat map."""
    _needed(results)
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
        figure.add_hline(y=mean, line={"color": GREY, "dash": "dot"}, annotation_text=name, annotation_position="right")
    n_layers = len({result.layer for result in results})
    figure.update_xaxes(title="layer", showgrid=False, zeroline=False, dtick=layer_step(n_layers))
    figure.update_yaxes(title="metric (mean over prompts)", gridcolor=PALE, zeroline=False)
    style(figure, title, f"{len(results)} heads, one at a time; {_runs(results)}", 420)
    return _saved(figure.update_layout(margin={"r": 80}), save_path)


def create_full_report(
    head_results: Sequence[HeadPatchingResult],
    layer_results: Mapping[str, Sequence[PatchingResult]],
    n_layers: int,
    n_heads: int,
    save_dir: str | Path = ".",
) -> dict[str, go.Figure]:
    """Write head_heatmap.html, layer_comparison.html, top_heads.html and metric_scatter.html to a folder.

    The folder is made if missing.

    Returns:
        File name -> figure.

    Raises:
        SweepError: There are no results, or they do not fit ``n_layers`` and ``n_heads``.
        RunError: The folder cannot be written.
    """
    figures = {
        "head_heatmap.html": create_head_heatmap(head_results, n_layers, n_heads),
        "layer_comparison.html": create_layer_comparison(layer_results),
        "top_heads.html": create_top_heads_bar(head_results),
        "metric_scatter.html": create_metric_scatter(head_results),
    }
    return {name: _saved(figure, Path(save_dir) / name) for name, figure in figures.items()}
