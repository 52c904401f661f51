"""The two unpatched runs of a task: what they give, and how a sweep starts from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np
import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from patchlib.errors import SweepError
from patchlib.patching.budget import default_batch_tokens
from patchlib.patching.donors import Donors
from patchlib.patching.engine import PatchedRuns
from patchlib.patching.labels import labels, provenance
from patchlib.patching.metrics import Readout, Reads, resolve_metrics
from patchlib.patching.sites import Site, get_site
from patchlib.tasks.base import PatchingDataset, PromptPairs, as_pairs

FULL = 4
"""Examples with which a forward of a few cells is worth its fixed cost, on a CPU."""


def baseline(
    model: TransformerBridge,
    task: PatchingDataset | PromptPairs,
    metric: str | Callable | Sequence[str | Callable] | None = None,
    *,
    batch_tokens: int | None = None,
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
    check_model(model)
    batch_tokens = default_batch_tokens(model) if batch_tokens is None else batch_tokens
    pairs = as_pairs(model, task)
    metrics = resolve_metrics(metric, pairs.compute_metric is not None)
    found, site, reads = no_values(metrics, pairs), get_site(model, "resid_pre"), Reads.of(metrics, pairs)
    for examples in example_batches(pairs, batch_tokens):
        runs = start_runs(model, site, "denoise", [], reads, pairs, Donors(), batch_tokens, examples, fast=False)
        read_unpatched(metrics, pairs.select(examples), runs, "denoise", found, examples)
    return xr.Dataset(
        {run: (("metric", "example"), values) for run, values in found.items()},
        coords={"metric": list(metrics), **labels(model, pairs, {})},
        attrs=provenance(model, pairs),
    )


def check_model(model: TransformerBridge) -> None:
    """SweepError unless this is a model that patching makes sense for."""
    if not isinstance(model, TransformerBridge):
        raise SweepError(f"The model is a {type(model).__name__}; patchlib.load_model(name) gives one to patch.")
    if any(module.training for module in model.modules()):
        raise SweepError("The model is in train mode, where dropout makes runs random. Call model.eval() first.")


def no_values(metrics: Mapping[str, Callable], pairs: PromptPairs) -> dict[str, np.ndarray]:
    """NaN for every metric and prompt of the two runs."""
    return {run: np.full((len(metrics), len(pairs)), np.nan, dtype=np.float32) for run in ("clean", "corrupted")}


def read_unpatched(
    metrics: Mapping[str, Callable],
    pairs: PromptPairs,
    runs: PatchedRuns,
    direction: str,
    found: dict[str, np.ndarray],
    examples: list[int],
) -> Readout:
    """Write the metrics of the clean and the corrupted run into ``found``; return what reads patched runs."""
    logits = {"corrupted": runs.base_logits, "clean": runs.other_logits}
    if direction == "noise":
        logits = {"corrupted": runs.other_logits, "clean": runs.base_logits}
    read = Readout(metrics, pairs, logits["clean"], runs.reads.vocab)
    for name, values in found.items():
        values[:, examples] = read(logits[name][None], f"the {name} run")[:, 0]
    return read


def example_batches(pairs: PromptPairs, batch_tokens: int) -> Iterator[list[int]]:
    """Pairs of one length, a memory-sized number at a time.

    Those that part at one position go together, so that none is computed from an earlier position than it has to be;
    and with those that part next, where they are too few to fill a forward.
    """
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, (clean, corrupted) in enumerate(zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True)):
        alike[len(clean), int((clean != corrupted).nonzero()[0])].append(i)
    for n_pos, group in groupby(sorted(alike.items()), key=lambda item: item[0][0]):
        size = max(1, batch_tokens // (2 * n_pos))  # the base and the other run are one forward
        together: list[int] = []
        for _, examples in group:
            if len(together) >= FULL:
                yield from _split(together, size)
                together = []
            together += examples
        yield from _split(together, size)


def length_batches(pairs: PromptPairs, batch_tokens: int) -> Iterator[list[int]]:
    """Pairs of one length, as many at a time as fit into one forward, wherever they part."""
    for bucket in pairs.buckets():
        yield from _split(bucket.tolist(), max(1, batch_tokens // len(pairs.clean_tokens[int(bucket[0])])))


def _split(examples: list[int], size: int) -> Iterator[list[int]]:
    for first in range(0, len(examples), size):
        yield examples[first : first + size]


def start_runs(
    model: TransformerBridge,
    site: Site,
    direction: str,
    layers: Sequence[int],
    reads: Reads,
    pairs: PromptPairs,
    donors: Donors,
    batch_tokens: int,
    examples: list[int],
    *,
    fast: bool,
    kind: Callable[[PromptPairs], Callable[..., PatchedRuns]] = lambda part: PatchedRuns,
) -> PatchedRuns:
    """The runs of some examples (of one length), ready to be patched; ``kind`` says how, given those examples."""
    part = pairs.select(examples)
    base, other = part.corrupted_batch(), part.clean_batch()
    if direction == "noise":
        base, other = other, base
    rows = donors.of(examples, base.shape[1])
    return kind(part)(
        model, site, base, other, layers,
        source=donors.source, donors=rows, fast=fast, reads=reads, batch_tokens=batch_tokens,
    )  # fmt: skip
