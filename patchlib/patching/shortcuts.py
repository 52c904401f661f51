"""How a forward is made to do less: blocks passed through, keys and values reused, one position of the last MLP."""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from patchlib._util import first_line
from patchlib.patching.probes import asked_once

Forward = Callable[..., Any]
"""What stands in for a module's own forward."""


def missing_for_fast(model: TransformerBridge) -> str | None:
    """What the fast way needs and this architecture does not have; None where nothing is missing.

    It is asked of the model itself, by what a forward does: a plain causal ``blocks`` stack, which goes on from a
    cache that keeps every key and value. The model's own cache may keep those of a sliding window alone; with ours
    the window is a matter of the attention mask, which transformers makes for any cache.
    """
    config = getattr(model.original_model, "config", None)  # TransformerLens' own models have none
    if not hasattr(model, "blocks") or getattr(config, "is_encoder_decoder", False):
        return "it is not a single stack of decoder blocks"
    if getattr(config, "hidden_size_per_layer_input", 0):
        return "its layers read the tokens again, which a forward that resumes in the middle does not have"
    tokens, cache = torch.zeros(1, 2, dtype=torch.long, device=model.cfg.device), DynamicCache()
    try:
        with going_on_from(model, cache) as arguments:
            logits = model(tokens, logits_to_keep=1, **arguments)
    except Exception as error:  # whatever an architecture says that takes neither
        return f"its forward takes no cache of keys and values, or no logits_to_keep ({brief_of(error)})"
    if logits.shape[1] != 1:
        return "its forward does not take logits_to_keep"
    if len(cache.layers) != model.cfg.n_layers or any(layer.get_seq_length() != 2 for layer in cache.layers):
        return "some of its layers keep no keys and values (recurrent, hybrid or shared layers)"
    return None


def brief_of(error: Exception) -> str:
    """An error's kind and first line."""
    return f"{type(error).__name__}: {first_line(error)}"


@asked_once
def _names_cache_anew(model: TransformerBridge) -> bool:
    """Whether the model's forward takes its keys and values as ``cache``."""
    return "cache" in inspect.signature(model.original_model.forward).parameters


@contextmanager
def going_on_from(model: TransformerBridge, cache: Cache) -> Iterator[dict[str, Any]]:
    """Arguments with which a forward of the model goes on from a cache, and adds its keys and values to it."""
    # transformers called it past_key_values before 5.24, as TransformerLens' attention does, which is told both names.
    if not _names_cache_anew(model):
        yield {"past_key_values": cache, "use_cache": True}
        return

    def name_twice(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, kwargs | {"past_key_values": kwargs.get("cache")}

    attention = [block.attn for block in model.blocks if isinstance(getattr(block, "attn", None), AttentionBridge)]
    handles = [module.register_forward_pre_hook(name_twice, with_kwargs=True) for module in attention]
    try:
        yield {"cache": cache, "use_cache": True}
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def forwards(replaced: Mapping[torch.nn.Module, Forward]) -> Iterator[None]:
    """Let modules compute something else for a while."""
    # Through __dict__ because TransformerLens' components forward attribute writes to the wrapped module. One may be
    # there already: accelerate's, which moves tensors to the module's device.
    before = {module: vars(module)["forward"] for module in replaced if "forward" in vars(module)}
    for module, forward in replaced.items():
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module in replaced:
            del module.__dict__["forward"]
        for module, forward in before.items():
            module.__dict__["forward"] = forward


def hand_on(n_outputs: int | None) -> Forward:
    """A block's forward that gives what it is given: with ``start_at_layer`` alone the block would still compute.

    Args:
        n_outputs: How many things a block gives, the hidden state first; None where that is all, and no tuple.
    """

    def forward(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        return hidden if n_outputs is None else (hidden, *[None] * (n_outputs - 1))

    return forward


def joined(forward: Forward, n_before: int, n_rows: int, arriving: Float[Tensor, "row pos d_model"]) -> Forward:
    """A block's forward of the rows that have come to it; the others enter at a block of their own.

    Args:
        forward: The block's own.
        n_before: How many rows come from the block below.
        n_rows: How many there will be in the end, for which masks and positions were made.
        arriving: The stream with which the next rows enter here.
    """
    n_live = n_before + len(arriving)

    def live(argument: Any) -> Any:
        """What there is of the live rows in an argument: a mask, or a tuple of positions' rotations."""
        if isinstance(argument, tuple | list):
            return type(argument)(map(live, argument))
        return argument[:n_live] if isinstance(argument, Tensor) and argument.shape[:1] == (n_rows,) else argument

    def of_live_rows(*args: Any, **kwargs: Any) -> Any:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        # Of what the first block is given, no row is from below; later ones are given the live rows only.
        stream = torch.cat([hidden[:n_before], arriving.to(hidden)]) if n_before else arriving.to(hidden)
        cut = {name: live(value) for name, value in kwargs.items() if name != "hidden_states"}
        return forward(stream, *live(args[1:]), **cut)  # [row pos d_model]

    return of_live_rows


@asked_once
def n_block_outputs(model: TransformerBridge) -> int | None:
    """How many things a block gives, as ``hand_on`` wants it: seen in a forward of one token."""
    seen: list[int | None] = []

    def look(module: torch.nn.Module, args: Any, output: Any) -> None:
        seen.append(len(output) if isinstance(output, tuple) else None)

    with model.blocks[0].register_forward_hook(look):
        model(torch.zeros(1, 1, dtype=torch.long, device=model.cfg.device))
    return seen[0]


def at_the_end(forward: Forward) -> Forward:
    """An MLP's forward that computes the last position only, and gives 0 at the others."""

    def last_position(hidden: Float[Tensor, "batch pos d_model"], *args: Any, **kwargs: Any) -> Any:
        # What else is given by position, as the stream that some MLPs add themselves, is cut like the input.
        rest = (a[:, -1:] if isinstance(a, Tensor) and a.shape == hidden.shape else a for a in args)
        output = forward(hidden[:, -1:].contiguous(), *rest, **kwargs)
        # A mixture of experts may give its router's scores too, which no block reads.
        last = (output[0] if isinstance(output, tuple) else output).view(len(hidden), 1, -1)  # [batch 1 d_model]
        padded = torch.nn.functional.pad(last, (0, 0, hidden.shape[1] - 1, 0))  # [batch pos d_model]
        return (padded, *output[1:]) if isinstance(output, tuple) else padded

    return last_position


def of_rows(forward: Forward, rows: Int[Tensor, " some"]) -> Forward:
    """An MLP's forward of some rows, and 0 in the others, which nothing reads."""

    def of_some(hidden: Float[Tensor, "row window d_model"], *args: Any, **kwargs: Any) -> Any:
        if len(rows) == len(hidden):
            return forward(hidden, *args, **kwargs)
        at = rows.to(hidden.device)
        # What else is given by row, as the stream that some MLPs add themselves, is cut like the input.
        rest = (a[at] if isinstance(a, Tensor) and a.shape == hidden.shape else a for a in args)
        output = forward(hidden[at], *rest, **kwargs)
        first = output[0] if isinstance(output, tuple) else output
        whole = torch.zeros_like(hidden)
        whole[at] = first.view(len(rows), *hidden.shape[1:])
        return (whole, *output[1:]) if isinstance(output, tuple) else whole

    return of_some


def unembedding_of(model: TransformerBridge, vocab: Int[Tensor, " read_vocab"]) -> dict[torch.nn.Module, Forward]:
    """The unembedding, of these tokens alone; nothing where it is more than a matrix product."""
    unembed = model.unembed.original_component
    if type(unembed) is not torch.nn.Linear:
        return {}
    ids = vocab.to(unembed.weight.device)
    bias = None if unembed.bias is None else unembed.bias[ids]
    weight = unembed.weight[ids]

    def of_these(stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos read_vocab"]:
        return torch.nn.functional.linear(stream.to(weight.device), weight, bias)

    return {unembed: of_these}


class _Branches(DynamicLayer):  # type: ignore[misc]  # transformers is read without its types
    """A layer's keys and values that several forwards go on from: each one's new ones are joined to the shared ones."""

    def __init__(self, layer: DynamicLayer, n_examples: int | None, n_pos: int, *, keep: bool) -> None:
        super().__init__()
        self.lazy_initialization(layer.keys, layer.values)
        self.keys, self.values = layer.keys[:n_examples, :, :n_pos], layer.values[:n_examples, :, :n_pos]
        self._keep = keep

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        keys, values = self._join(self.keys, key_states), self._join(self.values, value_states)
        if self._keep:
            self.keys, self.values = keys, values
        return keys, values

    @staticmethod
    def _join(
        shared: Float[Tensor, "example kv_head pos d_head"], new: Float[Tensor, "cell*example kv_head new d_head"]
    ) -> Float[Tensor, "cell*example kv_head pos+new d_head"]:
        by_cell = torch.unflatten(new, 0, (-1, len(shared)))  # [cell example kv_head new d_head]
        return torch.cat([shared.expand(len(by_cell), *shared.shape), by_cell], dim=-2).flatten(0, 1)


def branches(cache: Cache, n_pos: int, n_examples: int | None = None, *, keep: bool = False) -> Cache:
    """The keys and values of the first ``n_pos`` positions, for one forward of any number of cells to go on from.

    Args:
        cache: It stays as it is.
        n_pos: How many positions to take.
        n_examples: How many of the examples to take; all when None.
        keep: Keep what the forward adds. Without, a layer's memory is free once the layer is computed.
    """
    branched = copy.copy(cache)
    branched.layers = [_Branches(layer, n_examples, n_pos, keep=keep) for layer in cache.layers]
    return branched
