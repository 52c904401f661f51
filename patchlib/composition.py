"""Do two heads work together? Read from their weights alone."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from transformer_lens import FactoredMatrix
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities import composition_scores

from patchlib.errors import SweepError
from patchlib.labels import head_names
from patchlib.unpatched import check_model


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
    tables = []
    with torch.no_grad():
        top = max(layer for layer, _ in asked)
        written = [_ov(model, layer, offset) for layer in range(top)]
        for layer, head in asked:
            block = model.blocks[layer]
            scale = (block.ln1.weight + offset)[:, None].float()
            group = head * block.attn.W_K.shape[0] // n_heads  # the k/v head that serves this head
            reads = FactoredMatrix(scale * block.attn.W_K[group].float(), (scale * block.attn.W_Q[head].float()).T)
            left = FactoredMatrix(
                torch.cat([a for a, _ in written[:layer]]), torch.cat([b for _, b in written[:layer]])
            )
            scores = composition_scores(left, reads).flatten().cpu().numpy()
            cells = [(i, h) for i in range(layer) for h in range(n_heads)]
            table = pd.DataFrame(cells, columns=["layer", "head"]).assign(
                reader=head_names([(layer, head)]), score=scores
            )
            table["rank"] = table.score.rank(ascending=False).astype(int)
            tables.append(table)
        generator = torch.Generator().manual_seed(seed)
        shapes = [(n_random, *matrix.shape) for matrix in (reads.A, reads.B)]
        drawn = [torch.randn(shape, generator=generator) for shape in [*shapes, *shapes]]
        pairs = FactoredMatrix(drawn[0], drawn[1]), FactoredMatrix(drawn[2], drawn[3])
        chance = composition_scores(*pairs, broadcast_dims=False).numpy()
    found = pd.concat(tables, ignore_index=True)[["reader", "layer", "head", "score", "rank"]]
    found.attrs = {"random_mean": float(np.mean(chance)), "random_sd": float(np.std(chance))}
    return found


def _ov(model: TransformerBridge, layer: int, offset: int) -> tuple[torch.Tensor, torch.Tensor]:
    """W_V with the norm before it, and W_O, of each q head: ``[head d_model d_head]``, ``[head d_head d_model]``."""
    block, n_heads = model.blocks[layer], int(model.cfg.n_heads)
    values = (block.ln1.weight + offset)[:, None].float() * block.attn.W_V.float()
    return values.repeat_interleave(n_heads // len(values), dim=0), block.attn.W_O.float()
