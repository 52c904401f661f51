"""Cells that are patched together: a set's effect, a set grown one cell at a time, and how cells interact in pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from patchlib import stats
from patchlib._util import check_count, check_fraction
from patchlib.errors import SweepError
from patchlib.patching.donors import resolve_donors
from patchlib.patching.experiment import Engine, Experiment, resolve_how
from patchlib.patching.members import Cells, cell_texts, entries_of, every_cell, named_sets
from patchlib.patching.metrics import resolve_metrics
from patchlib.patching.own_metrics import MetricFunction
from patchlib.patching.sequences import Sequences, log_prob
from patchlib.patching.set_forwards import SetGrid
from patchlib.stats.intervals import ratio_intervals
from patchlib.tasks.base import Task, as_pairs


def patch_set(
    model: TransformerBridge,
    task: Task,
    cells: Cells | Mapping[str, Cells],
    site: str = "z",
    direction: Literal["denoise", "noise"] = "denoise",
    metric: str | MetricFunction | Sequence[str | MetricFunction] | None = None,
    *,
    source: Literal["other", "zero", "mean", "resample"] = "other",
    reference: Task | None = None,
    source_seed: int = 0,
    engine: Engine = "auto",
    batch_tokens: int | None = None,
    progress: bool | Callable[[int, int], None] = True,
) -> xr.Dataset:
    """Patch several cells together: heads, layers and positions, at one site or at several.

    Single effects do not add up. Where one of two heads is enough, each alone does nothing in noising and all of it in
    denoising; where both are needed it is the other way round (Heimersheim and Nanda 2024, "How to use and interpret
    activation patching", section 4).

    Args:
        model: As for ``sweep``.
        task: As for ``sweep``.
        cells: ``(layer, head)`` pairs, or ``(layer, head, position)`` with a token index, role or span; for sites
            without heads ``(layer,)`` or ``(layer, position)``. The head may be None, for all. A cell may begin with
            the name of another site: ``("mlp_out", 0, "S2")``. Or rows of ``summary_table``. Or ``{name: cells}``, for
            several sets.
        site: Of cells that name none.
        direction, metric, source, reference, source_seed, engine, batch_tokens, progress: As for ``sweep``.

    Returns:
        As ``sweep``, over the axis ``set``; its coordinate ``cells`` says what is in each set.

    Raises:
        SweepError: As ``sweep``; a cell that the model or a prompt does not have, or that comes twice in a set.
        TaskError, ExactnessError: As ``sweep``.

    Warns:
        ContrastWarning, EngineWarning: As ``sweep``.

    Example:
        Two heads of which the second reads what the first writes do more together than the sum of their effects:

        >>> sets = {"one": [(20, 0)], "other": [(23, 3)], "both": [(20, 0), (23, 3)]}
        >>> result = patchlib.patch_set(model, task, sets, progress=False)
        >>> print(*(f"{name} {effect:.2f}" for name, effect in zip(sets, result.effect[0].values)))
        one 0.36 other 0.34 both 0.94
    """
    pairs = as_pairs(model, task)
    named = named_sets(model, pairs, cells, site)
    settings = {"reference": reference, "source": None if source in ("other", "zero") else source}
    if sequences := Sequences.of(pairs, metric, **settings):
        pairs, metric = sequences.forced(), log_prob
    members = tuple(named.values())
    layers = sorted({member.layer for of_set in members for member in of_set})
    grid = SetGrid(members[0][0].site, {"set": list(named)}, layers, sets=members)
    donors = resolve_donors(model, pairs, direction, source, reference, source_seed)
    how = resolve_how(model, pairs, engine, batch_tokens, None, progress, None)
    experiment = Experiment(model, pairs, grid, donors, resolve_metrics(metric, pairs), how)
    result = experiment.run() if sequences is None else sequences.run(experiment)
    return result.assign_coords(cells=("set", [", ".join(m.name(site) for m in of_set) for of_set in members]))


def grow_set(
    model: TransformerBridge,
    task: Task,
    candidates: Cells | None = None,
    site: str = "z",
    direction: Literal["denoise", "noise"] = "denoise",
    metric: str | MetricFunction | None = None,
    *,
    n_steps: int = 5,
    held_out: Task | None = None,
    **how: Any,
) -> pd.DataFrame:
    """Grow a set greedily: each step adds the cell with which the effect of the whole set is largest.

    Greedy growth misses cells that do nothing without one another (an AND in denoising), since none of them is ever the
    best alone. And a set that was chosen on some prompts has a larger effect there than elsewhere, the more so the more
    cells were tried: ``held_out`` says how much is left on others.

    Args:
        model: As for ``sweep``.
        task: As for ``sweep``.
        candidates: Cells as ``patch_set`` takes them; every head (or every layer, where the site has no heads) when
            None, which costs a sweep of all of them a step.
        site, direction, metric: As for ``patch_set``, one metric.
        n_steps: How many cells to add.
        held_out: Other prompts, on which the chosen sets are measured too.
        **how: ``source``, ``engine`` and all else that ``patch_set`` takes.

    Returns:
        A row for each step: ``cell`` that was added, ``effect`` of the set with it and its interval ``ci_low`` and
        ``ci_high``, ``gain`` over the step before with ``gain_low`` and ``gain_high``, ``n_tested`` sets in this step,
        ``n`` prompts, and with ``held_out`` also ``held_out_effect``, ``held_out_low`` and ``held_out_high``.
        Effects are fractions. The attribute (``table.attrs``) ``cells`` has the set as ``patch_set`` takes it.

    Raises:
        SweepError: As ``patch_set``; no usable contrast, or fewer candidates than steps.
        TaskError, ExactnessError: As ``sweep``.

    Example:
        >>> table = patchlib.grow_set(model, task, [(20, 0), (20, 1), (23, 3)], n_steps=2, progress=False)
        >>> print(table[["cell", "effect", "gain", "n_tested"]].round(2).to_string(index=False))
         cell  effect  gain  n_tested
        L20H0    0.36  0.36         3
        L23H3    0.94  0.58         2
    """
    pairs = as_pairs(model, task)
    others = None if held_out is None else as_pairs(model, held_out)
    given = every_cell(model, site) if candidates is None else entries_of(candidates)
    left = dict(zip(cell_texts(model, pairs, given, site), entries_of(given), strict=True))
    if check_count("n_steps", n_steps) > len(left):
        raise SweepError(f"n_steps={n_steps} cells cannot be added of {len(left)} candidates: give more of them.")
    chosen: list[Any] = []
    rows: list[dict[str, Any]] = []
    moved: xr.DataArray | None = None
    for step in range(1, n_steps + 1):
        sets = {name: [*chosen, cell] for name, cell in left.items()}
        result = stats.one_metric(patch_set(model, pairs, sets, site, direction, metric, **how), None)
        effects = result.effect.isel(metric=0)
        if effects.isnull().all():
            raise SweepError(stats.why_unusable(stats.contrast(result)) or "No set has an effect on these prompts.")
        best = result.isel(set=[int(effects.argmax("set").item())])
        name = str(best.set.item())
        now, possible = (part.isel(metric=0, drop=True) for part in stats.moved_and_possible(best))
        gained = now.isel(set=0) - (0 if moved is None else moved)
        gain = _ratio(gained.values[None], possible.values, pairs.clusters, 0.95)
        row = {"step": step, "cell": name, **_effect_of(best), **{f"gain{k}": v[0] for k, v in gain.items()}}
        rows.append({**row, "n_tested": len(sets), "n": result.sizes["example"]})
        moved = now.isel(set=0, drop=True)
        chosen.append(left.pop(name))
        if others is not None:
            elsewhere = _effect_of(patch_set(model, others, {name: chosen}, site, direction, metric, **how))
            keys = ("held_out_effect", "held_out_low", "held_out_high")
            rows[-1].update(zip(keys, elsewhere.values(), strict=True))
    table = pd.DataFrame(rows)
    table.attrs["cells"] = chosen
    return table


def interactions(
    model: TransformerBridge,
    task: Task,
    cells: Cells,
    site: str = "z",
    direction: Literal["denoise", "noise"] = "denoise",
    metric: str | MetricFunction | None = None,
    *,
    confidence: float = 0.95,
    **how: Any,
) -> xr.Dataset:
    """Each pair of cells patched together, minus the sum of the two alone.

    Below 0 the two do less together than by themselves: one is enough (in denoising), or the one works through the
    other. Above 0 they do more: each needs the other (in denoising), or stands in for it (in noising).

    Args:
        model: As for ``sweep``.
        task: As for ``sweep``.
        cells: As for ``patch_set``, two or more.
        site, direction, metric: As for ``patch_set``, one metric.
        confidence: Coverage aimed at, by the intervals of all pairs together (Bonferroni).
        **how: ``source``, ``engine`` and all else that ``patch_set`` takes.

    Returns:
        Over ``cell`` and ``other``, which have the same names: ``interaction`` with its interval ``low`` and ``high``,
        and ``together``; over ``cell`` alone: ``alone``. All are fractions of the contrast; NaN from a cell to itself.

    Raises:
        SweepError: As ``patch_set``; a single cell.
        TaskError, ExactnessError: As ``sweep``.

    Warns:
        ContrastWarning, EngineWarning: As ``sweep``.

    Example:
        Two heads of which each is enough:

        >>> toy = patchlib.toys.or_gate()
        >>> for direction in ("denoise", "noise"):
        ...     how = {"direction": direction, "progress": False}
        ...     pairs = patchlib.interactions(toy.model, toy.task, [(0, 1), (1, 2)], **how)
        ...     print(direction, pairs.alone.values.round(1) + 0, pairs.interaction.values[0, 1].round(1))
        denoise [1. 1.] -1.0
        noise [0. 0.] 1.0
    """
    check_fraction("confidence", confidence)
    pairs = as_pairs(model, task)
    entries = entries_of(cells)
    names = cell_texts(model, pairs, entries, site)
    if len(names) < 2:
        raise SweepError("Interactions are of pairs of cells: give two or more.")
    both = list(combinations(range(len(names)), 2))
    singles = {name: [entry] for name, entry in zip(names, entries, strict=True)}
    sets = singles | {f"{names[i]} + {names[j]}": [entries[i], entries[j]] for i, j in both}
    result = stats.one_metric(patch_set(model, pairs, sets, site, direction, metric, **how), None)
    moved, possible = (part.isel(metric=0, drop=True).astype("float64") for part in stats.moved_and_possible(result))
    by_set = moved.transpose("set", "example").values
    alone, together = by_set[: len(names)], by_set[len(names) :]
    first, second = (np.array([pair[k] for pair in both]) for k in (0, 1))
    gap = _ratio(
        together - alone[first] - alone[second], possible.values, pairs.clusters, 1 - (1 - confidence) / len(both)
    )
    effects = result.effect.isel(metric=0).values
    values = {"interaction": gap[""], "low": gap["_low"], "high": gap["_high"], "together": effects[len(names) :]}
    is_usable = np.isfinite(effects).all()
    matrices = {}
    for name, of_pairs in values.items():
        matrix = np.full((len(names), len(names)), np.nan)
        matrix[first, second] = matrix[second, first] = of_pairs if is_usable else np.nan
        matrices[name] = (("cell", "other"), matrix)
    coords = {"cell": names, "other": names}
    attributes = result.attrs | {"metric": str(result.metric.values[0]), "confidence": confidence}
    return xr.Dataset({**matrices, "alone": ("cell", effects[: len(names)])}, coords, attributes)


def _ratio(above: np.ndarray, below: np.ndarray, clusters: Sequence[str], confidence: float) -> dict[str, np.ndarray]:
    """Ratios of means over prompts, with their intervals."""
    below = np.broadcast_to(below, above.shape).astype("float64")
    low, high = ratio_intervals(above.astype("float64"), below, confidence, clusters or None)
    return {"": above.mean(-1) / below.mean(-1), "_low": low, "_high": high}


def _effect_of(result: xr.Dataset) -> dict[str, float]:
    """The effect of a result's only set, with its interval."""
    interval = stats.effect_interval(result)
    return {
        "effect": stats.effect(result).isel(metric=0).item(),
        "ci_low": interval.low.item(),
        "ci_high": interval.high.item(),
    }
