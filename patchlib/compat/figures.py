"""The seed's four figures and its report, from the result objects of ``patchlib.compat.printing``."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from patchlib._util import check_count, check_kind, check_text, first_line, shown
from patchlib.compat.printing import (
    HeadPatchingResult,
    PatchingResult,
    check_by_hook_point,
    check_results,
    grid_of,
    mean_of,
    pooled,
    ranked,
)
from patchlib.errors import RunError, SweepError
from patchlib.plots import style
from patchlib.plots.wording import MEANING


def _not_empty(results: Any, title: str) -> Any:
    """The same results; SweepError where there are none, or for a title that is none."""
    check_text("A title", title)
    if not results:
        raise SweepError("There are no results to draw; run_all_heads_experiment or run_patching_experiment give some.")
    return results


def _saved(figure: go.Figure, save_path: str | Path | None) -> go.Figure:
    """Write the figure as a page of its own, plotly.js included: it opens alone and without a network, at 4.5 MB."""
    if save_path is not None:
        file = Path(check_kind("save_path", save_path, str | os.PathLike, "give a file's path", RunError))
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            figure.write_html(file, include_plotlyjs=True)
        except (OSError, ValueError) as error:  # ValueError: a path with a zero byte, or with half a surrogate pair
            raise RunError(
                f"The figure cannot be written to {shown(str(file))} ({first_line(error)}); choose another folder."
            ) from error
    return figure


def _unpatched(results: Sequence[HeadPatchingResult]) -> str:
    clean, corrupted = (mean_of(results, f"{kind}_metric") for kind in ("clean", "corrupted"))
    return f"metric: clean {clean:.2f}, corrupted {corrupted:.2f}"


def create_head_heatmap(
    results: Sequence[HeadPatchingResult],
    n_layers: int,
    n_heads: int,
    title: str = "Effect of patching each head",
    save_path: str | Path | None = None,
) -> go.Figure:
    """Map of layer by head; grey where there is no result.

    Args:
        results: From ``HeadPatcher.run_all_heads_experiment``.
        n_layers: The model's.
        n_heads: The model's.
        title: Of the figure.
        save_path: Where HTML is written; nowhere when None.

    Returns:
        A heat map, dims [layer, head].

    Raises:
        SweepError: No results, or one of a head that is not among ``n_layers`` layers of ``n_heads``.
        RunError: The file cannot be written.

    Example:
        >>> results = [patchlib.HeadPatchingResult(1, head, head / 2, 3.0, -1.0, 1.0) for head in range(2)]
        >>> patchlib.create_head_heatmap(results, n_layers=2, n_heads=2).data[0].z
        array([[nan, nan],
               [0. , 0.5]])
    """
    results = _not_empty(check_results(results, HeadPatchingResult), title)
    unpatched, grid = _unpatched(results), grid_of(results, n_layers, n_heads).double().numpy()
    coords = {"layer": np.arange(n_layers), "head": np.arange(n_heads)}
    effect = xr.DataArray(grid, coords, attrs={"hover": f"<br>{unpatched}"})
    figure = style.draw_maps({"": effect}, title, f"{len(results)} heads; {unpatched}", MEANING["denoise"])
    return _saved(figure, save_path)


def create_layer_comparison(
    results: Mapping[str, Sequence[PatchingResult]],
    title: str = "Effect of patching each hook point",
    save_path: str | Path | None = None,
) -> go.Figure:
    """Effect (ratio of means over pairs) by layer, one line for each kind of hook point.

    Args:
        results: From ``ActivationPatcher.run_patching_experiment``.
        title: Of the figure.
        save_path: Where HTML is written; nowhere when None.

    Returns:
        Lines, layers across.

    Raises:
        SweepError: No results, or one of a hook point outside the layers.
        RunError: The file cannot be written.

    Example:
        >>> names = [f"blocks.{layer}.hook_mlp_out" for layer in range(3)]
        >>> results = {name: [patchlib.PatchingResult(name, 3.0, -1.0, 1.0, 0.5)] for name in names}
        >>> line = patchlib.create_layer_comparison(results).data[0]
        >>> line.name, line.x, line.y.tolist()
        ('hook_mlp_out', (0, 1, 2), [0.5, 0.5, 0.5])
    """
    results = _not_empty(check_by_hook_point(results), title)
    lines: defaultdict[str, dict[int, float]] = defaultdict(dict)
    for name, per_pair in results.items():
        layer, _, kind = name.removeprefix("blocks.").partition(".")
        if not layer.isdigit():
            raise SweepError(
                f"{name!r} belongs to no layer; the comparison takes hook points such as blocks.0.hook_mlp_out."
            )
        lines[kind][int(layer)] = pooled(per_pair)[0]
    figure = go.Figure()
    for i, (kind, effects) in enumerate(lines.items()):
        layers = sorted(effects)
        style.add_line(figure, layers, [effects[layer] for layer in layers], kind, i)
    n = max(map(len, results.values()))
    subtitle = f"{n} prompt pair{'s' if n > 1 else ''}; {', '.join(MEANING['denoise'][1:])}"
    n_layers = len({layer for effects in lines.values() for layer in effects})
    return _saved(style.effect_by_layer(figure, title, subtitle, n_layers), save_path)


def create_top_heads_bar(
    results: Sequence[HeadPatchingResult],
    top_k: int = 15,
    title: str = "Heads with the largest effect",
    save_path: str | Path | None = None,
) -> go.Figure:
    """The heads with the largest absolute effect, as bars.

    Args:
        results: From ``HeadPatcher.run_all_heads_experiment``.
        top_k: How many heads.
        title: Of the figure.
        save_path: Where HTML is written; nowhere when None.

    Returns:
        Bars, the largest on top.

    Raises:
        SweepError: No results, or top_k below 1.
        RunError: The file cannot be written.

    Example:
        >>> results = [patchlib.HeadPatchingResult(9, head, head / 10, 3.0, -1.0, 1.0) for head in range(8)]
        >>> patchlib.create_top_heads_bar(results, top_k=2).data[0].y
        ('L9H7', 'L9H6')
    """
    results = _not_empty(check_results(results, HeadPatchingResult), title)
    unpatched, top = _unpatched(results), ranked(results)[: check_count("top_k", top_k)]
    names, effects = [result.hook_name for result in top], [result.patching_effect for result in top]
    subtitle = f"{len(top)} of {len(results)} heads; {unpatched}"
    return _saved(style.draw_bars(names, effects, title, subtitle, MEANING["denoise"]), save_path)


def create_metric_scatter(
    results: Sequence[HeadPatchingResult],
    title: str = "The metric after patching each head",
    save_path: str | Path | None = None,
) -> go.Figure:
    """Patched metric of each head by layer, between that of the corrupted and of the clean prompts.

    Args:
        results: From ``HeadPatcher.run_all_heads_experiment``.
        title: Of the figure.
        save_path: Where HTML is written; nowhere when None.

    Returns:
        A point for each head, layers across.

    Raises:
        SweepError: No results.
        RunError: The file cannot be written.

    Example:
        >>> results = [patchlib.HeadPatchingResult(9, head, 0.5, 3.0, -1.0, 1.0) for head in range(2)]
        >>> patchlib.create_metric_scatter(results).data[0].text
        ('L9H0', 'L9H1')
    """
    results = _not_empty(check_results(results, HeadPatchingResult), title)
    subtitle = f"{len(results)} heads, one at a time; {_unpatched(results)}"
    x, y = [result.layer for result in results], [round(result.patched_metric, 4) for result in results]
    text, hover = [result.hook_name for result in results], "%{text}<br>patched %{y:.3f}<extra></extra>"
    look = {"mode": "markers", "marker": {"color": style.LINES[0], "opacity": 0.7}}
    figure = go.Figure(go.Scatter(x=x, y=y, text=text, hovertemplate=hover, **look))
    for kind in ("clean", "corrupted"):
        line = {"color": style.GREY, "dash": "dot"}
        mean = mean_of(results, f"{kind}_metric")
        figure.add_hline(y=mean, line=line, annotation_text=kind, annotation_position="right")
    dtick = style.layer_step(len({result.layer for result in results}))
    figure.update_xaxes(title="layer", showgrid=False, zeroline=False, dtick=dtick)
    figure.update_yaxes(title="metric (mean over prompts)", gridcolor=style.PALE, zeroline=False)
    style.style(figure, title, subtitle, 420)
    return _saved(figure.update_layout(margin={"r": 80}), save_path)


def create_full_report(
    head_results: Sequence[HeadPatchingResult],
    layer_results: Mapping[str, Sequence[PatchingResult]],
    n_layers: int,
    n_heads: int,
    save_dir: str | Path = ".",
) -> dict[str, go.Figure]:
    """Write head_heatmap.html, layer_comparison.html, top_heads.html and metric_scatter.html to a folder.

    Args:
        head_results: From ``HeadPatcher.run_all_heads_experiment``.
        layer_results: From ``ActivationPatcher.run_patching_experiment``.
        n_layers: The model's.
        n_heads: The model's.
        save_dir: The folder, made if missing.

    Returns:
        File name -> figure.

    Raises:
        SweepError: There are no results, or they do not fit ``n_layers`` and ``n_heads``.
        RunError: The folder cannot be written.

    Example:
        >>> heads = [patchlib.HeadPatchingResult(0, head, 0.5, 3.0, -1.0, 1.0) for head in range(2)]
        >>> layers = {"blocks.0.hook_mlp_out": [patchlib.PatchingResult("blocks.0.hook_mlp_out", 3.0, -1.0, 1.0, 0.5)]}
        >>> figures = patchlib.create_full_report(heads, layers, n_layers=1, n_heads=2, save_dir=tmp_path)
        >>> sorted(path.name for path in tmp_path.iterdir()) == sorted(figures)
        True
    """
    figures = {
        "head_heatmap.html": create_head_heatmap(head_results, n_layers, n_heads),
        "layer_comparison.html": create_layer_comparison(layer_results),
        "top_heads.html": create_top_heads_bar(head_results),
        "metric_scatter.html": create_metric_scatter(head_results),
    }
    folder = Path(check_kind("save_dir", save_dir, str | os.PathLike, "give a folder's path", RunError))
    return {name: _saved(figure, folder / name) for name, figure in figures.items()}
