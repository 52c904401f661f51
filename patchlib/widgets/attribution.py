"""Controls over estimates, edges and curves that are computed already: no move runs a model."""

from collections.abc import Mapping

import ipywidgets
import numpy as np
import pandas as pd
import xarray as xr

from patchlib._util import check_count, check_kind, check_text
from patchlib.circuits.curves import FaithfulnessCurve
from patchlib.circuits.edge_circuits import edge_circuit
from patchlib.errors import SweepError
from patchlib.patching.attribution.agreement import agreement
from patchlib.plots.attribution import estimate_against_exact
from patchlib.plots.edges import edge_graph
from patchlib.plots.takeaways import of_estimates
from patchlib.plots.wording import interval
from patchlib.widgets.drawing import Live, Shown, live, wide

RANKINGS = {"magnitude": "size", "signed": "sign"}
"""What edges are chosen by -> what readers are shown."""


def estimate_explorer(estimates: Mapping[str, Mapping[int, xr.Dataset]], exact: xr.Dataset) -> Live:
    """Pick a method and its steps, and see its estimates beside the exact effects.

    Args:
        estimates: Method -> steps -> from ``attribute``, all of the same cells; 0 steps for what has none.
        exact: From ``sweep`` of the same cells.

    Returns:
        A list of methods and sliders for the steps and the named misses; below them scatter, sentence and table.

    Raises:
        SweepError: As ``agreement``; no estimates.

    Example:
        >>> cells = ("z", ("layer", "head"))
        >>> exact = patchlib.sweep(model, task, *cells, layers=[20], progress=False)
        >>> estimate = patchlib.attribute(model, task, *cells, layers=[20], progress=False)
        >>> explorer = patchlib.widgets.estimate_explorer({"gradient": {1: estimate}}, exact)
        >>> [widget.description for widget in explorer.children[0].children]
        ['Method', 'Steps', 'Misses named']
    """
    mend = "give {method: {steps: what patchlib.attribute returned}}"
    check_kind("Estimates", estimates, Mapping, mend)
    for method in estimates:
        check_text("A method's name", method)
        if not check_kind("A method's estimates", estimates[method], Mapping, mend):
            raise SweepError(f"The method {method!r} has no estimate: {mend}.")
        for steps in estimates[method]:
            check_count("steps", steps, 0)
    named = {(method, steps): result for method, some in estimates.items() for steps, result in some.items()}
    if not named:
        raise SweepError(f"There is nothing to explore: {mend}.")
    all_steps = sorted({steps for _, steps in named})
    table = agreement({_name(*key): result for key, result in named.items()}, exact)
    table = table[["pearson", "spearman", "top_k_shared", "largest_miss", "largest_miss_at"]].round(2)
    controls = {
        "method": wide(ipywidgets.Dropdown, "Method", options=list(estimates)),
        "steps": wide(ipywidgets.SelectionSlider, "Steps", options=all_steps),
        "top_k": wide(ipywidgets.IntSlider, "Misses named", value=5, min=0, max=12),
    }

    def draw(method: str, steps: int, top_k: int) -> list[Shown]:
        # A method that has not so many steps shows the most that it has below them.
        there = sorted(estimates[method])
        shown = max((n for n in there if n <= steps), default=there[0])
        name, result = _name(method, shown), estimates[method][shown]
        figure = estimate_against_exact(result, exact, top_k, title=f"{name}: estimated against exact")
        return [figure, of_estimates({name: result}, exact), table]

    return live(draw, controls)


def _name(method: str, steps: int) -> str:
    return method if steps <= 1 else f"{method}, {steps} steps"


def edge_explorer(scores: Mapping[str, xr.Dataset], curves: Mapping[str, FaithfulnessCurve]) -> Live:
    """Pick a method and how many of its edges to keep: the circuit as a graph, its size and its faithfulness.

    Args:
        scores: Method -> from ``attribute_edges``.
        curves: Method -> from ``faithfulness_curve`` of the same scores, whose sizes can be picked; of several
            ablations the first is shown.

    Returns:
        A list of methods, a choice of the ranking and a slider for the share; below them graph, sentence and table.

    Raises:
        SweepError: Methods without scores or without a curve, or curves of different sizes.

    Example:
        >>> scores = patchlib.attribute_edges(model, task, progress=False)
        >>> ablation = patchlib.EdgeAblation(model, task)
        >>> curve = patchlib.faithfulness_curve(ablation, scores, shares=[0.001, 1], nodes=False, n_random=0)
        >>> explorer = patchlib.widgets.edge_explorer({"eap": scores}, {"eap": curve})
        >>> [widget.description for widget in explorer.children[0].children]
        ['Edges by', 'Ranking', 'Share kept']
    """
    check_kind("The scores", scores, Mapping, "give {method: what patchlib.attribute_edges returned}")
    check_kind("The curves", curves, Mapping, "give {method: what patchlib.faithfulness_curve returned}")
    if not scores or set(scores) != set(curves):
        raise SweepError("Give scores and a curve for each method, under the same names.")
    tables = {
        check_text("A method's name", method): check_kind(
            "A curve", curves[method], FaithfulnessCurve, "give what patchlib.faithfulness_curve returned"
        ).table
        for method in scores
    }
    shares = sorted(next(iter(tables.values())).share.unique().tolist())
    if any(sorted(table.share.unique().tolist()) != shares for table in tables.values()):
        raise SweepError("The curves have circuits of different sizes: give all of them the same shares.")
    sizes = [(f"{share:.2%}".replace(".00%", "%"), share) for share in shares]
    controls = {
        "method": wide(ipywidgets.Dropdown, "Edges by", options=list(scores)),
        "ranking": wide(
            ipywidgets.Dropdown, "Ranking", options=[(name, ranking) for ranking, name in RANKINGS.items()]
        ),
        "share": wide(ipywidgets.SelectionSlider, "Share kept", options=sizes),
    }

    def draw(method: str, ranking: str, share: float) -> list[Shown]:
        table = tables[method]
        table = table[(table.of == "edges") & np.isclose(table.share, share) & (table.source == table.source.iloc[0])]
        kept = _row(table, ranking)
        n_edges = max(1, int(share * int(scores[method].score.isel(metric=0, example=0).notnull().sum())))
        circuit = edge_circuit(scores[method], n_edges, ranking=ranking)  # type: ignore[arg-type]
        size = f"{share:.2%}".replace(".00%", "%")
        figure = edge_graph(scores[method], circuit, 40, title=f"{method}: {size} of the edges, by {RANKINGS[ranking]}")
        said = f"{n_edges} edges chosen, of which {kept.n_edges} are connected: faithfulness {kept.faithfulness:.2f}"
        shown = table.assign(share=size).set_index("ranking")[["share", "n_edges", "faithfulness", "ci_low", "ci_high"]]
        return [figure, f"{said}{interval(kept)}, n = {kept.n}.", shown.round(2)]

    return live(draw, controls)


def _row(table: pd.DataFrame, ranking: str) -> pd.Series:
    return table[table.ranking == ranking].iloc[0]
