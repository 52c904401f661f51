"""How a forward is made to do less: blocks passed through, keys and values reused, one position of the last MLP."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


def missing_for_fast(model: TransformerBridge) -> str | None:
    """What the fast way needs and this architecture does not have; None where nothing is missing.

    It is asked of the model itself: a plain causal ``blocks`` stack, whose cache keeps every key and value.
    """
    if not hasattr(model, "blocks") or getattr(model.original_model.config, "is_encoder_decoder", False):
        return "it is not a single stack of decoder blocks"
    takes = inspect.signature(model.original_model.forward).parameters
    missing = {"inputs_embeds", "past_key_values", "logits_to_keep"} - set(takes)
    if missing:
        return f"its forward does not take {', '.join(sorted(missing))}"
    bos = torch.zeros(1, 1, dtype=torch.long, device=model.cfg.device)
    _, cache = model(bos, return_type="logits_and_cache", use_cache=True)
    if type(cache) is not DynamicCache or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return "its cache does not keep every key and value (sliding window, recurrent or hybrid layers)"
    if len(cache.layers) != model.cfg.n_layers:
        return "some of its layers keep no keys and values"
    return None


@contextmanager
def forwards(replaced: Mapping[torch.nn.Module, Callable]) -> Iterator[None]:
    """Let modules compute something else for a while."""
    # Through __dict__ because TransformerLens' components forward attribute writes to the wrapped module.
    for module, forward in replaced.items():
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module in replaced:
            del module.__dict__["forward"]


def hand_on(n_outputs: int | None) -> Callable:
    """A block's forward that gives what it is given: with ``start_at_layer`` alone the block would still compute.

    Args:
        n_outputs: How many things a block gives, the hidden state first; None where that is all, and no tuple.
    """

    def forward(*args, **kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        return hidden if n_outputs is None else (hidden, *[None] * (n_outputs - 1))

    return forward


def at_the_end(forward: Callable) -> Callable:
    """An MLP's forward that computes the last position only, and gives 0 at the others."""

    def last_position(hidden: Float[Tensor, "batch pos d_model"], *args, **kwargs):
        last = forward(hidden[:, -1:].contiguous(), *args, **kwargs)
        return torch.nn.functional.pad(last, (0, 0, hidden.shape[1] - 1, 0))

    return last_position


def extensible(cache: Cache, n_pos: int, n_cells: int = 1, from_layer: int = 0) -> Cache:
    """The keys and values of the first ``n_pos`` positions, repeated for every cell, for a forward to add to."""
    # Shallow copies: a forward replaces a layer's tensors by longer ones and leaves these as they are.
    extensible = copy.copy(cache)
    extensible.layers = [copy.copy(layer) for layer in cache.layers]
    for i, layer in enumerate(extensible.layers):
        # Layers that are passed through are cut as well: the first one says at which position a forward is.
        times = (n_cells if i >= from_layer else 1, 1, 1, 1)
        layer.keys = layer.keys[:, :, :n_pos].repeat(times)  # [example ...] -> [(cell example) ...]
        layer.values = layer.values[:, :, :n_pos].repeat(times)
    return extensible
