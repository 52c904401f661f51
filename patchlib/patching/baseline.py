"""The two unpatched forwards of a task: does it give a contrast at all?"""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from patchlib.models.check import check_model
from patchlib.patching.batching import example_batches
from patchlib.patching.budget import check_batch_tokens
from patchlib.patching.donors import Donors
from patchlib.patching.experiment import Experiment, HowToRun
from patchlib.patching.grid import Grid
from patchlib.patching.metrics import MetricFunction, resolve_metrics
from patchlib.patching.sites import get_site
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
        _, unpatched = experiment.read_unpatched(experiment.start_forwards(examples), examples)
        for prompts, values in unpatched.items():
            result[prompts].values[:, examples] = values
    return result
