"""How a patched forward is run exactly and cheaply. Nothing else knows about skipped layers or reused keys.

One patch can change only what is downstream of it. So a fast run (1) resumes at the patched layer with the
base run's residual stream there, (2) computes only positions from the patched one on, on top of the base run's
keys and values, and none before the first one in which the two prompts differ, (3) unembeds only the positions
that are read, (4) puts many cells into one batch and (5) runs nothing at all for a cell whose patch equals what
is there. A plain run is the same code with none of these but the batching.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
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
IDLE_TOKENS = 32
"""Tokens that a block takes about as long to compute as to be called and to have its weights read, on a CPU."""


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
def _forwards(replaced: Mapping[torch.nn.Module, Callable]) -> Iterator[None]:
    """Let modules compute something else for a while."""
    # Through __dict__ because TransformerLens' components forward attribute writes to the wrapped module.
    for module, forward in replaced.items():
        module.__dict__["forward"] = forward
    try:
        yield
    finally:
        for module in replaced:
            del module.__dict__["forward"]


def _hand_on(as_tuple: bool) -> Callable:
    """A block's forward that gives what it is given: with ``start_at_layer`` alone the block would still compute."""

    def hand_on(*args, **kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden,) if as_tuple else hidden

    return hand_on


def _at_the_end(forward: Callable) -> Callable:
    """An MLP's forward that computes the last position only, and gives 0 at the others."""

    def at_the_end(hidden: Float[Tensor, "batch pos d_model"], *args, **kwargs):
        last = forward(hidden[:, -1:].contiguous(), *args, **kwargs)
        return torch.nn.functional.pad(last, (0, 0, hidden.shape[1] - 1, 0))

    return at_the_end


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
        differs = (base_tokens != source_tokens).any(0).nonzero()
        # The last position is always run, so that there is something to read.
        self.start = min(int(differs[0]) if len(differs) else self.n_pos, self.n_pos - 1) if fast else 0
        self._block_gives_tuple = False
        shared: Cache | None = DynamicCache() if fast else None
        shared_logits: list[Tensor] = []
        with torch.no_grad():
            if self.start:
                keep = {"logits_to_keep": 1} if last_only else {}
                logits, shared = model(
                    self.base_tokens[:, : self.start], return_type="logits_and_cache", use_cache=True, **keep
                )
                shared_logits = [] if last_only else [logits]
            # Both on the same keys and values, so that what is alike in the two runs is so to the bit.
            self._cache = shared and _extensible(shared, self.start)
            logits, self._base = self._record(self.base_tokens, self._cache, with_stream=fast)
            self.base_logits = self._read(torch.cat([*shared_logits, logits], dim=1))[0]
            cache = shared and _extensible(shared, self.start)
            logits, self._source = self._record(source_tokens.to(model.cfg.device), cache, with_stream=False)
            self.source_logits = self._read(torch.cat([*shared_logits, logits], dim=1))[0]

    def _read(self, logits: Float[Tensor, "batch pos d_vocab"], n_cells: int = 1) -> Tensor:
        """The logits that are read, ``[cell example read d_vocab]`` in float32."""
        return logits[:, -1 if self.last_only else 0 :].float().unflatten(0, (n_cells, self.n_examples))

    def _forward(self, given: Tensor, hooks: list[tuple[str, Callable]], cache: Cache | None, **kwargs) -> Tensor:
        """Logits of tokens, or of a stream, on top of the keys and values of a cache; only those that are read."""
        if cache is not None:
            kwargs["past_key_values"] = cache
        if self.fast and self.last_only:
            kwargs["logits_to_keep"] = 1
            # Cut out by position, the rows lie apart in memory, and a product with them is ten times slower.
            hooks = [*hooks, ("unembed.hook_in", lambda stream, hook: stream.contiguous())]
        return self.model.run_with_hooks(given, fwd_hooks=hooks, **kwargs)

    def _record(
        self, tokens: Int[Tensor, "example pos"], cache: Cache | None, *, with_stream: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
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
            hooks: list[tuple[str, Callable]] = [(name, partial(keep, name=name)) for name in sorted(names)]
            logits = self._forward(tokens[:, self.start :], hooks, cache)
        finally:
            if watched is not None:
                watched.remove()
        return logits, kept

    def _first(self, cell: Cell) -> int:
        """The first position that a patched run of this cell has to compute."""
        return max(self.start, int(cell.where.any(0).nonzero()[0])) if self.fast else 0

    def _order(self, cell: Cell) -> tuple[int, int]:
        return self._first(cell), cell.layer

    def _from(self, start: int, activation: Float[Tensor, "example *site"]) -> Float[Tensor, "example *site"]:
        """A recorded activation without the positions before ``start``."""
        return activation.narrow(self.site.pos_axis, start - self.start, self.n_pos - start)

    def _mask(self, cells: Sequence[Cell], layer: int, start: int) -> Bool[Tensor, "cell example *site 1"]:
        """True where a cell's patch goes in this layer, in the site's own layout, from position ``start`` on."""
        where = torch.stack([cell.where[:, start:] & (cell.layer == layer) for cell in cells])
        where = where.to(self.model.cfg.device)
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
        return bool((self._mask([cell], cell.layer, self.start)[0] & (self._source[name] != self._base[name])).any())

    @torch.no_grad()
    def batch(self, cells: Sequence[Cell]) -> Float[Tensor, "cell example read d_vocab"]:
        """The logits of several patched runs in one forward, even of those in which nothing changes."""
        n_cells, layers, start = len(cells), sorted({cell.layer for cell in cells}), min(map(self._first, cells))

        def put(activation: Tensor, hook, layer: int) -> Tensor:
            source = self._from(start, self._source[self.site.hook_name(layer)])
            by_cell = activation.unflatten(0, (n_cells, self.n_examples))
            # In place: resid_mid is hooked as the input of the second norm, and the skip connection past
            # that norm reads the same tensor. A new tensor would change the one and not the other.
            return activation.copy_(torch.where(self._mask(cells, layer, start), source, by_cell).flatten(0, 1))

        hooks: list[tuple[str, Callable]] = [
            (self.site.hook_name(layer), partial(put, layer=layer)) for layer in layers
        ]
        if self._cache is None:
            return self._read(self._forward(self.base_tokens.repeat(n_cells, 1), hooks, None), n_cells)
        stream = self._base[f"blocks.{layers[0]}.hook_resid_pre"][:, start - self.start :].repeat(n_cells, 1, 1)
        cache = _extensible(self._cache, start, n_cells, layers[0])
        replaced = dict.fromkeys(self.model.blocks[: layers[0]], _hand_on(self._block_gives_tuple))
        if self.last_only and self.site.name != "mlp_out":  # whose patch is inside that forward
            replaced[self.model.blocks[-1].mlp] = _at_the_end(self.model.blocks[-1].mlp.forward)
        with _forwards(replaced):
            logits = self._forward(stream, hooks, cache, start_at_layer=layers[0])
        if not self.last_only and start:
            logits = torch.cat([self.base_logits[:, :start].to(logits).repeat(n_cells, 1, 1), logits], dim=1)
        return self._read(logits, n_cells)

    def _batches(self, cells: Sequence[Cell], batch_tokens: int) -> Iterator[list[Cell]]:
        """Cells that share a forward: as many as fit, of one first position, and of layers that are not far apart.

        Cells of higher layers idle in the lower ones. That pays while it costs less than a forward of their own.
        """
        # A plain forward unembeds every position, whatever is read of it.
        read = 1 if self.fast and self.last_only else self.n_pos
        most = LOGIT_BYTES // (4 * int(self.model.cfg.d_vocab) * self.n_examples * read)
        for start, group in groupby(sorted(cells, key=self._order), key=self._first):
            n_tokens = self.n_examples * (self.n_pos - start)
            size = max(1, min(batch_tokens // n_tokens, most))
            batch: list[Cell] = []
            idle = 0
            for cell in group:
                low = batch[0].layer if batch else cell.layer
                idle += n_tokens * (cell.layer - low) if self.fast else 0
                if len(batch) == size or idle > IDLE_TOKENS * (int(self.model.cfg.n_layers) - low):
                    yield batch
                    batch, idle = [], 0
                batch.append(cell)
            yield batch

    def run(
        self, cells: Sequence[Cell], batch_tokens: int
    ) -> Iterator[tuple[Sequence[Cell], Float[Tensor, "cell example read d_vocab"]]]:
        """Patched logits, a batch of cells at a time; cells that cannot change anything are left out."""
        for batch in self._batches([cell for cell in cells if self.matters(cell)], batch_tokens):
            yield batch, self.batch(batch)


def _extensible(cache: Cache, n_pos: int, n_cells: int = 1, from_layer: int = 0) -> Cache:
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
