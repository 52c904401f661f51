"""What a head does, as numbers: where it looks, what it copies, what it writes towards the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib.errors import SweepError
from patchlib.patching.budget import default_batch_tokens
from patchlib.patching.engine import Hooks
from patchlib.patching.sites import get_site
from patchlib.patching.unpatched import check_model, length_batches
from patchlib.tasks.base import PatchingDataset, PromptPairs, as_pairs
from patchlib.tasks.induction import repeated_tokens
from patchlib.tasks.tokens import as_row, tokenize

Stripe = Callable[[Float[Tensor, "example head dest src"]], Float[Tensor, "example head"]]


def detector_scores(model: TransformerBridge, n_rows: int = 4, seq_len: int = 50, seed: int = 0) -> xr.Dataset:
    """How much each head attends as the three textbook heads do, on random tokens that come twice.

    Each score is the mean attention along one stripe of the pattern (Elhage et al. 2021; Olsson et al. 2022,
    "In-context learning and induction heads", appendix on head activation evaluators), between 0 and 1:
    ``previous_token`` from each token to the one before it, ``duplicate_token`` from each token of the second copy
    to itself in the first, ``induction`` (prefix matching) to the one after that.

    Args:
        model: In eval mode.
        n_rows: How many rows of random tokens.
        seq_len: Tokens in one copy.
        seed: Of the draw.

    Returns:
        The three scores, over layer and head.

    Raises:
        SweepError: A model in train mode.
        TaskError: As ``repeated_tokens``.
    """
    check_model(model)
    rows = repeated_tokens(model, n_rows, seq_len, seed).clean_batch()
    bos = rows.shape[1] > 2 * seq_len

    def stripe(offset: int) -> Stripe:
        return lambda pattern: pattern.diagonal(-offset, -2, -1)[..., int(bos) :].mean(-1)

    stripes = {"previous_token": stripe(1), "duplicate_token": stripe(seq_len), "induction": stripe(seq_len - 1)}
    found = _of_patterns(model, rows, lambda pattern: torch.stack([read(pattern) for read in stripes.values()]))
    scores = found.mean(2)  # [layer score example head] -> [layer score head]
    dims = ("layer", "head")
    return xr.Dataset(
        {name: (dims, scores[:, i].numpy()) for i, name in enumerate(stripes)},
        coords={"layer": range(scores.shape[0]), "head": range(scores.shape[2])},
        attrs={"n_rows": n_rows, "seq_len": seq_len, "seed": seed, "prepend_bos": str(bos)},
    )


def attention_patterns(
    model: TransformerBridge, prompt: str | Int[Tensor, " pos"], heads: Sequence[tuple[int, int]]
) -> xr.DataArray:
    """Where some heads look from each token of a prompt.

    Args:
        model: In eval mode.
        prompt: A text, with BOS put first where the model wants one, or a row of token ids, which is run as it is.
        heads: (layer, head).

    Returns:
        Over cell (such as ``"L9H6"``), dest and src, between 0 and 1; the coordinate ``token`` over src says what
        stands there.

    Raises:
        SweepError: A head that there is not, none at all, or a model in train mode.
        TaskError: An empty text.
    """
    check_model(model)
    wanted = [(int(layer), int(head)) for layer, head in heads]
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    unknown = [(i, h) for i, h in wanted if not 0 <= i < n_layers or not 0 <= h < n_heads]
    if unknown or not wanted:
        raise SweepError(f"There is no head {unknown or 'named'}: the model has {n_layers} layers of {n_heads} heads.")
    row = tokenize(model, prompt) if isinstance(prompt, str) else as_row(prompt, "prompt")
    patterns = _of_patterns(model, row[None], lambda pattern: pattern[0])  # [layer head dest src]
    values = torch.stack([patterns[layer, head] for layer, head in wanted]).numpy()
    tokens = [model.to_string([token]) for token in row.tolist()]
    coords = {
        "cell": [f"L{layer}H{head}" for layer, head in wanted],
        "dest": range(len(row)),
        "src": range(len(row)),
        "token": ("src", tokens),
    }
    return xr.DataArray(values, coords, ["cell", "dest", "src"], name="attention")


def attention_between(model: TransformerBridge, task: PatchingDataset | PromptPairs, query: str) -> xr.DataArray:
    """How much each head attends from one named position to each of them, on the clean prompts.

    Args:
        model: In eval mode.
        task: With roles.
        query: The role that looks, for example ``"END"``.

    Returns:
        Over layer, head, role (looked at) and example, between 0 and 1; 0 for roles after the query.

    Raises:
        SweepError: A role that the task does not have, or a model in train mode.
        TaskError: The task is unusable.
    """
    check_model(model)
    pairs = as_pairs(model, task)
    if query not in pairs.roles:
        raise SweepError(f"Unknown role {query!r}: this task names {', '.join(pairs.roles) or 'no positions'}.")
    shape = (int(model.cfg.n_layers), int(model.cfg.n_heads), len(pairs.roles), len(pairs))
    found = np.zeros(shape, dtype=np.float32)
    for examples in length_batches(pairs, default_batch_tokens(model)):
        part = pairs.select(examples)
        each = torch.arange(len(part))
        sources = torch.stack([part.roles[role] for role in part.roles])  # [role example]

        def look(pattern: Tensor, part: PromptPairs = part, each: Tensor = each, sources: Tensor = sources) -> Tensor:
            row = pattern[each, :, part.roles[query]]  # [example head src]
            return row[each, :, sources]  # [role example head]

        values = _of_patterns(model, part.clean_batch(), look)  # [layer role example head]
        found[..., examples] = values.permute(0, 3, 1, 2).numpy()
    coords = {
        "layer": range(shape[0]),
        "head": range(shape[1]),
        "role": list(pairs.roles),
        "example": range(len(pairs)),
    }
    return xr.DataArray(found, coords, list(coords), name="attention", attrs={"query": query, "task": pairs.name})


def direct_logit_attribution(
    model: TransformerBridge,
    task: PatchingDataset | PromptPairs,
    hooks: Callable[[list[int]], Hooks] | None = None,
) -> xr.DataArray:
    """What each head writes at the last position along the right minus the wrong answer's direction, in logits.

    The head's output (``z @ W_O``) is divided by the final norm's scale of the clean run and weighted by the norm,
    then projected on the two answers' unembeddings (nostalgebraist 2020; Wang et al. 2022, section 3.1). It calls
    TransformerLens' stack and scale; its ``direct_logit_attribution`` wants folded weights, which keeps them twice.

    Args:
        model: In eval mode.
        task: Any.
        hooks: Forward hooks for the run of some examples, such as ``Ablation.hooks``; none when None.

    Returns:
        Over layer, head and example. With what embedding, MLPs and biases write it adds up to the logit difference.

    Raises:
        SweepError: A model in train mode.
        TaskError: The task is unusable.
    """
    check_model(model)
    pairs = as_pairs(model, task)
    shape = (int(model.cfg.n_layers), int(model.cfg.n_heads))
    found = np.zeros((*shape, len(pairs)), dtype=np.float32)
    weight = model.ln_final.weight + (1 if getattr(model.cfg, "rmsnorm_uses_offset", False) else 0)
    names = {get_site(model, "z").hook_name(layer) for layer in range(shape[0])} | {"ln_final.hook_scale"}
    for examples in length_batches(pairs, default_batch_tokens(model)):
        part = pairs.select(examples)
        right, wrong = part.answers.to(model.W_U.device).unbind(1)
        direction = (model.W_U[:, right] - model.W_U[:, wrong]).T * weight  # [example d_model]
        with torch.no_grad(), model.hooks(fwd_hooks=[] if hooks is None else hooks(examples)):
            _, cache = model.run_with_cache(part.clean_batch(), names_filter=lambda name: name in names)
            written = cache.stack_head_results(pos_slice=-1)  # [layer*head example d_model]
            written = cache.apply_ln_to_stack(written, pos_slice=-1)
            values = (written.float() * direction.float()).sum(-1)
        found[..., examples] = values.unflatten(0, shape).cpu().numpy()
    coords = {"layer": range(shape[0]), "head": range(shape[1]), "example": range(len(pairs))}
    return xr.DataArray(found, coords, list(coords), name="direct_logit_attribution", attrs={"task": pairs.name})


def copying_scores(
    model: TransformerBridge,
    tokens: Sequence[int] | Int[Tensor, " token"],
    heads: Sequence[tuple[int, int]] | None = None,
    top_k: int = 5,
) -> xr.Dataset:
    """How often a head's OV circuit turns a token into itself (Wang et al. 2022, section 3.1 and appendix on copying).

    The stream of a token after the first block (which stands for its embedding) goes through the head's input norm,
    W_V and W_O, then through the final norm and the unembedding, all as the model has them. ``copying`` is the share of
    tokens that are then among the ``top_k`` logits, ``suppressing`` the share after a change of sign (negative heads).

    Args:
        model: In eval mode.
        tokens: Ids, such as those of a task's names; each is run alone, after BOS where the model wants one.
        heads: (layer, head); all when None.
        top_k: Logits that count as copied; 5 in the paper.

    Returns:
        ``copying`` and ``suppressing`` over layer and head, between 0 and 1; NaN for heads not asked for.

    Raises:
        SweepError: A model in train mode, no tokens, or ids that it does not have.
    """
    check_model(model)
    ids = torch.as_tensor(tokens, dtype=torch.long)
    if ids.ndim != 1 or not len(ids) or not ((ids >= 0) & (ids < int(model.cfg.d_vocab))).all():
        raise SweepError(f"tokens must be a row of ids from 0 to {int(model.cfg.d_vocab) - 1}, not {tokens!r}.")
    ids = ids.to(model.cfg.device)
    n_layers, n_heads = int(model.cfg.n_layers), int(model.cfg.n_heads)
    scores = np.full((2, n_layers, n_heads), np.nan, dtype=np.float32)
    asked = [(i, h) for i in range(n_layers) for h in range(n_heads)] if heads is None else list(heads)
    with torch.no_grad():
        rows = ids[:, None]
        if model.cfg.default_prepend_bos:
            rows = torch.cat([torch.full_like(rows, int(model.tokenizer.bos_token_id)), rows], dim=1)
        _, cache = model.run_with_cache(rows, names_filter="blocks.0.hook_resid_post")
        stream = cache["blocks.0.hook_resid_post"][:, -1:]  # [token 1 d_model]
        for layer, head in asked:
            block = model.blocks[layer]
            group = head * block.attn.W_V.shape[0] // n_heads  # the k/v head that serves this head
            written = block.ln1(stream) @ block.attn.W_V[group] @ block.attn.W_O[head]
            for sign, found in ((1, scores[0]), (-1, scores[1])):
                logits = model.unembed(model.ln_final(sign * written))[:, 0]  # [token d_vocab]
                above = (logits > logits.gather(1, ids[:, None])).sum(1)
                found[layer, head] = (above < top_k).float().mean().item()
    dims = ("layer", "head")
    return xr.Dataset(
        {"copying": (dims, scores[0]), "suppressing": (dims, scores[1])},
        coords={"layer": range(n_layers), "head": range(n_heads)},
        attrs={"top_k": top_k, "n_tokens": len(ids)},
    )


def _of_patterns(
    model: TransformerBridge, rows: Int[Tensor, "example pos"], read: Callable[[Tensor], Tensor]
) -> Float[Tensor, "layer ..."]:
    """Something of each layer's attention pattern ``[example head dest src]``, one pattern alive at a time."""
    site = get_site(model, "pattern")
    found: list[Tensor] = []

    def keep(pattern: Float[Tensor, "example head dest src"], hook) -> None:
        found.append(read(pattern.detach().float().cpu()))

    hooks = [(site.hook_name(layer), keep) for layer in range(int(model.cfg.n_layers))]
    with torch.no_grad():
        model.run_with_hooks(rows.to(model.cfg.device), fwd_hooks=hooks, return_type=None)
    return torch.stack(found)
