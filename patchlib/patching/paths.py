"""Path patching: what a head passes on directly, to the logits or to the inputs of other heads."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from patchlib.models.check import check_model
from patchlib.patching.donors import resolve_donors
from patchlib.patching.experiment import Engine, Experiment, resolve_how
from patchlib.patching.grid import resolve_grid
from patchlib.patching.metrics import MetricFunction, resolve_metrics
from patchlib.patching.receivers import Receiver, check_receivers
from patchlib.patching.sweeps import patch_grid
from patchlib.tasks.base import PatchingDataset, as_pairs
from patchlib.tasks.pairs import PromptPairs


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
        engine, batch_tokens, checkpoint, progress: As for ``sweep``.

    Returns:
        As ``sweep``, with the attribute ``receivers``. Senders that cannot reach any receiver have effect 0.

    Raises:
        SweepError: As ``sweep``, and for receivers that the model or the task does not have.
        TaskError, ExactnessError: As ``sweep``.

    Warns:
        ContrastWarning: As ``sweep``.

    Example:
        Two heads with a large effect in a sweep. L23H3 writes to the logits directly; L20H0 does not, and so has to
        work through later heads:

        >>> direct = patchlib.path_patch(model, task, "logits", layers=[20, 23], heads=[0, 3], progress=False)
        >>> effect = direct.effect.sel(metric="logit_diff")
        >>> round(effect.sel(layer=20, head=0).item(), 2), round(effect.sel(layer=23, head=3).item(), 2)
        (0.01, 0.59)
    """
    check_model(model)
    pairs = as_pairs(model, task)
    grid = resolve_grid(model, pairs, "z", over, layers, heads, positions)
    donors = resolve_donors(model, pairs, direction, source, reference, source_seed)
    metrics = resolve_metrics(metric, pairs)
    how = resolve_how(model, engine, batch_tokens, checkpoint, progress)
    return patch_grid(Experiment(model, pairs, grid, donors, metrics, how, check_receivers(model, pairs, receivers)))
