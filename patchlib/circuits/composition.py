"""How much of what a head writes enters the keys of later heads, told from weights alone."""

from collections.abc import Iterable
from itertools import product
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import FactoredMatrix
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities import composition_scores

from patchlib._util import Head, check_count, check_heads, check_seed, head_name
from patchlib.circuits.writing import check_weights, norm_weights
from patchlib.errors import SweepError
from patchlib.models.check import check_model, check_readable
from patchlib.patching.sites import get_site

MOST_RANDOM = 1000
"""More random matrices would fill the memory and say no more about their scores' mean."""


def k_composition(model: TransformerBridge, readers: Iterable[Head], n_random: int = 20, seed: int = 0) -> pd.DataFrame:
    """How much of what each earlier head writes enters the keys of some later heads (Elhage et al. 2021).

    The K-composition score of a writer and a reader is ``||W_OV W_QK^T|| / (||W_OV|| ||W_QK||)`` in the Frobenius norm
    ("A Mathematical Framework for Transformer Circuits", section on composition; TransformerLens'
    ``composition_scores``). The weights of the norms before V, Q and K, behind attention and on queries and keys are
    folded in; a LayerNorm's centring, biases and rotary positions are not. It is above 0 for any two matrices, so it is
    read against random matrices of the same shapes, and against the other heads.

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
    writing = [layer for layer in get_site(model, "z").layers(model) if layer < max(layer for layer, _ in reading)]
    for layers, names in ((writing, "V"), ({layer for layer, _ in reading}, "QK")):
        check_weights(model, sorted(layers), "k_composition", names)
    if least := [layer for layer, _ in reading if not writing or layer <= writing[0]]:
        raise SweepError(f"There are no heads before layer {least[0]} of {model.cfg.model_name}: take a later reader.")
    with torch.no_grad():
        ov = [[side.to(model.cfg.device) for side in ov_factors(model, layer)] for layer in writing]
        qk = [[side.to(model.cfg.device) for side in qk_factors(model, layer, head)] for layer, head in reading]
        writers = FactoredMatrix(*(torch.cat(side) for side in zip(*ov, strict=True)))
        scores = composition_scores(writers, FactoredMatrix(*(torch.stack(side) for side in zip(*qk, strict=True))))
        generator = torch.Generator().manual_seed(seed)
        shapes = [(n_random, *side.shape) for side in qk[0]]
        random_sides = [torch.randn(shape, generator=generator) for shape in [*shapes, *shapes]]
        random_ov, random_qk = FactoredMatrix(*random_sides[:2]), FactoredMatrix(*random_sides[2:])
        chance = composition_scores(random_ov, random_qk, broadcast_dims=False).numpy()
    cells = pd.DataFrame(product(writing, range(n_heads)), columns=["layer", "head_index"])
    tables = []
    for reader, of_reader in zip(reading, scores.T.cpu().numpy(), strict=True):
        table = cells.assign(reader=head_name(*reader), score=of_reader)[cells.layer < reader[0]]
        tables.append(table.assign(score_rank=table.score.rank(ascending=False).astype(int)))
    table = pd.concat(tables, ignore_index=True)[["reader", "layer", "head_index", "score", "score_rank"]]
    return table.assign(random_mean=float(chance.mean()), random_sd=float(chance.std()))


def ov_factors(
    model: TransformerBridge, layer: int
) -> tuple[Float[Tensor, "head d_model d_head"], Float[Tensor, "head d_head d_model"]]:
    """W_V with the norm before it, and W_O, of each q head."""
    block, n_heads = model.blocks[layer], int(model.cfg.n_heads)
    norms = (getattr(block, name, None) for name in ("ln1", "ln1_post"))
    before, behind = (norm_weights(model, norm, block.attn.W_O.device).gain for norm in norms)
    values = before[:, None] * block.attn.W_V.float()  # [kv_head d_model d_head]
    return values.repeat_interleave(n_heads // len(values), dim=0), block.attn.W_O.float() * behind


def qk_factors(
    model: TransformerBridge, layer: int, head: int
) -> tuple[Float[Tensor, "d_model d_head"], Float[Tensor, "d_head d_model"]]:
    """W_K, of the k/v head that serves a q head, and W_Q transposed, each with the norm before it."""
    attn = model.blocks[layer].attn
    scale = norm_weights(model, getattr(model.blocks[layer], "ln1", None), attn.W_Q.device).gain[:, None]  # [d_model 1]
    group = head * len(attn.W_K) // int(model.cfg.n_heads)
    keys = scale * attn.W_K[group].float() * _gain(model, attn, "k_norm", group)
    return keys, (scale * attn.W_Q[head].float() * _gain(model, attn, "q_norm", head)).T


def _gain(model: TransformerBridge, attn: Any, name: str, head: int) -> Float[Tensor, " d_head"] | float:
    """What a norm on queries or keys multiplies a head's with; some models keep it less 1, some for a row of heads."""
    named = () if getattr(attn, name, None) is None else getattr(attn, name).named_parameters()
    weights = [weight.float().flatten() for of, weight in named if of.endswith("weight")]  # one for each head, or one
    if not weights:
        return 1.0
    rows = torch.cat(weights).view(-1, int(model.cfg.d_head))  # [1 d_head] or [head d_head]
    gain: Tensor = rows[head % len(rows)] + (1 if getattr(model.cfg, "rmsnorm_uses_offset", False) else 0)
    return gain
