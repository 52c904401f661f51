"""Path patching: what a head passes on directly, to the logits or to the inputs of other heads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.patching import get_act_patch_direct_path

from patchlib import stats
from patchlib.errors import SweepError
from patchlib.patching.metrics import Readout, resolve_metrics
from patchlib.patching.path_engine import PathRuns, Receiver
from patchlib.patching.sites import SITES, get_site
from patchlib.patching.sweeps import Engine, patch_grid
from patchlib.patching.unpatched import baseline
from patchlib.tasks.base import PatchingDataset, PromptPairs, as_pairs


def inputs_of(
    model: TransformerBridge, heads: Iterable[tuple[int, int]], site: str, position: int | str | None = None
) -> list[Receiver]:
    """The queries, keys or values of some heads, each once: heads of one group share their keys and values.

    Args:
        model: Its grouping of q heads into k/v heads.
        heads: (layer, head), counted in q heads.
        site: ``"q"``, ``"k"`` or ``"v"``.
        position: A role of the task or a token index; all positions when None.

    Raises:
        SweepError: Another site.
    """
    if site not in ("q", "k", "v"):
        raise SweepError(f"A head receives at 'q', 'k' or 'v', not at {site!r}.")
    group = int(model.cfg.n_heads) // SITES[site].n_heads(model)
    return [Receiver(site, layer, head, position) for layer, head in sorted({(i, h // group) for i, h in heads})]


def path_patch(
    model: TransformerBridge,
    task: PatchingDataset | PromptPairs,
    receivers: Literal["logits"] | Sequence[Receiver] = "logits",
    over: Sequence[str] = ("layer", "head"),
    direction: Literal["denoise", "noise"] = "noise",
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
    """Patch each head's direct paths to some receivers, one sender at a time (Wang et al. 2022, section 3.1).

    The algorithm is that of appendix B: (1) run both prompts; (2) run the base prompt with the sender's output
    patched and every other head frozen at its base output, while MLPs and norms are computed anew, and keep what
    then arrives at the receivers; (3) run the base prompt with the receivers' inputs set to that and all else free.
    With the logits as the receiver, step 2 ends in them. The paths of a sender are thus those that pass no other
    head: straight along the residual stream or through MLPs.

    ``direct_paths`` is TransformerLens' variant, which freezes the MLPs too.

    Args:
        model: As for ``sweep``.
        task: As for ``sweep``.
        receivers: ``"logits"``, or inputs of heads that receive together (``inputs_of``).
        over: As for ``sweep``: of the senders. A position axis is that of the sender's output.
        direction: ``"noise"`` as in the paper: the clean run with the sender's output from the corrupted one.
        metric, layers, heads, positions, source, reference, source_seed: As for ``sweep``, of the senders.
        engine, batch_tokens, checkpoint, progress: As for ``sweep``.

    Returns:
        As ``sweep``, with the attribute ``receivers``. Senders that cannot reach any receiver have effect 0.

    Raises:
        SweepError: As ``sweep``, and for receivers that the model or the task does not have.
        TaskError, ExactnessError: As ``sweep``.

    Warns:
        ContrastWarning: As ``sweep``.
    """
    pairs = as_pairs(model, task)
    checked = _check(model, pairs, receivers)
    return patch_grid(
        model, pairs, "z", over, direction, metric, layers=layers, heads=heads, positions=positions, source=source,
        reference=reference, source_seed=source_seed, engine=engine, batch_tokens=batch_tokens,
        checkpoint=checkpoint, progress=progress,
        kind=lambda part: partial(PathRuns, receivers=checked, pairs=part),
        about={"receivers": ", ".join(map(str, checked)) or "logits"},
    )  # fmt: skip


def _check(
    model: TransformerBridge, pairs: PromptPairs, receivers: Literal["logits"] | Sequence[Receiver]
) -> list[Receiver]:
    """The receivers that were asked for, none standing for the logits."""
    if isinstance(receivers, str):
        if receivers != "logits":
            raise SweepError(
                f"Unknown receivers {receivers!r}: give 'logits' or patchlib.inputs_of(model, heads, site)."
            )
        return []
    asked = list(receivers)
    if not asked:
        raise SweepError("No receivers were given: give 'logits' or patchlib.inputs_of(model, heads, site).")
    for one in asked:
        if not isinstance(one, Receiver) or one.site not in ("q", "k", "v"):
            raise SweepError(f"{one!r} is no receiver: patchlib.inputs_of(model, heads, 'q') makes them.")
        n_layers, n_heads = int(model.cfg.n_layers), get_site(model, one.site).n_heads(model)
        if not 0 <= one.layer < n_layers or not 0 <= one.head < n_heads:
            raise SweepError(f"There is no {one}: the model has {n_layers} layers and {n_heads} heads for {one.site}.")
        if isinstance(one.position, str) and one.position not in pairs.roles:
            raise SweepError(f"Unknown position in {one}: this task names {', '.join(pairs.roles) or 'no positions'}.")
    return asked


def direct_paths(
    model: TransformerBridge,
    task: PatchingDataset | PromptPairs,
    sender: tuple[int, int],
    site: Literal["q", "k", "v"] = "q",
    direction: Literal["denoise", "noise"] = "noise",
    metric: str | Callable | Sequence[str | Callable] | None = None,
) -> xr.Dataset:
    """TransformerLens' direct path patching: from one head to the input of every later head, one at a time.

    It differs from ``path_patch`` in two ways. MLPs are frozen as well as heads, so that only the edge along the
    residual stream is patched and not what MLPs make of it. And it asks of one sender who hears it, not of some
    receivers whom they hear. Each receiver is a whole forward of ``patching.get_act_patch_direct_path``.

    Args:
        model: As for ``sweep``.
        task: As for ``sweep``.
        sender: (layer, head).
        site: The input of the receiving heads; k and v not in grouped-query models.
        direction: As for ``path_patch``.
        metric: As for ``sweep``.

    Returns:
        As ``sweep`` over layer and head of the receiver; NaN up to the sender's own layer.

    Raises:
        SweepError: As ``sweep``; a sender that there is not; an architecture that TransformerLens refuses here.
        TaskError: As ``sweep``.
    """
    pairs = as_pairs(model, task)
    result = baseline(model, pairs, metric)
    layer, head = sender
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    if not 0 <= layer < n_layers or not 0 <= head < n_heads:
        raise SweepError(f"There is no head {sender}: the model has {n_layers} layers of {n_heads} heads.")
    metrics = resolve_metrics(metric, pairs.compute_metric is not None)
    patched = np.full((len(metrics), n_layers, n_heads, len(pairs)), np.nan, dtype=np.float32)
    for examples in pairs.buckets():
        part = pairs.select(examples)
        clean, corrupted = part.clean_batch(), part.corrupted_batch()
        base, other = (corrupted, clean) if direction == "denoise" else (clean, corrupted)
        found: list[Tensor] = []
        with torch.no_grad():
            read = Readout(metrics, part, model(clean).float())

            def keep(logits: Tensor, read: Readout = read, found: list[Tensor] = found) -> Tensor:
                found.append(read(logits.float()[None], f"a direct path from L{layer}H{head}")[:, 0])
                return found[-1].mean()

            z_only = [SITES["z"].hook_name(layer)]
            _, base_cache = model.run_with_cache(base, names_filter=z_only)
            _, other_cache = model.run_with_cache(other, names_filter=z_only)
            try:
                get_act_patch_direct_path(
                    model, base, other_cache, base_cache, keep, layer, head, component=site, verbose=False
                )
            except (ValueError, NotImplementedError) as error:
                raise SweepError(f"TransformerLens cannot patch direct paths here: {error}") from error
        if found:
            later = torch.stack(found, dim=1).unflatten(1, (-1, n_heads))  # [metric layer head example]
            patched[:, layer + 1 :, :, examples] = later.numpy()
    result = result.assign(patched=(("metric", "layer", "head", "example"), patched))
    result = result.assign_coords(layer=range(n_layers), head=range(n_heads))
    result.attrs |= {"site": site, "direction": direction, "sender": f"L{layer}H{head}", "positions": "all"}
    return result.assign(effect=stats.effect(result))
