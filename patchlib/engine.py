"""How a patched forward is run exactly and cheaply. Nothing else knows about skipped layers or reused keys.

One patch can change only what is downstream of it. So a fast run (1) resumes at the patched layer with the
base run's residual stream there, (2) computes only positions from the first one in which the two prompts
differ, on top of the shared prefix's keys and values, (3) unembeds only the positions that are read,
(4) puts many cells into one batch and (5) runs nothing at all for a cell whose patch equals what is there.
A plain run is the same code with none of these but the batching.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from patchlib.sites import Site

LOGIT_BYTES = 128 * 2**20
"""Most memory that one batch's logits may take: with a vocabulary of 50,000 they outgrow all else."""


@dataclass(frozen=True)
class Cell:
    """One patch: the activation at ``layer`` (and ``head``, or all heads) wherever ``where`` is True."""

    index: tuple[int, ...]
    layer: int
    head: int | None
    where: Bool[Tensor, "example pos"]


def fast_obstacle(model: TransformerBridge) -> str | None:
    """Why the fast way does not hold for this architecture, or None where it does.

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
def _pass_through(blocks: Sequence[torch.nn.Module], as_tuple: bool) -> Iterator[None]:
    """Let blocks hand on what they are given; ``start_at_layer`` alone would still compute them."""

    def hand_on(*args, **kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden,) if as_tuple else hidden

    # Through __dict__ because TransformerLens' components forward attribute writes to the wrapped module.
    for block in blocks:
        block.__dict__["forward"] = hand_on
    try:
        yield
    finally:
        for block in blocks:
            del block.__dict__["forward"]


class PatchedRuns:
    """The base and the source run of some prompts of one length, and every patched run between them.

    Args:
        model: In eval mode.
        site: What is patched.
        base_tokens: The run that is patched into.
        source_tokens: The run that activations are taken from.
        layers: The layers that will be patched: only their activations are kept.
        fast: Use the shortcuts; else run every patched forward whole.
        last_only: Read logits at the last position only.

    Attributes:
        base_logits, source_logits: ``[example read d_vocab]`` in float32, unpatched; ``read`` is 1 or all positions.
    """

    def __init__(
        self,
        model: TransformerBridge,
        site: Site,
        base_tokens: Int[Tensor, "example pos"],
        source_tokens: Int[Tensor, "example pos"],
        layers: Sequence[int],
        *,
        fast: bool = True,
        last_only: bool = True,
    ) -> None:
        self.model, self.site, self.fast, self.last_only = model, site, fast, last_only
        self.n_examples, self.n_pos = base_tokens.shape
        self.layers = sorted(set(layers))
        self.base_tokens = base_tokens.to(model.cfg.device)
        source_tokens = source_tokens.to(model.cfg.device)
        differs = (self.base_tokens != source_tokens).any(0).nonzero()
        # The last position is always run, so that there is something to read.
        self.start = min(int(differs[0]) if len(differs) else self.n_pos, self.n_pos - 1) if fast else 0
        self._prefix: Cache | None = None
        self._prefix_logits: Tensor | None = None
        self._block_gives_tuple = False
        with torch.no_grad():
            if self.start:
                keep = {"logits_to_keep": 1} if last_only else {}
                self._prefix_logits, self._prefix = model(
                    self.base_tokens[:, : self.start], return_type="logits_and_cache", use_cache=True, **keep
                )
            self.base_logits, self._base = self._record(self.base_tokens, with_stream=fast)
            self.source_logits, self._source = self._record(source_tokens, with_stream=False)

    def _kwargs(self, n_cells: int = 1, from_layer: int = 0) -> dict:
        """Forward arguments: the prefix's keys and values, repeated for every cell, and what to unembed."""
        kwargs: dict = {"logits_to_keep": 1} if self.fast and self.last_only else {}
        if self._prefix is not None:
            # Shallow copies: a forward replaces a layer's tensors by longer ones and leaves these as they are.
            cache = copy.copy(self._prefix)
            cache.layers = [copy.copy(layer) for layer in self._prefix.layers]
            for layer in cache.layers[from_layer:]:
                layer.keys = layer.keys.repeat(n_cells, 1, 1, 1)  # [example ...] -> [(cell example) ...]
                layer.values = layer.values.repeat(n_cells, 1, 1, 1)
            kwargs["past_key_values"] = cache
        return kwargs

    def _read(self, logits: Float[Tensor, "batch pos d_vocab"], n_cells: int = 1) -> Tensor:
        """The logits that are read, ``[cell example read d_vocab]`` in float32."""
        if self.last_only:
            logits = logits[:, -1:]
        elif self._prefix_logits is not None:
            logits = torch.cat([self._prefix_logits.repeat(n_cells, 1, 1), logits], dim=1)
        return logits.float().unflatten(0, (n_cells, self.n_examples))

    def _record(self, tokens: Int[Tensor, "example pos"], *, with_stream: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """One unpatched run: its logits, and the site's activations (and the stream entering each layer)."""
        kept: dict[str, Tensor] = {}

        def keep(activation: Tensor, hook, name: str) -> None:
            kept[name] = activation.detach().clone()

        def look(module, args, output) -> None:
            self._block_gives_tuple = isinstance(output, tuple)

        names = {self.site.hook_name(layer) for layer in self.layers}
        if with_stream:
            names |= {f"blocks.{layer}.hook_resid_pre" for layer in self.layers}
        watched = self.model.blocks[0].register_forward_hook(look) if with_stream else None
        try:
            logits = self.model.run_with_hooks(
                tokens[:, self.start :],
                fwd_hooks=[(name, partial(keep, name=name)) for name in sorted(names)],
                **self._kwargs(),
            )
        finally:
            if watched is not None:
                watched.remove()
        return self._read(logits)[0], kept

    def _mask(self, cells: Sequence[Cell]) -> Bool[Tensor, "cell example *site 1"]:
        """True where a cell's patch goes, in the site's own layout, over the positions that are run."""
        where = torch.stack([cell.where[:, self.start :] for cell in cells]).to(self.model.cfg.device)
        if not self.site.has_heads:
            return where[..., None]  # [cell example pos 1]
        every = range(self.site.n_heads(self.model))
        of_head = torch.tensor(
            [[cell.head is None or cell.head == head for head in every] for cell in cells], device=where.device
        )
        if self.site.layout.startswith("example head"):
            return (of_head[:, None, :, None] & where[:, :, None, :])[..., None]  # [cell example head dest 1]
        return (of_head[:, None, None, :] & where[..., None])[..., None]  # [cell example pos head 1]

    def matters(self, cell: Cell) -> bool:
        """False where the patch is, to the bit, what the base run has there already."""
        name = self.site.hook_name(cell.layer)
        return bool((self._mask([cell])[0] & (self._source[name] != self._base[name])).any())

    def _batch(self, cells: Sequence[Cell]) -> Float[Tensor, "cell example read d_vocab"]:
        """One forward for several cells of one layer."""
        layer, n_cells = cells[0].layer, len(cells)
        source, mask = self._source[self.site.hook_name(layer)], self._mask(cells)

        def put(activation: Tensor, hook) -> Tensor:
            by_cell = activation.unflatten(0, (n_cells, self.n_examples))
            # In place: resid_mid is hooked as the input of the second norm, and the skip connection past
            # that norm reads the same tensor. A new tensor would change the one and not the other.
            return activation.copy_(torch.where(mask, source, by_cell).flatten(0, 1))

        run: Callable = partial(self.model.run_with_hooks, fwd_hooks=[(self.site.hook_name(layer), put)])
        if not self.fast:
            return self._read(run(self.base_tokens.repeat(n_cells, 1)), n_cells)
        stream = self._base[f"blocks.{layer}.hook_resid_pre"].repeat(n_cells, 1, 1)
        with _pass_through(self.model.blocks[:layer], self._block_gives_tuple):
            logits = run(stream, start_at_layer=layer, **self._kwargs(n_cells, layer))
        return self._read(logits, n_cells)

    def one(self, cell: Cell) -> Float[Tensor, "example read d_vocab"]:
        """The logits of one patched run, run even where it changes nothing."""
        with torch.no_grad():
            return self._batch([cell])[0]

    def run(
        self, cells: Sequence[Cell], batch_tokens: int
    ) -> Iterator[tuple[Sequence[Cell], Float[Tensor, "cell example read d_vocab"]]]:
        """Patched logits, a batch of cells at a time; cells that cannot change anything are left out."""
        read = 1 if self.last_only else self.n_pos
        run_tokens = self.n_examples * (self.n_pos - self.start)
        # A plain forward unembeds every position, whatever is read of it.
        unembedded = run_tokens if not self.fast else self.n_examples * read
        per_logit = 4 * int(self.model.cfg.d_vocab)
        size = max(1, min(batch_tokens // run_tokens, LOGIT_BYTES // (unembedded * per_logit)))
        live = [cell for cell in cells if self.matters(cell)]
        for _, group in groupby(sorted(live, key=lambda cell: cell.layer), key=lambda cell: cell.layer):
            of_layer = list(group)
            for first in range(0, len(of_layer), size):
                batch = of_layer[first : first + size]
                with torch.no_grad():
                    logits = self._batch(batch)
                yield batch, logits
