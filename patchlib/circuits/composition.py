"""Do two heads work together? Read from their weights alone."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import numpy as np
import pandas as pd
import torch
from transformer_lens import FactoredMatrix
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities import composition_scores

from patchlib._util import head_names
from patchlib.errors import SweepError
from patchlib.patching.unpatched import check_model


def k_composition(
    model: TransformerBridge, readers: Iterable[tuple[int, int]], n_random: int = 20, seed: int = 0
) -> pd.DataFrame:
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
        A row for each earlier head of each reader: ``reader``, ``layer``, ``head`` (of the writer), ``score`` and
        ``rank`` (1: the reader's largest). The attributes ``random_mean`` and ``random_sd`` are those of the random
        matrices.

    Raises:
        SweepError: A reader that there is not or that has nothing before it, or a model in train mode.
    """
    check_model(model)
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    asked = [(int(layer), int(head)) for layer, head in readers]
    wrong = [one for one in asked if not 0 < one[0] < n_layers or not 0 <= one[1] < n_heads]
    if wrong or not asked:
        raise SweepError(
            f"{head_names(wrong) or 'No head'} cannot be a reader: give heads of layers 1 to {n_layers - 1}, "
            f"which have {n_heads} heads."
        )
    offset = 1 if getattr(model.cfg, "rmsnorm_uses_offset", False) else 0
    with torch.no_grad():
        written = [_ov(model, layer, offset) for layer in range(max(layer for layer, _ in asked))]
        read = [_qk(model, layer, head, offset) for layer, head in asked]
        writers = FactoredMatrix(*(torch.cat(side) for side in zip(*written, strict=True)))
        pairs = composition_scores(writers, FactoredMatrix(*(torch.stack(side) for side in zip(*read, strict=True))))
        generator = torch.Generator().manual_seed(seed)
        shapes = [(n_random, *matrix.shape) for matrix in read[0]]
        drawn = [torch.randn(shape, generator=generator) for shape in [*shapes, *shapes]]
        chance = composition_scores(
            FactoredMatrix(*drawn[:2]), FactoredMatrix(*drawn[2:]), broadcast_dims=False
        ).numpy()
    cells = pd.DataFrame(product(range(len(written)), range(n_heads)), columns=["layer", "head"])
    tables = []
    for reader, scores in zip(asked, pairs.T.cpu().numpy(), strict=True):
        table = cells.assign(reader=head_names([reader]), score=scores)[cells.layer < reader[0]]
        tables.append(table.assign(rank=table.score.rank(ascending=False).astype(int)))
    found = pd.concat(tables, ignore_index=True)[["reader", "layer", "head", "score", "rank"]]
    found.attrs = {"random_mean": float(np.mean(chance)), "random_sd": float(np.std(chance))}
    return found


def _ov(model: TransformerBridge, layer: int, offset: int) -> tuple[torch.Tensor, torch.Tensor]:
    """W_V with the norm before it, and W_O, of each q head: ``[head d_model d_head]``, ``[head d_head d_model]``."""
    block, n_heads = model.blocks[layer], int(model.cfg.n_heads)
    values = (block.ln1.weight + offset)[:, None].float() * block.attn.W_V.float()
    return values.repeat_interleave(n_heads // len(values), dim=0), block.attn.W_O.float()


def _qk(model: TransformerBridge, layer: int, head: int, offset: int) -> tuple[torch.Tensor, torch.Tensor]:
    """W_K, of the k/v head that serves a q head, and W_Q transposed, each with the norm before it."""
    block, n_heads = model.blocks[layer], int(model.cfg.n_heads)
    scale = (block.ln1.weight + offset)[:, None].float()
    keys = block.attn.W_K[head * len(block.attn.W_K) // n_heads].float()
    return scale * keys, (scale * block.attn.W_Q[head].float()).T
