"""What a head writes: towards the answer, of the tokens that it attends to, and into the keys of later heads."""

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import FactoredMatrix
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities import composition_scores

from patchlib._util import Head, check_count, check_heads, check_seed, head_name, shown
from patchlib.errors import SweepError
from patchlib.models.check import check_model, check_readable
from patchlib.patching.batching import length_batches
from patchlib.patching.budget import default_batch_tokens
from patchlib.patching.engine import Hooks
from patchlib.patching.sites import get_site
from patchlib.tasks.base import Task, as_pairs
from patchlib.tasks.tokens import as_ids

MOST_RANDOM = 1000
"""More random matrices would fill the memory and say no more about their scores' mean."""


def direct_logit_attribution(
    model: TransformerBridge, task: Task, hooks: Callable[[list[int]], Hooks] | None = None
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
    pairs = as_pairs(model, task)
    check_readable(model)
    if hooks is not None and not callable(hooks):
        raise SweepError(f"hooks must be a function (examples) -> forward hooks, not {shown(hooks)}.")
    shape = (int(model.cfg.n_layers), int(model.cfg.n_heads))
    attribution = np.zeros((*shape, len(pairs)), dtype=np.float32)
    names = {get_site(model, "z").hook_name(layer) for layer in range(shape[0])} | {"ln_final.hook_scale"}
    for examples in length_batches(pairs, default_batch_tokens(model)):
        part = pairs.select(examples)
        right, wrong = part.answers.to(model.W_U.device).unbind(1)
        direction = (model.W_U[:, right] - model.W_U[:, wrong]).T * _gain(model, model.ln_final)  # [example d_model]
        with torch.no_grad(), model.hooks(fwd_hooks=[] if hooks is None else hooks(examples)):
            tokens = part.clean_batch().to(model.cfg.device)
            _, cache = model.run_with_cache(tokens, names_filter=lambda name: name in names)
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
    check_readable(model)
    n_layers, n_heads, d_vocab = int(model.cfg.n_layers), int(model.cfg.n_heads), int(model.cfg.d_vocab)
    ids = as_ids(tokens, "tokens")
    if ids.ndim != 1 or not len(ids) or not ((ids >= 0) & (ids < d_vocab)).all():
        raise SweepError(f"tokens must be a row of ids from 0 to {d_vocab - 1}, not {shown(tokens)}.")
    ids = ids.to(model.cfg.device)
    every = product(range(n_layers), range(n_heads))
    heads = check_heads(every if layer_heads is None else layer_heads, n_layers, n_heads, least=0)
    top_k = check_count("top_k", top_k)
    scores = np.full((2, n_layers, n_heads), np.nan, dtype=np.float32)
    with torch.no_grad():
        rows = ids[:, None]
        if model.cfg.default_prepend_bos and model.tokenizer is not None:
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
    coords = {"score": ["copying", "suppressing"], "layer": range(n_layers), "head": range(n_heads)}
    by_score = xr.DataArray(scores, coords, list(coords)).to_dataset("score")
    return by_score.assign_attrs(top_k=top_k, n_tokens=len(ids))


def k_composition(model: TransformerBridge, readers: Iterable[Head], n_random: int = 20, seed: int = 0) -> pd.DataFrame:
    """How much of what each earlier head writes enters the keys of some later heads (Elhage et al. 2021).

    The K-composition score of a writer and a reader is ``||W_OV W_QK^T|| / (||W_OV|| ||W_QK||)`` in the Frobenius norm
    ("A Mathematical Framework for Transformer Circuits", section on composition; TransformerLens'
    ``composition_scores``). The weights of the norms before V, Q and K are folded in; a LayerNorm's centring, biases
    and rotary positions are not. It is above 0 for any two matrices, so it is read against random matrices of the same
    shapes, and against the other heads.

    Args:
        model: In eval mode.
        readers: (layer, head), counted in q heads.
        n_random: How many random pairs of matrices.
        seed: Of these.

    Returns:
        A row for each earlier head of each reader: ``reader`` (its name), ``layer`` and ``head_index`` (of the writer),
        ``score`` and ``score_rank`` (1: the reader's largest); and, the same in each row, ``random_mean`` and
        ``random_sd`` of the random matrices' scores.

    Raises:
        SweepError: A reader that there is not or that has nothing before it, a count below 1, or a model in train mode.

    Example:
        >>> table = patchlib.k_composition(model, [(17, 4)])
        >>> table.nsmallest(2, "score_rank").round(3)  # a previous token head comes first
            reader  layer  head_index  score  score_rank  random_mean  random_sd
        144  L17H4     16           0  0.158           1        0.042      0.001
        100  L17H4     11           1  0.062           2        0.042      0.001
    """
    check_model(model)
    check_readable(model)
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    reading = check_heads(readers, n_layers, n_heads, first_layer=1)
    n_random, seed = check_count("n_random", n_random, most=MOST_RANDOM), check_seed(seed)
    with torch.no_grad():
        ov = [_ov(model, layer) for layer in range(max(layer for layer, _ in reading))]
        qk = [_qk(model, layer, head) for layer, head in reading]
        writers = FactoredMatrix(*(torch.cat(side) for side in zip(*ov, strict=True)))
        scores = composition_scores(writers, FactoredMatrix(*(torch.stack(side) for side in zip(*qk, strict=True))))
        generator = torch.Generator().manual_seed(seed)
        shapes = [(n_random, *side.shape) for side in qk[0]]
        random_sides = [torch.randn(shape, generator=generator) for shape in [*shapes, *shapes]]
        random_ov, random_qk = FactoredMatrix(*random_sides[:2]), FactoredMatrix(*random_sides[2:])
        chance = composition_scores(random_ov, random_qk, broadcast_dims=False).numpy()
    cells = pd.DataFrame(product(range(len(ov)), range(n_heads)), columns=["layer", "head_index"])
    tables = []
    for reader, of_reader in zip(reading, scores.T.cpu().numpy(), strict=True):
        table = cells.assign(reader=head_name(*reader), score=of_reader)[cells.layer < reader[0]]
        tables.append(table.assign(score_rank=table.score.rank(ascending=False).astype(int)))
    table = pd.concat(tables, ignore_index=True)[["reader", "layer", "head_index", "score", "score_rank"]]
    return table.assign(random_mean=float(chance.mean()), random_sd=float(chance.std()))


def _ov(
    model: TransformerBridge, layer: int
) -> tuple[Float[Tensor, "head d_model d_head"], Float[Tensor, "head d_head d_model"]]:
    """W_V with the norm before it, and W_O, of each q head."""
    block, n_heads = model.blocks[layer], int(model.cfg.n_heads)
    values = _gain(model, block.ln1)[:, None].float() * block.attn.W_V.float()  # [kv_head d_model d_head]
    return values.repeat_interleave(n_heads // len(values), dim=0), block.attn.W_O.float()


def _qk(
    model: TransformerBridge, layer: int, head: int
) -> tuple[Float[Tensor, "d_model d_head"], Float[Tensor, "d_head d_model"]]:
    """W_K, of the k/v head that serves a q head, and W_Q transposed, each with the norm before it."""
    block, n_heads = model.blocks[layer], int(model.cfg.n_heads)
    scale = _gain(model, block.ln1)[:, None].float()  # [d_model 1]
    keys = block.attn.W_K[head * len(block.attn.W_K) // n_heads].float()
    return scale * keys, (scale * block.attn.W_Q[head].float()).T


def _gain(model: TransformerBridge, norm: Any) -> Float[Tensor, " d_model"]:
    """What a norm multiplies each coordinate with; some models keep it less 1."""
    weight: Tensor = norm.weight
    return weight + (1 if getattr(model.cfg, "rmsnorm_uses_offset", False) else 0)
