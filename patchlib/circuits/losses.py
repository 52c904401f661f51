"""Loss at each position: what a model gains from having seen something before."""

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_kind, is_index, shown
from patchlib.errors import SweepError
from patchlib.patching.batching import length_batches
from patchlib.patching.budget import default_logit_bytes
from patchlib.patching.metrics import next_token_losses
from patchlib.patching.probes import is_causal
from patchlib.tasks.base import Task, as_pairs
from patchlib.tasks.pairs import PromptPairs


def token_losses(model: TransformerBridge, task: Task) -> xr.DataArray:
    """How surprised the model is by each next token of the clean prompts, which must be of one length.

    Args:
        model: In eval mode.
        task: Such as ``repeated_tokens``.

    Returns:
        Over example and pos, in nats: the loss of predicting the token *at* each position from those before it, NaN
        at position 0.

    Raises:
        SweepError: A model in train mode, one that sees the tokens that it is to predict, or a loss that is not finite.
        TaskError: The task is unusable, or its prompts differ in length.

    Example:
        >>> rows = patchlib.repeated_tokens(model, n_rows=2, seq_len=25)  # BOS, 25 random tokens, and these again
        >>> losses = patchlib.token_losses(model, rows).mean("example")
        >>> [float(copy.mean().round()) for copy in (losses[1:26], losses[27:])]  # the second time it knows what comes
        [15.0, 3.0]
    """
    pairs = as_pairs(model, task)
    rows = pairs.clean_batch()
    if not is_causal(model):
        raise SweepError(f"{model.cfg.model_name} is not causal: it sees the tokens whose loss is asked for.")
    batch_tokens = default_logit_bytes(model) // (4 * int(model.cfg.d_vocab))
    losses = np.full(rows.shape, np.nan, dtype=np.float32)
    for examples in length_batches(pairs, batch_tokens):
        tokens = rows[examples].to(model.cfg.device)
        with torch.no_grad():
            losses[examples] = next_token_losses(model(tokens).float(), tokens).cpu().numpy()
    return labelled_losses(losses, pairs)


def labelled_losses(losses: Float[np.ndarray, "example pos"], pairs: PromptPairs) -> xr.DataArray:
    """Losses with what they are of."""
    coords = {"example": range(losses.shape[0]), "pos": range(losses.shape[1])}
    return xr.DataArray(losses, coords, list(coords), name="loss", attrs={"task": pairs.name, "unit": "nats"})


def copy_losses(losses: xr.DataArray, copy: int) -> xr.Dataset:
    """Mean loss over the first and over the second copy of what comes twice, and what repeating gains.

    The second copy's own first token is left out of both: nothing tells that the row begins again.

    Args:
        losses: From ``token_losses`` of rows that come twice.
        copy: The position of the second copy's first token; ``repeated_tokens`` has it as the role ``copy``.

    Returns:
        ``first_copy``, ``second_copy`` and ``gain`` (first - second), over example, in nats.

    Raises:
        SweepError: A position that leaves nothing of one of the copies.

    Example:
        >>> losses = xr.DataArray([[np.nan, 4.0, 6.0, 9.0, 1.0, 3.0]], dims=["example", "pos"])
        >>> {name: values.item() for name, values in patchlib.copy_losses(losses, copy=3).items()}
        {'first_copy': 5.0, 'second_copy': 2.0, 'gain': 3.0}
    """
    n_pos = _check_losses(losses).sizes["pos"]
    if not is_index(copy) or not 1 < copy < n_pos - 1:
        raise SweepError(
            f"copy={shown(copy)} must be a position from 2 to {n_pos - 2}, with some of each copy beside it."
        )
    first = losses.isel(pos=slice(1, copy)).mean("pos")
    second = losses.isel(pos=slice(copy + 1, None)).mean("pos")
    return xr.Dataset({"first_copy": first, "second_copy": second, "gain": first - second})


def loss_change(losses: xr.DataArray, early: int, late: int) -> xr.DataArray:
    """Loss at a late position minus loss at an early one, of one token each.

    Olsson et al. 2022 call it the in-context learning score where the positions are 50 and 500, and the mean is over
    many texts as people write them. Of random tokens, or at other positions, it is another number.

    Args:
        losses: From ``token_losses``.
        early, late: Positions.

    Returns:
        Over example, in nats; negative where the model learns from its context.

    Raises:
        SweepError: Positions that are not there, or not in that order.

    Example:
        >>> rows = patchlib.repeated_tokens(model, n_rows=2, seq_len=25)
        >>> losses = patchlib.token_losses(model, rows)
        >>> float(patchlib.loss_change(losses, early=10, late=45).mean().round())
        -13.0
    """
    n_pos = _check_losses(losses).sizes["pos"]
    if not is_index(early) or not is_index(late) or not 0 < early < late < n_pos:
        raise SweepError(f"early={shown(early)} and late={shown(late)} must be positions of these {n_pos}, in order.")
    return losses.sel(pos=late, drop=True) - losses.sel(pos=early, drop=True)


def _check_losses(losses: xr.DataArray) -> xr.DataArray:
    check_kind("losses", losses, xr.DataArray, "give what patchlib.token_losses returned")
    if "pos" not in losses.dims or losses.dtype.kind not in "fiu":
        raise SweepError(f"Losses over {losses.dims} cannot be read: give what patchlib.token_losses returned.")
    return losses
