"""Which cells to patch, in which direction, read by which metrics -> one labelled result."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from patchlib import stats
from patchlib.errors import ContrastWarning, SweepError
from patchlib.patching.batching import run_cells
from patchlib.patching.budget import default_batch_tokens
from patchlib.patching.checkpoint import open_checkpoint
from patchlib.patching.donors import resolve_donors
from patchlib.patching.engine import Cell, PatchedRuns
from patchlib.patching.grid import resolve_grid
from patchlib.patching.labels import labels, provenance
from patchlib.patching.metrics import Reads, resolve_metrics
from patchlib.patching.selfcheck import SelfCheck, check_used, fast_obstacle
from patchlib.patching.sites import get_site
from patchlib.patching.unpatched import check_model, example_batches, no_values, read_unpatched, start_runs
from patchlib.progress import progress_bar
from patchlib.tasks.base import PatchingDataset, PromptPairs, as_pairs

Engine = Literal["auto", "fast", "plain"]


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
    source: Literal["other", "zero", "mean", "resample"] = "other",
    reference: PatchingDataset | PromptPairs | None = None,
    source_seed: int = 0,
    engine: Engine = "auto",
    batch_tokens: int | None = None,
    checkpoint: str | Path | None = None,
    progress: bool | Callable[[int, int], None] = True,
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
        over: The axes of the grid: any of ``"layer"``, ``"head"`` (for k and v of a grouped-query model:
            ``"kv_head"``) and one of ``"pos"`` (token index) or ``"role"`` (the task's named positions). An
            axis left out is patched whole: ``("layer", "head")`` patches a head at all positions, and ``("role",)``
            a position in all ``layers`` together. For ``pattern`` the position is that of the query.
        direction: ``"denoise"`` or ``"noise"``.
        metric: ``"logit_diff"``, ``"prob"``, ``"kl"``, ``"accuracy"``, ``"task_metric"`` or a function
            ``(logits[example pos d_vocab], pairs) -> [example]``; several at once cost one run. None: the
            task's own ``compute_metric`` where it has one, else the logit difference.
        layers, heads: Which ones; all when None.
        positions: Token indices or role names. With ``"pos"`` or ``"role"`` in ``over``, the ones to sweep;
            without, the ones that every cell patches.
        source: What is written into the run that is patched: ``"other"`` the other run's activation, ``"zero"``
            zeros, ``"mean"`` the mean over ``reference``'s clean prompts of the same length, position by position,
            ``"resample"`` the activation of one of them, drawn for each prompt. The last three are ablations:
            use ``direction="noise"``, which ablates the clean run. Zeros are the least defensible, since no prompt
            gives them (Zhang and Nanda 2024, "Towards best practices of activation patching", section 2).
        reference: The task whose clean prompts ``"mean"`` and ``"resample"`` take; this task itself when None.
        source_seed: Of the draw for ``"resample"``.
        engine: ``"fast"`` does only the work that a patch can change, ``"plain"`` runs every forward whole,
            ``"auto"`` is fast where the architecture allows it. Each fast sweep runs a few cells again the
            plain way and compares.
        batch_tokens: Tokens in one forward; what suits the device when None. Where memory runs out, fewer.
        checkpoint: A file to write finished cells to. The same sweep with the same file goes on from there, and
            one with other inputs is refused.
        progress: Show a bar; or a function that is told ``(done, total)`` after each batch, and may raise to stop.

    Returns:
        Dims ``metric``, the axes of ``over`` in their order, ``example``. Variables ``patched``, ``clean``,
        ``corrupted`` (the metric per prompt) and ``effect`` (``patchlib.stats.effect``). Coordinates carry
        prompts, answers and token labels, attributes what is needed to repeat the sweep. Prompts without a
        swept position are NaN there.

    Raises:
        SweepError: Unknown site, axis, direction, metric, source or engine, indices out of range, a model in
            train mode, NaN logits, a checkpoint of another sweep.
        TaskError: The task's prompts or answers are unusable.
        ExactnessError: Fast and plain disagree.

    Warns:
        ContrastWarning: Clean and corrupted hardly differ; effects are NaN.
    """
    return patch_grid(
        model, task, site, over, direction, metric, layers=layers, heads=heads, positions=positions, source=source,
        reference=reference, source_seed=source_seed, engine=engine, batch_tokens=batch_tokens,
        checkpoint=checkpoint, progress=progress,
    )  # fmt: skip


def patch_grid(
    model: TransformerBridge,
    task: PatchingDataset | PromptPairs,
    site: str,
    over: Sequence[str],
    direction: str,
    metric: str | Callable | Sequence[str | Callable] | None,
    *,
    layers: Sequence[int] | int | None,
    heads: Sequence[int] | int | None,
    positions: Sequence[int | str] | int | str | None,
    source: str,
    reference: PatchingDataset | PromptPairs | None,
    source_seed: int,
    engine: str,
    batch_tokens: int | None,
    checkpoint: str | Path | None,
    progress: bool | Callable[[int, int], None],
    kind: Callable[[PromptPairs], Callable[..., PatchedRuns]] = lambda part: PatchedRuns,
    about: Mapping[str, str] | None = None,
) -> xr.Dataset:
    """What ``sweep`` and ``path_patch`` share; they differ in the ``kind`` of patched run and say so in ``about``."""
    if direction not in ("denoise", "noise"):
        raise SweepError(f"Unknown direction {direction!r}: choose 'denoise' (clean into corrupted) or 'noise'.")
    check_model(model)
    batch_tokens = default_batch_tokens(model) if batch_tokens is None else batch_tokens
    if not isinstance(batch_tokens, Integral) or batch_tokens < 1:
        raise SweepError(f"batch_tokens must be a whole number of at least 1, not {batch_tokens!r}.")
    place = get_site(model, site)
    check_used(model, place)
    obstacle = _why_plain(model, engine)
    pairs = as_pairs(model, task)
    metrics = resolve_metrics(metric, pairs.compute_metric is not None)
    grid = resolve_grid(model, place, pairs, over, layers, heads, positions)
    donors = resolve_donors(model, pairs, source, reference, source_seed)

    empty = xr.Dataset(
        coords={"metric": list(metrics), **grid.values, **labels(model, pairs, grid.values)},
        attrs={
            **provenance(model, pairs),
            "site": site,
            "direction": direction,
            **donors.attributes(direction),
            "positions": "all" if grid.fixed is None else ", ".join(map(str, grid.fixed)),
            **({} if "layer" in grid.values else {"layers": ", ".join(map(str, grid.layers))}),
            "engine": "fast" if obstacle is None else f"plain ({obstacle})",
            **(about or {}),
        },
    )
    found = no_values(metrics, pairs)
    patched = np.full((len(metrics), *grid.shape, len(pairs)), np.nan, dtype=np.float32)
    batches = list(example_batches(pairs, batch_tokens))
    checked = random.Random(0).randrange(len(batches)) if obstacle is None else None
    reads = Reads.of(metrics, pairs)
    start = partial(start_runs, model, place, direction, grid.layers, reads, pairs, donors, batch_tokens, kind=kind)
    with (
        open_checkpoint(checkpoint, empty, pairs, metrics, donors) as finished,
        progress_bar(len(pairs) * math.prod(grid.shape), f"{direction} {site}", progress) as bar,
    ):
        for number, examples in enumerate(batches):
            part = pairs.select(examples)
            runs = start(examples, fast=obstacle is None)
            read = read_unpatched(metrics, part, runs, direction, found, examples)
            base = found["corrupted" if direction == "denoise" else "clean"][:, examples]
            cells = []
            for cell in grid.cells(part):
                known = finished.get(cell.index, examples)
                # Without a run: what was done before, and what a patch gives that changes nothing.
                patched[_at(cell, examples)] = base if known is None else known
                if known is None:
                    cells.append(cell)
            check = SelfCheck(start, examples, runs, cells) if number == checked else None
            done = 0
            for batch, logits in run_cells(runs, cells, batch_tokens):
                values = read(logits, f"a {direction} run of {site} from layer {batch[0].layers[0]} on").numpy()
                for i, cell in enumerate(batch):
                    patched[_at(cell, examples)] = values[:, i]
                    if check:
                        check.saw(cell, logits[i])
                finished.add([cell.index for cell in batch], examples, values)
                bar.update(len(batch) * len(examples))
                done += len(batch) * len(examples)
            if check:
                check.compare()
            bar.update(math.prod(grid.shape) * len(examples) - done)  # cells that needed no run

    result = empty.assign(
        patched=(("metric", *grid.values, "example"), patched),
        clean=(("metric", "example"), found["clean"]),
        corrupted=(("metric", "example"), found["corrupted"]),
    )
    _warn_of_contrast(result)
    return result.assign(effect=stats.effect(result))


def _at(cell: Cell, examples: list[int]) -> Any:
    return (slice(None), *cell.index, examples)  # [metric *axes example]


def _why_plain(model: TransformerBridge, engine: str) -> str | None:
    """None where the fast engine is to be used, else why it is not."""
    if engine not in ("auto", "fast", "plain"):
        raise SweepError(f"Unknown engine {engine!r}: choose 'auto', 'fast' or 'plain'.")
    obstacle = "as asked" if engine == "plain" else fast_obstacle(model)
    if engine == "fast" and obstacle is not None:
        raise SweepError(f"engine='fast' does not hold for {model.cfg.model_name}: {obstacle}. Use engine='auto'.")
    return obstacle


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
            stacklevel=4,
        )
