"""Which cells to patch, in which direction, read by which metrics -> one labelled result."""

import math
import random
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from patchlib import stats
from patchlib.errors import ContrastWarning
from patchlib.models.check import check_model
from patchlib.patching.batching import example_batches, patch_cells
from patchlib.patching.budget import check_batch_tokens
from patchlib.patching.checkpoint import open_checkpoint
from patchlib.patching.donors import Donors, resolve_donors
from patchlib.patching.experiment import Engine, Experiment, HowToRun, resolve_how
from patchlib.patching.grid import Cell, Grid, resolve_grid
from patchlib.patching.metrics import MetricFunction, resolve_metrics
from patchlib.patching.selfcheck import SelfCheck
from patchlib.patching.sites import get_site
from patchlib.progress import progress_bar
from patchlib.tasks.base import PatchingDataset, as_pairs
from patchlib.tasks.pairs import PromptPairs


def baseline(
    model: TransformerBridge,
    task: PatchingDataset | PromptPairs,
    metric: str | MetricFunction | Sequence[str | MetricFunction] | None = None,
    *,
    batch_tokens: int | None = None,
) -> xr.Dataset:
    """The two unpatched forwards alone, for ``stats.contrast`` to say whether the task gives a contrast.

    Args:
        model: As for ``sweep``.
        task: As for ``sweep``.
        metric: As for ``sweep``.
        batch_tokens: As for ``sweep``.

    Returns:
        ``clean`` and ``corrupted``, dims ``metric`` and ``example``, in the metric's units (nats for the logit
        difference), with the coordinates and attributes of ``sweep``.

    Raises:
        SweepError: Unknown metric, a model in train mode, NaN logits.
        TaskError: The task's prompts or answers are unusable.

    Example:
        Swapping the second subject turns the answer around in each prompt:

        >>> unpatched = patchlib.baseline(model, task, metric=["logit_diff", "accuracy"])
        >>> unpatched.clean.sel(metric="accuracy").values
        array([1., 1., 1., 1.], dtype=float32)
        >>> unpatched.corrupted.sel(metric="accuracy").values
        array([0., 0., 0., 0.], dtype=float32)
    """
    check_model(model)
    pairs = as_pairs(model, task)
    how = HowToRun(check_batch_tokens(model, batch_tokens), why_plain="nothing is patched")
    nothing = Grid(get_site(model, "resid_pre"), values={}, layers=[])
    experiment = Experiment(model, pairs, nothing, Donors("denoise"), resolve_metrics(metric, pairs), how)
    result = experiment.empty_result().drop_vars("patched")
    for examples in example_batches(pairs, how.batch_tokens):
        experiment.read_unpatched(experiment.start_forwards(examples), examples, result)
    return result


def sweep(
    model: TransformerBridge,
    task: PatchingDataset | PromptPairs,
    site: str = "resid_pre",
    over: Sequence[str] = ("layer", "pos"),
    direction: Literal["denoise", "noise"] = "denoise",
    metric: str | MetricFunction | Sequence[str | MetricFunction] | None = None,
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

    Denoising puts the clean activation into the corrupted forward pass: a large effect says that the cell is
    *sufficient* to restore the behaviour. Noising puts the corrupted activation into the clean forward pass: a
    large effect says that it is *necessary*. They are not mirror images (Heimersheim and Nanda 2024, "How to use
    and interpret activation patching", section 2). The method is that of Vig et al. 2020 and Meng et al. 2022.

    Args:
        model: From ``load_model``; any TransformerLens bridge in eval mode.
        task: A ``PatchingDataset`` or ``PromptPairs``.
        site: What is patched, a name in ``patchlib.SITES``.
        over: The axes of the grid: any of ``"layer"``, ``"head"`` (for k and v of a grouped-query model:
            ``"kv_head"``) and one of ``"pos"`` (token index) or ``"role"`` (the task's named positions). An
            axis left out is patched whole: ``("layer", "head")`` patches a head at all positions, and ``("role",)``
            a position in all ``layers`` together. For ``pattern`` the position is ``dest``, the query's.
        direction: ``"denoise"`` or ``"noise"``.
        metric: ``"logit_diff"``, ``"prob"``, ``"kl"``, ``"accuracy"``, ``"task_metric"`` or a function
            ``(logits[example pos d_vocab], pairs) -> [example]``; several at once cost no more than one. None: the
            task's own ``compute_metric`` where it has one, else the logit difference.
        layers, heads: Which ones; all when None.
        positions: Token indices or roles. With ``"pos"`` or ``"role"`` in ``over``, the ones to sweep;
            without, the ones that every cell patches.
        source: What is written in: ``"other"`` the activation of the other prompt of the pair, ``"zero"`` zeros,
            ``"mean"`` the mean over ``reference``'s clean prompts of the same length, position by position,
            ``"resample"`` the activation of one of them, drawn for each prompt. The last three are ablations:
            use ``direction="noise"``, which ablates the clean prompts. Zeros are the least defensible, since no prompt
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
        ``corrupted`` (the metric per prompt, in its own units: nats for the logit difference) and ``effect``
        (``patchlib.stats.effect``, a fraction: 0 nothing moved, 1 all of it). Coordinates carry
        prompts, answers and token labels, attributes what is needed to repeat the sweep. Prompts without a
        swept position are NaN there.

    Raises:
        SweepError: Unknown site, axis, direction, metric, source or engine, indices out of range, a model in
            train mode, NaN logits, a checkpoint of another sweep.
        TaskError: The task's prompts or answers are unusable.
        ExactnessError: Fast and plain disagree.

    Warns:
        ContrastWarning: Clean and corrupted hardly differ; effects are NaN.

    Example:
        Which of two heads restores the answer, when its output comes from the clean prompts?

        >>> result = patchlib.sweep(model, task, "z", ("layer", "head"), layers=[20], heads=[0, 1], progress=False)
        >>> result.patched.dims
        ('metric', 'layer', 'head', 'example')
        >>> result.effect.sel(metric="logit_diff", layer=20).values.round(2)
        array([0.36, 0.01], dtype=float32)
    """
    check_model(model)
    pairs = as_pairs(model, task)
    grid = resolve_grid(model, pairs, site, over, layers, heads, positions)
    donors = resolve_donors(model, pairs, direction, source, reference, source_seed)
    metrics = resolve_metrics(metric, pairs)
    how = resolve_how(model, engine, batch_tokens, checkpoint, progress)
    return patch_grid(Experiment(model, pairs, grid, donors, metrics, how))


def patch_grid(experiment: Experiment) -> xr.Dataset:
    """Every cell of an experiment's grid patched, beside the two unpatched forwards: what ``sweep`` returns."""
    pairs, grid, how = experiment.pairs, experiment.grid, experiment.how
    direction, (base, _) = experiment.donors.direction, experiment.donors.base_and_other
    result = experiment.empty_result().assign_attrs(experiment.attributes())
    patched = result.patched.values  # written in place: [metric *axes example]
    batches = list(example_batches(pairs, how.batch_tokens))
    # One batch of prompts, always the same one, has some of its cells computed the plain way too.
    checked = random.Random(0).randrange(len(batches)) if how.why_plain is None else None
    n_cells = math.prod(grid.shape)
    with (
        open_checkpoint(how.checkpoint, experiment, result) as finished,
        progress_bar(len(pairs) * n_cells, f"{direction} {grid.site.name}", how.progress) as bar,
    ):
        for number, examples in enumerate(batches):
            forwards = experiment.start_forwards(examples)
            readout = experiment.read_unpatched(forwards, examples, result)
            unpatched = result[base].values[:, examples]  # [metric example]
            cells = []
            for cell in grid.cells(pairs.select(examples)):
                saved = finished.get(cell, examples)
                # Without a forward: what was done before, and what a patch gives that changes nothing.
                patched[_indexer(cell, examples)] = unpatched if saved is None else saved
                if saved is None:
                    cells.append(cell)
            start_plain = partial(experiment.start_forwards, plain=True)
            check = SelfCheck(start_plain, examples, forwards, cells) if number == checked else None
            n_done = 0
            for batch, logits in patch_cells(forwards, cells, how.batch_tokens):
                origin = f"a {direction} forward pass, patched at {grid.site.name} from layer {batch[0].layers[0]} on"
                values = readout(logits, origin).numpy()
                for i, cell in enumerate(batch):
                    patched[_indexer(cell, examples)] = values[:, i]
                    if check:
                        check.saw(cell, logits[i])
                finished.add(batch, examples, values)
                bar.update(len(batch) * len(examples))
                n_done += len(batch) * len(examples)
            if check:
                check.compare()
            bar.update(n_cells * len(examples) - n_done)  # cells that needed no forward

    _warn_of_contrast(result)
    return result.assign(effect=stats.effect(result))


def _indexer(cell: Cell, examples: list[int]) -> Any:
    return (slice(None), *cell.index, examples)  # [metric *axes example]


def _warn_of_contrast(result: xr.Dataset) -> None:
    turned_around = stats.contrast(result.rename(clean="corrupted", corrupted="clean"))
    table = stats.contrast(result).assign(is_swapped=turned_around.usable)
    for metric, row in table[~table.usable].iterrows():
        spread = f" with a spread of {row.spread:.2g}" if row.n > 1 else ""
        mend = "Choose a corruption that changes the answer (for IOI: corruption='swap_subject')."
        if row.is_swapped:
            mend = "The corrupted prompts come out above the clean ones: are the right and the wrong answers swapped?"
        warnings.warn(
            f"{metric} gives no usable contrast: {row.clean:.3g} on clean and {row.corrupted:.3g} on corrupted "
            f"prompts, a difference of {row.difference:.2g}{spread} (n = {row.n:.0f}). Effects are NaN, because "
            f"dividing by it would {'turn every sign around' if row.is_swapped else 'give noise'}. {mend}",
            ContrastWarning,
            stacklevel=4,
        )
