"""A position of one prompt written into a position of another: the elementary step of patchscopes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_count, check_indices, check_kind, is_index, shown
from patchlib.errors import SweepError, TaskError
from patchlib.models.check import check_model
from patchlib.patching.budget import check_batch_tokens, default_logit_bytes
from patchlib.patching.metrics import FLOAT32
from patchlib.patching.sites import SITES, Site, check_patchable, get_site
from patchlib.patching.unpatched import UNEMBED_LAST, Hooks
from patchlib.tasks.spans import Span, span_tokens
from patchlib.tasks.tokens import as_row, check_rows, text_of, tokenize

Prompt = str | Sequence[int] | Int[Tensor, " pos"]
STREAM = tuple(name for name, site in SITES.items() if site.layout == SITES["resid_pre"].layout and not site.hook)
"""Sites at which a position has one row of numbers, as wide in every layer."""


def transplant(
    model: TransformerBridge,
    source: Prompt,
    target: Prompt,
    source_layer: Sequence[int] | int,
    target_layer: Sequence[int] | int | None = None,
    source_position: int | str | Span = -1,
    target_position: int | str | Span = -1,
    site: str = "resid_pre",
    *,
    answer: str | int | None = None,
    top_k: int = 5,
    source_model: TransformerBridge | None = None,
    batch_tokens: int | None = None,
) -> xr.Dataset:
    """Write what a position of one prompt has in some layer into a position of another prompt, and see what comes out.

    The step that patchscopes are made of (Ghandeharioun et al. 2024, "Patchscopes: a unifying framework for inspecting
    hidden representations", section 3, with the identity as the mapping): a target prompt that makes the model say what
    it was given, such as "cat -> cat; 135 -> 135; hello -> hello; ?", decodes a state of the source prompt. What is
    decoded is what the layers from ``target_layer`` on make of the state, in another context than its own: it shows
    that something can be read there, not that the model reads it.

    Args:
        model: Which reads the target prompt.
        source: The prompt that a state is taken from: text, or token ids.
        target: The prompt that it is written into, which may be another, longer or shorter one.
        source_layer: Where it is taken: one layer, or several.
        target_layer: Where it is written: one layer, or several, each with each; the source's own when None.
        source_position: Which token, from 0, or below 0 from the end; in a text also a part of it, whose last token is
            meant, or a ``Span`` of one token.
        target_position: As ``source_position``, in the target prompt.
        site: The residual stream or what a sublayer writes: ``"resid_pre"``, ``"resid_mid"``, ``"resid_post"``,
            ``"attn_out"`` or ``"mlp_out"``.
        answer: A token, as text or id, whose probability is wanted.
        top_k: How many of the most probable next tokens are given.
        source_model: Which reads the source prompt, where it is another model of the same width.
        batch_tokens: Tokens in one forward; what suits the device when None.

    Returns:
        Over ``source_layer`` and ``target_layer`` (the latter is left out where it is the source's own) and
        ``rank``: ``token`` (text) and ``prob`` of what would follow the target prompt; over the layers: ``kl``, from
        the target prompt as it is, in nats, and with ``answer`` its probability ``answer_prob``. Without a
        transplant: ``unpatched_token`` and ``unpatched_prob`` over ``rank``, ``unpatched_answer_prob``. The attributes
        have the prompts and their positions.

    Raises:
        SweepError: A layer, a position or a site that there is not, or two models of different widths.
        TaskError: A prompt or an answer that the model cannot read, or a part that is not in the text.

    Example:
        What the state at "Japan" has of the country is read in the first layer of a prompt that names no country, the
        better when the first layers of its own prompt have worked on it:

        >>> result = patchlib.transplant(
        ...     model,
        ...     "The capital city of the country Japan is called",
        ...     "The capital city of the country it is called",
        ...     source_layer=[0, 9],
        ...     target_layer=0,
        ...     source_position="Japan",
        ...     target_position="it",
        ...     answer=" Tokyo",
        ... )
        >>> result.answer_prob.values.round(2)
        array([[0.17],
               [0.29]], dtype=float32)
        >>> round(result.unpatched_answer_prob.item(), 2)
        0.0
    """
    check_model(model)
    giver = model if source_model is None else source_model
    check_model(giver)
    place = get_site(model, _stream_site(site))
    check_patchable(model, place)
    if giver.cfg.d_model != model.cfg.d_model:
        raise SweepError(
            f"The models have widths {giver.cfg.d_model} and {model.cfg.d_model}: a state of {giver.cfg.model_name} "
            f"does not fit into {model.cfg.model_name}. Take two of one width."
        )
    rows = {"source": _row(giver, source, "source"), "target": _row(model, target, "target")}
    i = _position(giver, source, rows["source"], source_position, "source_position")
    j = _position(model, target, rows["target"], target_position, "target_position")
    taken = check_indices("source_layer", source_layer, int(giver.cfg.n_layers))
    is_own = target_layer is None
    written = taken if is_own else check_indices("target_layer", target_layer, int(model.cfg.n_layers))
    get_site(giver, site, taken)
    get_site(model, site, written)
    k = check_count("top_k", top_k, most=int(model.cfg.d_vocab))
    token = None if answer is None else _answer(model, answer)
    cells = [(layer, layer) for layer in taken] if is_own else [(a, b) for a in taken for b in written]
    states = _states(giver, rows["source"], i, place, taken)
    logits = _patched(model, rows["target"], j, place, states, cells, check_batch_tokens(model, batch_tokens))
    if not torch.isfinite(logits).all():
        raise SweepError(f"The logits are NaN or infinite. {FLOAT32} else look at the model's weights.")
    log_probs = logits.log_softmax(-1)  # [1+cell d_vocab]: first the target prompt as it is
    kl = (log_probs[0].exp() * (log_probs[0] - log_probs[1:])).sum(-1)
    sizes = (len(taken),) if is_own else (len(taken), len(written))
    dims = ("source_layer",) if is_own else ("source_layer", "target_layer")
    top = log_probs.topk(k)
    texts = np.array([[text_of(model, [token_id]) for token_id in ids] for ids in top.indices.tolist()], dtype=object)
    probs = top.values.exp().numpy()
    data: dict[str, Any] = {
        "token": ((*dims, "rank"), texts[1:].reshape(*sizes, k)),
        "prob": ((*dims, "rank"), probs[1:].reshape(*sizes, k)),
        "kl": (dims, kl.clamp(min=0).numpy().reshape(sizes)),
        "unpatched_token": ("rank", texts[0]),
        "unpatched_prob": ("rank", probs[0]),
    }
    attributes: dict[str, str | int] = {
        "model": str(model.cfg.model_name),
        "source_model": str(giver.cfg.model_name),
        "site": site,
    }
    for name, reader, at in (("source", giver, i), ("target", model, j)):
        attributes |= {name: text_of(reader, rows[name]), f"{name}_position": at}
        attributes[f"{name}_token"] = text_of(reader, [int(rows[name][at])])
    if token is not None:
        of_answer = log_probs[:, token].exp().numpy()
        data |= {"answer_prob": (dims, of_answer[1:].reshape(sizes)), "unpatched_answer_prob": ((), of_answer[0])}
        attributes["answer"] = text_of(model, [token])
    coords = {"source_layer": taken, "rank": range(1, k + 1)} | ({} if is_own else {"target_layer": written})
    return xr.Dataset(data, coords, attributes)


def _stream_site(site: Any) -> str:
    if site not in STREAM:
        raise SweepError(f"A position is transplanted at one of {', '.join(STREAM)}, not at {shown(site)}.")
    return str(site)


def _row(model: TransformerBridge, prompt: Prompt, name: str) -> Int[Tensor, " pos"]:
    row = tokenize(model, prompt) if isinstance(prompt, str) else as_row(prompt, f"{name} prompt")
    check_rows(model, [row], f"the {name} prompt", keep_pads=True)
    return row


def _position(model: TransformerBridge, prompt: Prompt, row: Int[Tensor, " pos"], position: Any, name: str) -> int:
    """A token index from 0, of whatever it was given as."""
    if is_index(position):
        if not -len(row) <= position < len(row):
            raise SweepError(f"{name} {shown(position)} is outside the prompt, which has {len(row)} tokens.")
        return int(position) % len(row)
    check_kind(name, position, str | Span, "give a token index, or a part of the text")
    if not isinstance(prompt, str):
        given = f"{name}={shown(position)}"
        raise SweepError(f"{given} is a part of a text, and the prompt is token ids: give a token index.")
    [indices] = span_tokens(model, [prompt], position if isinstance(position, Span) else Span(position))
    if len(indices) > 1:
        raise SweepError(f"{name}={shown(position)} is {len(indices)} tokens: say which='first' or 'last'.")
    return indices[0]


def _answer(model: TransformerBridge, answer: Any) -> int:
    if isinstance(answer, str):
        ids = tokenize(model, answer).tolist()
        bos = getattr(model.tokenizer, "bos_token_id", None)
        ids = ids[1:] if len(ids) > 1 and ids[0] == bos else ids
        if len(ids) != 1:
            raise TaskError(f"The answer {shown(answer)} is {len(ids)} tokens: give one (' Mary' with its space).")
        return int(ids[0])
    return check_count("answer", answer, 0, TaskError, most=int(model.cfg.d_vocab) - 1)


@torch.no_grad()
def _states(
    model: TransformerBridge, row: Int[Tensor, " pos"], position: int, site: Site, layers: Sequence[int]
) -> dict[int, Float[Tensor, " d_model"]]:
    """What the position has at the site in these layers."""
    states: dict[int, Tensor] = {}

    def keep(activation: Tensor, hook: Any, layer: int) -> None:
        states[layer] = activation[0, position].clone()

    hooks: Hooks = [(site.hook_name(layer), partial(keep, layer=layer)) for layer in layers]
    model.run_with_hooks(row[None].to(model.cfg.device), fwd_hooks=hooks, stop_at_layer=_stop(model, max(layers)))
    return states


def _stop(model: TransformerBridge, layer: int) -> int | None:
    return layer + 1 if layer + 1 < int(model.cfg.n_layers) else None


@torch.no_grad()
def _patched(
    model: TransformerBridge,
    row: Int[Tensor, " pos"],
    position: int,
    site: Site,
    states: dict[int, Float[Tensor, " d_model"]],
    cells: Sequence[tuple[int, int]],
    batch_tokens: int,
) -> Float[Tensor, "1+cell d_vocab"]:
    """The logits behind the target prompt, first as it is and then with each (source layer, target layer)."""
    # Nothing is written at the layer -1.
    jobs = [(0, -1), *cells]
    at_once = max(1, min(batch_tokens // len(row), default_logit_bytes(model) // (4 * int(model.cfg.d_vocab))))
    logits = []
    for first in range(0, len(jobs), at_once):
        batch = jobs[first : first + at_once]

        def write(activation: Tensor, hook: Any, layer: int, batch: Sequence[tuple[int, int]] = batch) -> Tensor:
            for n, (source_layer, target_layer) in enumerate(batch):
                if target_layer == layer:  # in place, as a skip connection may read the same memory
                    activation[n, position] = states[source_layer].to(activation)
            return activation

        layers = {target_layer for _, target_layer in batch if target_layer >= 0}
        hooks: Hooks = [(site.hook_name(layer), partial(write, layer=layer)) for layer in layers]
        hooks += [UNEMBED_LAST]
        tokens = row.to(model.cfg.device).repeat(len(batch), 1)  # [cell pos]
        logits.append(model.run_with_hooks(tokens, fwd_hooks=hooks)[:, -1].float().cpu())
    return torch.cat(logits)
