"""Which cells to patch, everywhere or along direct paths, read by which metrics -> one labelled result."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Literal

import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_choice, check_number
from patchlib.patching.attribution.prefilter import prefiltered
from patchlib.patching.budget import check_batch_tokens
from patchlib.patching.donors import Donors, resolve_donors
from patchlib.patching.experiment import Engine, Experiment, HowToRun, resolve_how
from patchlib.patching.grid import Grid, resolve_grid
from patchlib.patching.metrics import resolve_metrics
from patchlib.patching.own_metrics import MetricFunction
from patchlib.patching.parts import Part, start
from patchlib.patching.receivers import Receiver, check_receivers
from patchlib.patching.sequences import Sequences, log_prob
from patchlib.patching.sites import get_site
from patchlib.tasks.base import PatchingDataset, as_pairs
from patchlib.tasks.pairs import PromptPairs

SOURCE_WITHOUT_DONORS = {"other": None, "zero": None}
"""Sources that no other prompt of the same length is needed for."""


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
    pairs = as_pairs(model, task)
    how = HowToRun(check_batch_tokens(model, batch_tokens), why_plain="nothing is patched")
    nothing = Grid(get_site(model, "resid_pre"), values={}, layers=[])
    if sequences := Sequences.of(pairs, metric):
        forced = sequences.forced()
        metrics = resolve_metrics(log_prob, forced)
        result = unpatched_alone(Experiment(model, forced, nothing, Donors("denoise"), metrics, how))
        return sequences.folded(result, model)
    return unpatched_alone(Experiment(model, pairs, nothing, Donors("denoise"), resolve_metrics(metric, pairs), how))


def unpatched_alone(experiment: Experiment) -> xr.Dataset:
    """The metrics of an experiment's two unpatched forwards."""
    result = experiment.empty_result().drop_vars("patched")
    for examples in experiment.example_batches():
        unpatched = start(experiment, Part(examples))[-1]
        result.clean.values[:, examples], result.corrupted.values[:, examples] = unpatched.clean, unpatched.corrupted
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
    neurons: Sequence[int] | int | None = None,
    positions: Sequence[int | str] | int | str | None = None,
    source: Literal["other", "zero", "mean", "resample"] = "other",
    reference: PatchingDataset | PromptPairs | None = None,
    source_seed: int = 0,
    engine: Engine = "auto",
    batch_tokens: int | None = None,
    checkpoint: str | Path | None = None,
    progress: bool | Callable[[int, int], None] = True,
    executor: Executor | None = None,
    prefilter: Literal["attribution"] | None = None,
    least_effect: float = 0.05,
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
            ``"kv_head"``) or ``"neuron"`` (of ``post``), and one of ``"pos"`` (token index) or ``"role"`` (the task's
            named positions). An axis left out is patched whole: ``("layer", "head")`` patches a head at all positions,
            and ``("role",)`` a position in all ``layers`` together. For ``pattern`` the position is ``dest``, the
            query's. ``embed`` and ``final`` are there once, and have no layers. The site ``v`` of a grouped-query model
            is that of a group; ``head_v`` patches the values for one head alone: its pattern times the other values.
        direction: ``"denoise"`` or ``"noise"``.
        metric: ``"logit_diff"``, ``"prob"``, ``"prob_diff"``, ``"kl"``, ``"accuracy"``, ``"task_metric"`` or a function
            ``(logits[example pos d_vocab], pairs) -> [example]``; several at once cost no more than one. A function
            gets some of the prompts at a time, and finds what belongs to them in ``pairs.answers``, or in data of
            yours as ``data[pairs.index]``; one that reads the last position alone is faster as
            ``patchlib.at_last_position``. None: the task's own ``compute_metric`` where it has one, else the logit
            difference. Of a task's sets of answers the first three read the sums of probabilities; of answers of
            several tokens, the product over their steps, each token given those before it.
        layers, heads, neurons: Which ones; all when None, in hybrid models all layers that have the site.
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
            one with other inputs is refused: other prompts, weights or settings, or a metric whose code, defaults,
            closure, globals or state are others.
        progress: Show a bar; or a function that is told ``(done, total)`` after each batch, and may raise to stop.
        executor: Any ``concurrent.futures.Executor`` whose workers have patchlib, such as a ``ProcessPoolExecutor`` or
            Dask's ``client.get_executor()``: it runs the sweep's parts, some cells of some prompts each. A worker
            loads the model by its name and proves the hash of its weights. The numbers are those of one process, to
            the bit on machines of one kind; the attribute ``executor`` says how they were made. With ``checkpoint`` a
            sweep that lost a worker goes on from what came back.
        prefilter: ``"attribution"``: patch only cells that an estimate (``attribute``) cannot rule out, with a margin
            that 48 cells, patched first, show to be needed. The others are NaN; the variable ``estimate`` has the
            estimated effects of all, and the attribute ``prefilter`` says what was left out and by which margin.
        least_effect: Of ``prefilter``: a cell is ruled out where its effect is smaller in size, a fraction.

    Returns:
        Dims ``metric``, the axes of ``over`` in their order, ``example``. Variables ``patched``, ``clean``,
        ``corrupted`` (the metric per prompt, in its own units: nats for the logit difference) and ``effect``
        (``patchlib.stats.effect``, a fraction: 0 nothing moved, 1 all of it). Coordinates carry
        prompts, answers and token labels, attributes what is needed to repeat the sweep. Prompts without a
        swept position are NaN there.

    Raises:
        SweepError: Unknown site, axis, direction, metric, source or engine, indices out of range, a model in
            train mode or with hooks left on it, NaN logits, a metric that fails or goes by a prompt's place in the
            batch, a checkpoint of another sweep or one that cannot be written, a worker that was lost or failed.
        TaskError: The task's prompts or answers are unusable.
        ExactnessError: Fast and plain disagree.

    Warns:
        ContrastWarning: The contrast is not usable (``contrast`` says why); effects are NaN.
        EngineWarning: Once for a model that takes plain forwards, which are slower; it says why.

    Example:
        Which of two heads restores the answer, when its output comes from the clean prompts?

        >>> result = patchlib.sweep(model, task, "z", ("layer", "head"), layers=[20], heads=[0, 1], progress=False)
        >>> result.patched.dims
        ('metric', 'layer', 'head', 'example')
        >>> result.effect.sel(metric="logit_diff", layer=20).values.round(2)
        array([0.36, 0.01], dtype=float32)

        The values are shared by three heads of this model. Which part of their effect is this head's?

        >>> over = ("layer", "head")
        >>> for site in ("v", "head_v"):
        ...     result = patchlib.sweep(model, task, site, over, layers=[20], heads=[0], progress=False)
        ...     print(site, round(result.effect.item(), 2))
        v 0.34
        head_v 0.31
    """
    pairs = as_pairs(model, task)
    settings = {"reference": reference, "prefilter": prefilter}
    if sequences := Sequences.of(pairs, metric, source=SOURCE_WITHOUT_DONORS.get(source, source), **settings):
        positions, pairs, metric = sequences.positions(over, positions), sequences.forced(), log_prob
    grid = resolve_grid(model, pairs, site, over, layers, heads, neurons, positions)
    donors = resolve_donors(model, pairs, direction, source, reference, source_seed)
    metrics = resolve_metrics(metric, pairs)
    how = resolve_how(model, pairs, engine, batch_tokens, checkpoint, progress, executor)
    return _run(Experiment(model, pairs, grid, donors, metrics, how), prefilter, least_effect, sequences)


def path_patch(
    model: TransformerBridge,
    task: PatchingDataset | PromptPairs,
    receivers: Literal["logits"] | Sequence[Receiver] = "logits",
    over: Sequence[str] = ("layer", "head"),
    direction: Literal["denoise", "noise"] = "noise",
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
    executor: Executor | None = None,
    prefilter: Literal["attribution"] | None = None,
    least_effect: float = 0.05,
) -> xr.Dataset:
    """Patch each head's direct paths to some receivers, one sender at a time (Wang et al. 2022, section 3.1).

    The algorithm is that of appendix B: (1) run both prompts; (2) run the base prompt with the sender's output
    patched and every other head frozen at its base output, while MLPs and norms are computed anew, and keep what
    then arrives at the receivers; (3) run the base prompt with the receivers' inputs set to that and all else free.
    With the logits as the receiver, step 2 ends in them. The paths of a sender are thus those that pass no other
    head: straight along the residual stream or through MLPs.

    Args:
        model: As for ``sweep``.
        task: As for ``sweep``.
        receivers: ``"logits"``, or inputs of heads that receive together (``inputs_of``).
        over: As for ``sweep``: of the senders. A position axis is that of the sender's output.
        direction: ``"noise"`` as in the paper: the clean forward pass with the sender's output from the corrupted one.
        metric, layers, heads, positions, source, reference, source_seed: As for ``sweep``, of the senders.
        engine, batch_tokens, checkpoint, progress, executor: As for ``sweep``.
        prefilter, least_effect: As for ``sweep``. The estimate is the gradient along direct paths: with all heads
            frozen one backward gives it for all senders.

    Returns:
        As ``sweep``, with the attribute ``receivers``. Senders that cannot reach any receiver have effect 0.

    Raises:
        SweepError: As ``sweep``, and for receivers that the model or the task does not have.
        TaskError, ExactnessError: As ``sweep``.

    Warns:
        ContrastWarning, EngineWarning: As ``sweep``.

    Example:
        Two heads with a large effect in a sweep. L23H3 writes to the logits directly; L20H0 does not, and so has to
        work through later heads:

        >>> direct = patchlib.path_patch(model, task, "logits", layers=[20, 23], heads=[0, 3], progress=False)
        >>> effect = direct.effect.sel(metric="logit_diff")
        >>> round(effect.sel(layer=20, head=0).item(), 2), round(effect.sel(layer=23, head=3).item(), 2)
        (0.01, 0.59)
    """
    pairs = as_pairs(model, task)
    settings = {"reference": reference, "prefilter": prefilter}
    if sequences := Sequences.of(pairs, metric, source=SOURCE_WITHOUT_DONORS.get(source, source), **settings):
        positions, pairs, metric = sequences.positions(over, positions), sequences.forced(), log_prob
    get_site(model, "z", range(int(model.cfg.n_layers)))  # what is not frozen would carry paths that are not direct
    grid = resolve_grid(model, pairs, "z", over, layers, heads, None, positions)
    donors = resolve_donors(model, pairs, direction, source, reference, source_seed)
    metrics = resolve_metrics(metric, pairs)
    how = resolve_how(model, pairs, engine, batch_tokens, checkpoint, progress, executor)
    experiment = Experiment(model, pairs, grid, donors, metrics, how, check_receivers(model, pairs, receivers))
    return _run(experiment, prefilter, least_effect, sequences)


def _run(experiment: Experiment, prefilter: str | None, least_effect: float, sequences: Sequences | None) -> xr.Dataset:
    """All cells, or those that an estimate cannot rule out."""
    if sequences is not None:
        return sequences.run(experiment)
    if prefilter is None:
        return experiment.run()
    check_choice("prefilter", prefilter, ("attribution",))
    return prefiltered(experiment, check_number("least_effect", least_effect, 0))
