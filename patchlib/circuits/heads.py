"""What a head writes: towards the answer, and of the tokens that it attends to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import Head, check_count, check_heads
from patchlib.errors import SweepError
from patchlib.models.check import check_model
from patchlib.patching.batching import length_batches
from patchlib.patching.budget import default_batch_tokens
from patchlib.patching.engine import Hooks
from patchlib.patching.sites import get_site
from patchlib.tasks.base import PatchingDataset, as_pairs
from patchlib.tasks.pairs import PromptPairs


def direct_logit_attribution(
    model: TransformerBridge,
    task: PatchingDataset | PromptPairs,
    hooks: Callable[[list[int]], Hooks] | None = None,
) -> xr.DataArray:
    """What each head writes at the last position along the right minus the wrong answer's direction, in logits.

    The head's output (``z @ W_O``) is divided by the final norm's scale of the clean forward pass and weighted by the
    norm, then projected on the two answers' unembeddings (nostalgebraist 2020; Wang et al. 2022, section 3.1). It calls
    TransformerLens' stack and scale; its ``direct_logit_attribution`` wants folded weights, which keeps them twice.

    Because attention sums to 1, a head whose values have a bias (its own, or that of the norm before it) writes
    ``(b_V + b_norm @ W_V) @ W_O`` whatever it attends to. Here that constant counts as the head's: it is part of what
    the head writes. TransformerLens folds it into the sublayer's bias ``b_O``, so that its attribution is ours less
    the constant's.

    Args:
        model: In eval mode.
        task: Any.
        hooks: Forward hooks for the forward pass of some examples, such as ``Ablation.hooks``; none when None.

    Returns:
        Over layer, head and example, in logits. With what embedding, MLPs and biases (``b_O``, the final norm's and the
        unembedding's) write it adds up to the logit difference.

    Raises:
        SweepError: A model in train mode.
        TaskError: The task is unusable.

    Example:
        >>> attribution = patchlib.direct_logit_attribution(model, task).mean("example")
        >>> attribution.to_series().nlargest(3).round(1)
        layer  head
        23     3       1.8
        29     1       1.0
        23     2       0.7
        Name: direct_logit_attribution, dtype: float32
    """
    check_model(model)
    pairs = as_pairs(model, task)
    shape = (int(model.cfg.n_layers), int(model.cfg.n_heads))
    attribution = np.zeros((*shape, len(pairs)), dtype=np.float32)
    gain = model.ln_final.weight + (1 if getattr(model.cfg, "rmsnorm_uses_offset", False) else 0)
    names = {get_site(model, "z").hook_name(layer) for layer in range(shape[0])} | {"ln_final.hook_scale"}
    for examples in length_batches(pairs, default_batch_tokens(model)):
        part = pairs.select(examples)
        right, wrong = part.answers.to(model.W_U.device).unbind(1)
        direction = (model.W_U[:, right] - model.W_U[:, wrong]).T * gain  # [example d_model]
        with torch.no_grad(), model.hooks(fwd_hooks=[] if hooks is None else hooks(examples)):
            _, cache = model.run_with_cache(part.clean_batch(), names_filter=lambda name: name in names)
            written = cache.stack_head_results(pos_slice=-1)  # [layer*head example d_model]
            written = cache.apply_ln_to_stack(written, pos_slice=-1)
            values = (written.float() * direction.float()).sum(-1)  # [layer*head example]
        attribution[..., examples] = values.unflatten(0, shape).cpu().numpy()  # [layer head example]
    coords = {"layer": range(shape[0]), "head": range(shape[1]), "example": range(len(pairs))}
    return xr.DataArray(attribution, coords, list(coords), name="direct_logit_attribution", attrs={"task": pairs.name})


def copying_scores(
    model: TransformerBridge,
    tokens: Sequence[int] | Int[Tensor, " token"],
    layer_heads: Iterable[Head] | None = None,
    top_k: int = 5,
) -> xr.Dataset:
    """How often a head's OV circuit turns a token into itself (Wang et al. 2022, section 3.1 and appendix on copying).

    The stream of a token after the first block (which stands for its embedding) goes through the head's input norm,
    W_V and W_O, then through the final norm and the unembedding, all as the model has them. ``copying`` is the share of
    tokens that are then among the ``top_k`` logits, ``suppressing`` the share after a change of sign (negative heads).

    Args:
        model: In eval mode.
        tokens: Ids, such as those of a task's names; each is run alone, after BOS where the model wants one.
        layer_heads: (layer, head) pairs; all heads when None.
        top_k: Logits that count as copied; 5 in the paper.

    Returns:
        ``copying`` and ``suppressing`` over layer and head, between 0 and 1; NaN for heads not asked for.

    Raises:
        SweepError: A model in train mode, a head that there is not, no tokens, or ids that the model does not have.

    Example:
        >>> names = [model.to_single_token(name) for name in (" Mary", " John", " Tom", " Alice")]
        >>> scores = patchlib.copying_scores(model, names, [(17, 4), (23, 3)])
        >>> {name: float(scores[name].sel(layer=23, head=3)) for name in scores}  # it writes against what it sees
        {'copying': 0.0, 'suppressing': 1.0}
    """
    check_model(model)
    n_layers, n_heads, d_vocab = int(model.cfg.n_layers), int(model.cfg.n_heads), int(model.cfg.d_vocab)
    ids = torch.as_tensor(tokens, dtype=torch.long)
    if ids.ndim != 1 or not len(ids) or not ((ids >= 0) & (ids < d_vocab)).all():
        raise SweepError(f"tokens must be a row of ids from 0 to {d_vocab - 1}, not {tokens!r}.")
    ids = ids.to(model.cfg.device)
    every = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    heads = every if layer_heads is None else check_heads(layer_heads, n_layers, n_heads, least=0)
    check_count("top_k", top_k)
    scores = np.full((2, n_layers, n_heads), np.nan, dtype=np.float32)
    with torch.no_grad():
        rows = ids[:, None]
        if model.cfg.default_prepend_bos:
            rows = torch.cat([torch.full_like(rows, int(model.tokenizer.bos_token_id)), rows], dim=1)
        _, cache = model.run_with_cache(rows, names_filter="blocks.0.hook_resid_post")
        stream = cache["blocks.0.hook_resid_post"][:, -1:]  # [token 1 d_model]
        for layer, head in heads:
            block = model.blocks[layer]
            group = head * block.attn.W_V.shape[0] // n_heads  # the k/v head that serves this head
            written = block.ln1(stream) @ block.attn.W_V[group] @ block.attn.W_O[head]  # [token 1 d_model]
            for i, sign in enumerate((1, -1)):
                logits = model.unembed(model.ln_final(sign * written))[:, 0]  # [token d_vocab]
                n_above = (logits > logits.gather(1, ids[:, None])).sum(1)  # [token]
                scores[i, layer, head] = (n_above < top_k).float().mean().item()
    dims = ("layer", "head")
    return xr.Dataset(
        {"copying": (dims, scores[0]), "suppressing": (dims, scores[1])},
        coords={"layer": range(n_layers), "head": range(n_heads)},
        attrs={"top_k": top_k, "n_tokens": len(ids)},
    )
