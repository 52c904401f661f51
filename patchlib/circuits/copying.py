"""What a head makes of the tokens that it attends to: copied, or suppressed."""

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import Head, check_count, check_heads, shown
from patchlib.circuits.writing import check_end, check_weights, projected, reads
from patchlib.errors import SweepError
from patchlib.models.check import check_model, check_readable
from patchlib.patching.batching import length_batches
from patchlib.patching.budget import default_batch_tokens
from patchlib.patching.sites import get_site
from patchlib.patching.unpatched import UNEMBED_LAST
from patchlib.tasks.base import Task, as_pairs
from patchlib.tasks.pairs import PromptPairs
from patchlib.tasks.tokens import as_ids

FIRST_STREAM = "blocks.0.hook_resid_post"
"""What stands for a token's embedding: with it the first MLP, which many models read before all else."""


def copying_scores(
    model: TransformerBridge,
    tokens: Sequence[int] | Int[Tensor, " token"],
    layer_heads: Iterable[Head] | None = None,
    top_k: int = 5,
    task: Task | None = None,
    role: str = "IO",
) -> xr.Dataset:
    """How often a head's OV circuit turns a token into itself (Wang et al. 2022, section 3.1 and appendix on copying).

    The stream of a token after the first block (which stands for its embedding) goes through the head's input norm,
    W_V (with the values' bias, as in the paper's code) and W_O, then through the norm behind attention where there is
    one, the final norm and the unembedding, all as the model has them. ``copying`` is the share of tokens that are then
    among the ``top_k`` logits, ``suppressing`` the share after a change of sign (negative heads).

    Args:
        model: In eval mode.
        tokens: Ids, such as those of a task's names; each is run alone, after BOS where the model wants one, or inside
            a prompt.
        layer_heads: (layer, head) pairs; all heads when None.
        top_k: Logits that count as copied; 5 in the paper.
        task: Whose clean prompts the tokens are written into, one token a prompt, as the paper has it: prompts take
            turns. None for tokens alone.
        role: Where in those prompts.

    Returns:
        ``copying`` and ``suppressing`` over layer and head, between 0 and 1; NaN for heads not asked for.

    Raises:
        SweepError: A model in train mode, a head that there is not, no tokens, or ids that the model does not have; a
            role that the task does not name.
        TaskError: The task is unusable.

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
    every = product(get_site(model, "z").layers(model), range(n_heads))
    heads = check_heads(every if layer_heads is None else layer_heads, n_layers, n_heads, least=0)
    check_weights(model, sorted({layer for layer, _ in heads}), "copying_scores", names="V")
    check_end(model, "copying_scores")
    top_k = check_count("top_k", top_k)
    scores = np.full((2, n_layers, n_heads), np.nan, dtype=np.float32)
    with torch.no_grad():
        stream = _alone(model, ids) if task is None else _inside(model, ids, as_pairs(model, task), role)
        for layer, head in heads:
            block = model.blocks[layer]
            read = reads(model, layer, stream.to(block.attn.W_O.device))
            values = projected(model, layer, read, "V")  # [token 1 kv_head d_head]
            group = head * values.shape[2] // n_heads  # the k/v head that serves this head
            written = getattr(block, "ln1_post", _same)(values[:, :, group] @ block.attn.W_O[head])  # [token 1 d_model]
            written = written.to(model.W_U.device)
            for i, sign in enumerate((1, -1)):
                logits = model.unembed(getattr(model, "ln_final", _same)(sign * written))[:, 0].to(ids.device)
                # Those that tie with it stand before it, or a head that writes nothing would copy every token.
                n_above = (logits >= logits.gather(1, ids[:, None])).sum(1) - 1  # [token]
                scores[i, layer, head] = (n_above < top_k).float().mean().item()
    coords = {"score": ["copying", "suppressing"], "layer": range(n_layers), "head": range(n_heads)}
    by_score = xr.DataArray(scores, coords, list(coords)).to_dataset("score")
    return by_score.assign_attrs(top_k=top_k, n_tokens=len(ids))


def _alone(model: TransformerBridge, ids: Int[Tensor, " token"]) -> Float[Tensor, "token 1 d_model"]:
    """Each token's stream after the first block, with nothing before it but BOS."""
    rows = ids[:, None]
    if model.cfg.default_prepend_bos and model.tokenizer is not None:
        rows = torch.cat([torch.full_like(rows, int(model.tokenizer.bos_token_id)), rows], dim=1)
    _, cache = model.run_with_cache(rows, names_filter=FIRST_STREAM)
    stream: Tensor = cache[FIRST_STREAM][:, -1:]
    return stream


def _inside(
    model: TransformerBridge, ids: Int[Tensor, " token"], pairs: PromptPairs, role: str
) -> Float[Tensor, "token 1 d_model"]:
    """Each token's stream after the first block, in a clean prompt that has it at a role."""
    if role not in pairs.roles:
        raise SweepError(f"{pairs.name!r} names no position {shown(role)}: give one of {', '.join(pairs.roles)}.")
    turns = torch.arange(len(ids)) % len(pairs)
    of_prompts, positions = pairs.select(turns), pairs.roles[role][turns]
    streams = torch.empty(len(ids), 1, int(model.cfg.d_model), device=ids.device)
    for chosen in length_batches(of_prompts, default_batch_tokens(model)):
        rows = of_prompts.select(chosen).clean_batch()
        rows[torch.arange(len(chosen)), positions[chosen]] = ids[chosen].cpu()
        kept: dict[str, Tensor] = {}
        keep = (FIRST_STREAM, lambda stream, hook, kept=kept: kept.update(stream=stream.detach().clone()))
        model.run_with_hooks(rows.to(model.cfg.device), fwd_hooks=[UNEMBED_LAST, keep])
        stream = kept["stream"]
        streams[chosen, 0] = stream[torch.arange(len(chosen)), positions[chosen]].to(streams)
    return streams


def _same(activation: Tensor) -> Tensor:
    """In the place of a norm that there is not."""
    return activation
