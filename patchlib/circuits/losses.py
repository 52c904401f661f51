"""Loss at each position: what a model gains from having seen something before, and loses without some heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import head_names
from patchlib.circuits.ablation import Ablation, Head, HeadSet
from patchlib.circuits.knockouts import everywhere
from patchlib.errors import SweepError
from patchlib.patching.budget import default_logit_bytes
from patchlib.patching.metrics import next_token_losses
from patchlib.patching.unpatched import check_model, length_batches
from patchlib.stats import mean_interval
from patchlib.tasks.base import PatchingDataset, PromptPairs, as_pairs


def token_losses(model: TransformerBridge, task: PatchingDataset | PromptPairs) -> xr.DataArray:
    """How surprised the model is by each next token of the clean prompts, which must be of one length.

    Args:
        model: In eval mode.
        task: Such as ``repeated_tokens``.

    Returns:
        Over example and pos, in nats: the loss of predicting the token *at* each position from those before it, NaN
        at position 0.

    Raises:
        SweepError: A model in train mode, or a loss that is not finite.
        TaskError: The task is unusable, or its prompts differ in length.
    """
    check_model(model)
    pairs = as_pairs(model, task)
    rows = pairs.clean_batch()
    most = default_logit_bytes(model) // (4 * int(model.cfg.d_vocab))
    found = np.full(rows.shape, np.nan, dtype=np.float32)
    for examples in length_batches(pairs, most):
        tokens = rows[examples].to(model.cfg.device)
        with torch.no_grad():
            found[examples] = next_token_losses(model(tokens).float(), tokens).cpu().numpy()
    return _labelled(found, pairs)


def _labelled(losses: Float[np.ndarray, "example pos"], pairs: PromptPairs) -> xr.DataArray:
    coords = {"example": range(losses.shape[0]), "pos": range(losses.shape[1])}
    return xr.DataArray(losses, coords, list(coords), name="loss", attrs={"task": pairs.name, "unit": "nats"})


def copy_losses(losses: xr.DataArray, copy: int) -> xr.Dataset:
    """Mean loss over the first and over the second copy of what comes twice, and what repeating gains.

    The second copy's own first token is left out of both: nothing tells that the row begins again.

    Args:
        losses: From ``token_losses`` of rows that come twice.
        copy: The position of the second copy's first token; ``repeated_tokens`` has it as the role ``copy``.

    Returns:
        ``first``, ``second`` and ``gain`` (first - second), over example, in nats.
    """
    first = losses.isel(pos=slice(1, copy)).mean("pos")
    second = losses.isel(pos=slice(copy + 1, None)).mean("pos")
    return xr.Dataset({"first": first, "second": second, "gain": first - second})


def in_context_score(losses: xr.DataArray, early: int = 50, late: int = 500) -> xr.DataArray:
    """Loss at a late position minus loss at an early one: how much the context helps (Olsson et al. 2022).

    Args:
        losses: From ``token_losses`` of running text.
        early, late: Positions; 50 and 500 in the paper, for which the prompts must be that long.

    Returns:
        Over example, in nats; negative where the model learns from its context.

    Raises:
        SweepError: Positions that are not there, or not in that order.
    """
    if not 0 < early < late < losses.sizes["pos"]:
        raise SweepError(f"early={early} and late={late} must be positions of these {losses.sizes['pos']}, in order.")
    return losses.sel(pos=late, drop=True) - losses.sel(pos=early, drop=True)


def ablated_losses(ablation: Ablation, sets: Mapping[str, Iterable[Head]], copy: int) -> pd.DataFrame:
    """Loss on the first and on the second copy without some heads, a row for each named set.

    If the heads do nothing but induction, the first copy's loss stays as it is, since there is nothing yet to copy.

    Args:
        ablation: Of rows that come twice, such as ``Ablation(model, repeated_tokens(model))``.
        sets: Name -> heads, at all positions.
        copy: As for ``copy_losses``.

    Returns:
        As ``knock_out``, of the second copy's loss in nats; and ``first`` and ``change_first``, of the first copy's.

    Raises:
        SweepError, TaskError: As ``Ablation.losses``.
    """
    named: dict[str, list[Head]] = {"none": [], **{name: list(heads) for name, heads in sets.items()}}
    losses = ablation.losses([HeadSet(everywhere(heads), keep=False) for heads in named.values()])
    found = [copy_losses(_labelled(one, ablation.pairs), copy) for one in losses]
    first, second = (np.stack([one[name].values for one in found]).astype(np.float64) for name in ("first", "second"))
    low, high = mean_interval(second - second[0])
    table = pd.DataFrame(
        {
            "mean": second.mean(1), "change": (second - second[0]).mean(1), "ci_low": low, "ci_high": high,
            "first": first.mean(1), "change_first": (first - first[0]).mean(1),
            "heads": [head_names(heads) for heads in named.values()], "n": first.shape[1],
        },
        index=pd.Index(named, name="knocked out"),
    )  # fmt: skip
    metric = "loss of the second copy"
    table.attrs |= {"protocol": ablation.protocol.replace(ablation.metric, metric, 1), "metric": metric}
    return table
