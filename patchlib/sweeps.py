"""Which cells to patch, in which direction, read by which metrics -> one labelled result."""

from __future__ import annotations

import math
import random
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Integral
from typing import Any, Literal

import numpy as np
import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from patchlib import stats
from patchlib.axes import resolve_grid
from patchlib.engine import Cell, PatchedRuns, fast_obstacle
from patchlib.errors import ContrastWarning, SweepError
from patchlib.labels import labels, provenance
from patchlib.metrics import Readout, resolve_metrics
from patchlib.progress import progress_bar
from patchlib.selfcheck import SelfCheck
from patchlib.sites import Site, get_site
from patchlib.tasks.base import PatchingDataset, PromptPairs, as_pairs

Engine = Literal["auto", "fast", "plain"]
BATCH_TOKENS = 2048
"""Tokens in one forward: beyond this a CPU gains no speed, and memory grows."""


def sweep(
    model: TransformerBridge,
    task: PatchingDataset | PromptPairs,
    site: str = "resid_pre",
    over: Sequence[str] = ("layer", "pos"),
    direction: Literal["denoise", "noise"] = "denoise",
    metric: str | Callable | Sequence[str | Callable] | None = None,
    *,
    layers: Sequence[int] | int | None = None,
    heads: Sequence[int] | int | None = None,
    positions: Sequence[int | str] | int | str | None = None,
    engine: Engine = "auto",
    batch_tokens: int = BATCH_TOKENS,
    progress: bool = True,
) -> xr.Dataset:
    """Patch every cell of a grid, one at a time, and measure what comes out (activation patching).

    Denoising puts the clean activation into the corrupted run: a large effect says that the cell is
    *sufficient* to restore the behaviour. Noising puts the corrupted activation into the clean run: a large
    effect says that it is *necessary*. They are not mirror images (Heimersheim and Nanda 2024, "How to use
    and interpret activation patching", section 2). The method is that of Vig et al. 2020 and Meng et al. 2022.

    Args:
        model: From ``load_model``; any TransformerLens bridge in eval mode.
        task: A ``PatchingDataset`` or ``PromptPairs``.
        site: What is patched, a name in ``patchlib.SITES``.
        over: The axes of the grid: ``"layer"``, with any of ``"head"`` (for k and v of a grouped-query model:
            ``"kv_head"``) and one of ``"pos"`` (token index) or ``"role"`` (the task's named positions). An
            axis left out is patched whole: ``("layer", "head")`` patches a head at all positions.
            For ``pattern`` the position is that of the query.
        direction: ``"denoise"`` or ``"noise"``.
        metric: ``"logit_diff"``, ``"prob"``, ``"kl"``, ``"accuracy"``, ``"task_metric"`` or a function
            ``(logits[example pos d_vocab], pairs) -> [example]``; several at once cost one run. None: the
            task's own ``compute_metric`` where it has one, else the logit difference.
        layers, heads: Which ones; all when None.
        positions: Token indices or role names. With ``"pos"`` or ``"role"`` in ``over``, the ones to sweep;
            without, the ones that every cell patches.
        engine: ``"fast"`` does only the work that a patch can change, ``"plain"`` runs every forward whole,
            ``"auto"`` is fast where the architecture allows it. Each fast sweep runs a few cells again the
            plain way and compares.
        batch_tokens: Tokens in one forward.
        progress: Show a bar.

    Returns:
        Dims ``metric``, the axes of ``over`` in their order, ``example``. Variables ``patched``, ``clean``,
        ``corrupted`` (the metric per prompt) and ``effect`` (``patchlib.stats.effect``). Coordinates carry
        prompts, answers and token labels, attributes what is needed to repeat the sweep. Prompts without a
        swept position are NaN there.

    Raises:
        SweepError: Unknown site, axis, direction, metric or engine, indices out of range, a model in train
            mode, NaN logits.
        TaskError: The task's prompts or answers are unusable.
        ExactnessError: Fast and plain disagree.

    Warns:
        ContrastWarning: Clean and corrupted hardly differ; effects are NaN.
    """
    if direction not in ("denoise", "noise"):
        raise SweepError(f"Unknown direction {direction!r}: choose 'denoise' (clean into corrupted) or 'noise'.")
    _check_mode(model)
    if not isinstance(batch_tokens, Integral) or batch_tokens < 1:
        raise SweepError(f"batch_tokens must be a whole number of at least 1, not {batch_tokens!r}.")
    place = get_site(model, site)
    obstacle = _why_plain(model, engine)
    pairs = as_pairs(model, task)
    metrics = resolve_metrics(metric, pairs.compute_metric is not None)
    grid = resolve_grid(model, place, pairs, over, layers, heads, positions)

    found = _unpatched(metrics, pairs)
    patched = np.full((len(metrics), *grid.shape, len(pairs)), np.nan, dtype=np.float32)
    batches = list(_batches(pairs, batch_tokens))
    checked = random.Random(0).randrange(len(batches)) if obstacle is None else None
    with progress_bar(len(pairs) * math.prod(grid.shape), f"{direction} {site}", progress) as bar:
        for number, examples in enumerate(batches):
            part = pairs.select(examples)
            cells = grid.cells(part)
            start = partial(_runs, model, place, direction, grid.layers, Readout.last_only(metrics))
            runs = start(part, fast=obstacle is None)
            read = _read_unpatched(metrics, part, runs, direction, found, examples)
            base = found["corrupted" if direction == "denoise" else "clean"][:, examples]
            for cell in cells:  # what a patch gives that changes nothing; the engine yields the others
                patched[_at(cell, examples)] = base
            check = SelfCheck(start, part, runs, cells) if number == checked else None
            done = 0
            for batch, logits in runs.run(cells, batch_tokens):
                values = read(logits, f"a {direction} run of {site} from layer {batch[0].layer} on").numpy()
                for i, cell in enumerate(batch):
                    patched[_at(cell, examples)] = values[:, i]
                    if check:
                        check.saw(cell, logits[i])
                bar.update(len(batch) * len(examples))
                done += len(batch) * len(examples)
            if check:
                check.compare()
            bar.update(math.prod(grid.shape) * len(examples) - done)  # cells that needed no run

    result = xr.Dataset(
        {
            "patched": (("metric", *grid.values, "example"), patched),
            "clean": (("metric", "example"), found["clean"]),
            "corrupted": (("metric", "example"), found["corrupted"]),
        },
        coords={"metric": list(metrics), **grid.values, **labels(model, pairs, grid.values)},
        attrs={
            **provenance(model, pairs),
            "site": site,
            "direction": direction,
            "source": "clean" if direction == "denoise" else "corrupted",
            "positions": "all" if grid.fixed is None else ", ".join(map(str, grid.fixed)),
            "engine": "fast" if obstacle is None else f"plain ({obstacle})",
        },
    )
    _warn_of_contrast(result)
    return result.assign(effect=stats.effect(result))


def baseline(
    model: TransformerBridge,
    task: PatchingDataset | PromptPairs,
    metric: str | Callable | Sequence[str | Callable] | None = None,
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> xr.Dataset:
    """The two unpatched runs alone, for ``stats.contrast`` to say whether the task gives a contrast.

    Args:
        model: As for ``sweep``.
        task: As for ``sweep``.
        metric: As for ``sweep``.
        batch_tokens: As for ``sweep``.

    Returns:
        ``clean`` and ``corrupted`` per metric and example, with the coordinates and attributes of ``sweep``.

    Raises:
        SweepError: Unknown metric, a model in train mode, NaN logits.
        TaskError: The task's prompts or answers are unusable.
    """
    _check_mode(model)
    pairs = as_pairs(model, task)
    metrics = resolve_metrics(metric, pairs.compute_metric is not None)
    found = _unpatched(metrics, pairs)
    for examples in _batches(pairs, batch_tokens):
        part = pairs.select(examples)
        runs = _runs(model, get_site(model, "resid_pre"), "denoise", [], Readout.last_only(metrics), part, fast=False)
        _read_unpatched(metrics, part, runs, "denoise", found, examples)
    return xr.Dataset(
        {run: (("metric", "example"), values) for run, values in found.items()},
        coords={"metric": list(metrics), **labels(model, pairs, {})},
        attrs=provenance(model, pairs),
    )


def _at(cell: Cell, examples: list[int]) -> Any:
    return (slice(None), *cell.index, examples)  # [metric *axes example]


def _check_mode(model: TransformerBridge) -> None:
    if not isinstance(model, TransformerBridge):
        raise SweepError(f"The model is a {type(model).__name__}; patchlib.load_model(name) gives one to patch.")
    if any(module.training for module in model.modules()):
        raise SweepError("The model is in train mode, where dropout makes runs random. Call model.eval() first.")


def _unpatched(metrics: Mapping[str, Callable], pairs: PromptPairs) -> dict[str, np.ndarray]:
    return {run: np.full((len(metrics), len(pairs)), np.nan, dtype=np.float32) for run in ("clean", "corrupted")}


def _read_unpatched(
    metrics: Mapping[str, Callable],
    pairs: PromptPairs,
    runs: PatchedRuns,
    direction: str,
    found: dict[str, np.ndarray],
    examples: list[int],
) -> Readout:
    """Write the metrics of the clean and the corrupted run into ``found``; return what reads patched runs."""
    logits = {"corrupted": runs.base_logits, "clean": runs.source_logits}
    if direction == "noise":
        logits = {"corrupted": runs.source_logits, "clean": runs.base_logits}
    read = Readout(metrics, pairs, logits["clean"])
    for name, values in found.items():
        values[:, examples] = read(logits[name][None], f"the {name} run")[:, 0]
    return read


def _why_plain(model: TransformerBridge, engine: str) -> str | None:
    """None where the fast engine is to be used, else why it is not."""
    if engine not in ("auto", "fast", "plain"):
        raise SweepError(f"Unknown engine {engine!r}: choose 'auto', 'fast' or 'plain'.")
    obstacle = "as asked" if engine == "plain" else fast_obstacle(model)
    if engine == "fast" and obstacle is not None:
        raise SweepError(f"engine='fast' does not hold for {model.cfg.model_name}: {obstacle}. Use engine='auto'.")
    return obstacle


def _batches(pairs: PromptPairs, batch_tokens: int) -> Iterator[list[int]]:
    """Pairs of one length that part at the same position, a memory-sized number at a time."""
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, (clean, corrupted) in enumerate(zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True)):
        alike[len(clean), int((clean != corrupted).nonzero()[0])].append(i)
    for (n_pos, _), examples in sorted(alike.items()):
        size = max(1, batch_tokens // n_pos)
        for first in range(0, len(examples), size):
            yield examples[first : first + size]


def _runs(
    model: TransformerBridge,
    site: Site,
    direction: str,
    layers: Sequence[int],
    last_only: bool,
    pairs: PromptPairs,
    *,
    fast: bool,
) -> PatchedRuns:
    base, source = pairs.corrupted_batch(), pairs.clean_batch()
    if direction == "noise":
        base, source = source, base
    return PatchedRuns(model, site, base, source, layers, fast=fast, last_only=last_only)


def _warn_of_contrast(result: xr.Dataset) -> None:
    table = stats.contrast(result)
    for metric, row in table[~table.usable].iterrows():
        spread = f" with a spread of {row.spread:.2g}" if row.n > 1 else ""
        warnings.warn(
            f"{metric} gives no usable contrast: {row.clean:.3g} on clean and {row.corrupted:.3g} on corrupted "
            f"prompts, a difference of {row.difference:.2g}{spread} (n = {row.n:.0f}). Effects are NaN, because "
            "dividing by it would give noise. Choose a corruption that changes the answer (for IOI: "
            "corruption='swap_subject').",
            ContrastWarning,
            stacklevel=3,
        )
