"""A subspace of a state from the other prompt, the rest from its own: thin, on TransformerLens' ``interchange``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis import interchange

from patchlib import stats
from patchlib._util import check_flag, check_kind, check_seed, check_text, shown
from patchlib.errors import SweepError
from patchlib.patching.bases import Basis
from patchlib.patching.budget import check_batch_tokens
from patchlib.patching.donors import Donors
from patchlib.patching.experiment import Experiment, HowToRun, warn_of_contrast
from patchlib.patching.grid import Grid
from patchlib.patching.metrics import Readout, Reads, resolve_metrics
from patchlib.patching.own_metrics import MetricFunction
from patchlib.patching.states import one_position, plain_logits, prompts_at_once, reader_of, rows_of, states_at
from patchlib.tasks.base import Task

WHOLE, PLACEBO = "whole state", ", placebo"
"""What the controls are called; the latter behind the name of its basis."""
ORTHONORMAL = 1e-3


def patch_subspace(
    model: TransformerBridge,
    task: Task,
    bases: Basis | Mapping[str, Basis],
    layer: int,
    position: int | str,
    site: str = "resid_pre",
    direction: Literal["denoise", "noise"] = "denoise",
    metric: str | MetricFunction | Sequence[str | MetricFunction] | None = None,
    *,
    controls: bool = True,
    seed: int = 0,
    batch_tokens: int | None = None,
) -> xr.Dataset:
    """Patch a subspace of one position's state: inside it the other prompt's, outside it the prompt's own.

    ``h + (h_other - h) B B^T`` for an orthonormal basis ``B`` (Geiger et al. 2024, "Finding alignments between
    interpretable causal variables and distributed neural representations"), as TransformerLens' ``interchange`` has it.
    An effect does not show that the model uses the subspace: one that holds a direction in which the two prompts
    differ, but which nothing reads, and one that has an effect, but in which prompts never differ, carries the first
    into the second, and so makes up an effect that no prompt has (Makelov, Lange and Nanda 2023, "Is this the subspace
    you are looking for? An interpretability illusion for subspace activation patching", arXiv 2311.17030). A learned
    basis finds such pairs. Look at ``share``, at the placebo, at bases that prompts' own differences give, and at other
    prompts than those that the basis was fitted on.

    Args:
        model: As for ``sweep``.
        task: As for ``sweep``.
        bases: Orthonormal columns, such as ``fit_basis`` gives; or several by name.
        layer: Of the state.
        position: Of the state: a token index, or a role.
        site: ``"resid_pre"``, ``"resid_post"``, ``"attn_out"`` or ``"mlp_out"``.
        direction, metric, batch_tokens: As for ``sweep``.
        controls: Add the whole state, which is an ordinary patch, and for each basis a placebo: as long a step, from
            the same state, in a random subspace of the same rank.
        seed: Of the placebos.

    Returns:
        As ``sweep``, over the axis ``basis``; with ``rank`` of each and, over ``basis`` and ``example``, ``share``: how
        much of the squared distance between the two states lies in the subspace (for a random one about
        rank / d_model).

    Raises:
        SweepError: A basis that is not orthonormal or of another width, a layer, position or site that there is not.
        TaskError: The task's prompts or answers are unusable.

    Warns:
        ContrastWarning: As ``sweep``.

    Example:
        At the end of the prompt, the directions in which the clean states differ from the corrupted ones:

        >>> basis = patchlib.fit_basis(model, task, layer=24, position="END", kind="pca", rank=2)
        >>> result = patchlib.patch_subspace(model, task, {"two": basis}, layer=24, position="END")
        >>> for name, effect, share in zip(result.basis.values, result.effect[0], result.share.mean("example")):
        ...     print(f"{name}: effect {effect:.2f}, share {share:.2f}")
        whole state: effect 0.85, share 1.00
        two: effect 0.44, share 0.61
        two, placebo: effect 0.09, share 0.00
    """
    pairs, place, where = one_position(model, task, layer, position, site, direction)
    named = {"subspace": bases} if isinstance(bases, Tensor | np.ndarray) else bases
    check_kind("bases", named, Mapping, "give a tensor [d_model, rank], or {name: tensor}")
    if not named:
        raise SweepError("There is no basis to patch: the mapping of names to bases is empty.")
    width = int(model.cfg.d_model)
    checked = {check_text("A basis's name", name): _basis(name, basis, width) for name, basis in named.items()}
    seed = check_seed(seed)
    steps: dict[str, Any] = {name: interchange.SubspaceInterchange(basis) for name, basis in checked.items()}
    if check_flag("controls", controls):
        whole = interchange.SubspaceInterchange(torch.eye(width))
        placebos = {
            f"{name}{PLACEBO}": interchange.NormMatchedPlacebo(
                steps[name], interchange.random_basis(width, basis.shape[1], seed)
            )
            for name, basis in checked.items()
            if basis.shape[1]
        }
        if taken := ({WHOLE, *placebos} & set(steps)):
            raise SweepError(f"A basis cannot be named {shown(min(taken))}, as a control is: rename it.")
        steps = {WHOLE: whole, **steps, **placebos}
    grid = Grid(place, {"basis": list(steps)}, [layer], fixed=[position])
    how = HowToRun(check_batch_tokens(model, batch_tokens), why_plain="TransformerLens' interchange")
    metrics = resolve_metrics(metric, pairs)
    experiment = Experiment(model, pairs, grid, Donors(direction), metrics, how)
    result = experiment.empty_result().assign_attrs(experiment.attributes() | {"layers": str(layer)})
    share = xr.DataArray(np.full((len(steps), len(pairs)), np.nan, np.float32), dims=("basis", "example"))
    reads = Reads.of(metrics, pairs)
    for bucket in pairs.buckets():
        part, at = pairs.select(bucket), where[bucket]
        batch = prompts_at_once(model, part, how.batch_tokens, reads)
        logits_of = reader_of(model, reads)
        base, other = (rows_of(model, part, name) for name in experiment.donors.base_and_other)
        hook = place.hook_name(layer)
        own, theirs = (states_at(model, hook, rows, logits_of, at, batch) for rows in (base, other))
        unpatched = {
            name: plain_logits(logits_of, rows_of(model, part, name), batch) for name in ("clean", "corrupted")
        }
        readout = Readout(metrics, part, unpatched["clean"], reads.vocab, len(pairs))
        for rows, logits in unpatched.items():
            result[rows].values[:, bucket] = readout(logits[None], f"the {rows} forward pass")[:, 0]
        for i, (name, step) in enumerate(steps.items()):
            logits = interchange.intervened_logits(
                model, hook, step, base, theirs, logits_of, positions=at, batch_size=batch
            )
            result.patched.values[:, i, bucket] = readout(logits[None], f"{name} patched in layer {layer}")[:, 0]
            inside = ((theirs - own) @ step.basis).square().sum(-1)  # [example]
            share.values[i, bucket] = (inside / (theirs - own).square().sum(-1).clamp_min(1e-12)).numpy()
    ranks = [step.basis.shape[1] for step in steps.values()]
    result = result.assign(share=share).assign_coords(rank=("basis", ranks))
    warn_of_contrast(result)
    return result.assign(effect=stats.effect(result))


def _basis(name: str, basis: Any, width: int) -> Basis:
    """A basis as a tensor on the CPU; SweepError unless its columns are orthonormal and fit."""
    is_real = isinstance(basis, Tensor) or (isinstance(basis, np.ndarray) and basis.dtype.kind in "fiu")
    tensor = torch.as_tensor(basis).detach().cpu().float() if is_real else None
    if tensor is None or tensor.ndim != 2 or tensor.shape[0] != width or tensor.shape[1] > width:
        given = type(basis).__name__ if tensor is None else list(tensor.shape)
        raise SweepError(f"The basis {shown(name)} must be a tensor [{width}, rank], not {given}.")
    gram = tensor.T @ tensor
    if not torch.allclose(gram, torch.eye(len(gram)), atol=ORTHONORMAL):
        raise SweepError(
            f"The columns of the basis {shown(name)} are not orthonormal, so that it would not project: take "
            "torch.linalg.qr(basis).Q."
        )
    return tensor
