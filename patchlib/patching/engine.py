"""How a patched forward is run exactly and cheaply, by the shortcuts of ``patchlib.shortcuts``.

One patch can change only what is downstream of it. So a fast run (1) resumes at the patched layer with the
base run's residual stream there, (2) computes only positions from the patched one on, on top of the base run's
keys and values, and none before the first one in which the two prompts differ, (3) unembeds only the positions,
and where those suffice only the answers, that are read, (4) puts many cells into one batch and (5) runs nothing
at all for a cell whose patch equals what is there. A plain run is the same code with none of these but the batching.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers.cache_utils import Cache, DynamicCache

from patchlib.patching.budget import BATCH_TOKENS
from patchlib.patching.metrics import Reads
from patchlib.patching.shortcuts import (
    at_the_end,
    branches,
    forwards,
    fused_activations,
    hand_on,
    n_block_outputs,
    unembedding_of,
)
from patchlib.patching.sites import Site

Hooks = list[tuple[str, Callable]]


@dataclass(frozen=True)
class Cell:
    """One patch: the activation in ``layers``, of ``head`` or of all heads, wherever ``where`` is True."""

    index: tuple[int, ...]
    layers: tuple[int, ...]
    head: int | None
    where: Bool[Tensor, "example pos"]


class PatchedRuns:
    """The base and the other run of some prompts of one length, and every patched run of the base.

    Args:
        model: In eval mode.
        site: What is patched.
        base_tokens: The run that is patched into.
        other_tokens: The run that it is compared with, and that activations are taken from by default.
        layers: The layers that will be patched: only their activations are kept.
        source: ``"other"``, or ``"zero"``, or what is taken from the donors: their ``"mean"``, or each example's
            own donor's (``"resample"``).
        donors: Prompts of the same length; one for each example to resample.
        fast: Use the shortcuts; else run every patched forward whole.
        reads: Which of the logits are read; those of the last position when None.
        batch_tokens: Tokens in one forward of donors.

    Attributes:
        base_logits, other_logits: ``[example read read_vocab]`` in float32, unpatched; ``read`` is 1 or all positions.
    """

    def __init__(
        self,
        model: TransformerBridge,
        site: Site,
        base_tokens: Int[Tensor, "example pos"],
        other_tokens: Int[Tensor, "example pos"],
        layers: Sequence[int],
        *,
        source: str = "other",
        donors: Int[Tensor, "donor pos"] | None = None,
        fast: bool = True,
        reads: Reads | None = None,
        batch_tokens: int = BATCH_TOKENS["cpu"],
    ) -> None:
        self.model, self.site, self.fast, self.reads = model, site, fast, reads or Reads()
        self.n_examples, self.n_pos = base_tokens.shape
        self.layers = sorted(set(layers))
        self.base_tokens, other_tokens = (tokens.to(model.cfg.device) for tokens in (base_tokens, other_tokens))
        apart = self.base_tokens != other_tokens
        differs = apart.any(0).nonzero()
        # Where a row's two prompts are alike so far, so are their activations, whatever rounding makes of them.
        self._apart = apart.cummax(1).values if source == "other" else torch.ones_like(apart)
        self.start = 0  # before it nothing can change; the last position is always run, to have something to read
        if fast and source == "other":
            self.start = min(int(differs[0]) if len(differs) else self.n_pos, self.n_pos - 1)
        vocab = self.reads.vocab
        self._unembedding = unembedding_of(model, vocab) if fast and vocab is not None else {}
        self._activations = fused_activations(model) if fast else {}
        with torch.no_grad():
            prefix, shared_logits = self._shared_prefix()
            # In one forward, on the same keys and values, so that what is alike in the two runs is so to the bit.
            cache = None if prefix is None else branches(prefix, self.start, keep=True)
            logits, kept = self._record_both(torch.cat([self.base_tokens, other_tokens]), cache)
            self.base_logits, self.other_logits = (
                self._read(torch.cat([*shared_logits, part], dim=1))[0] for part in logits.chunk(2)
            )
            self._cache = None if cache is None else branches(cache, self.n_pos, self.n_examples)
            self._base = {name: activation[: self.n_examples] for name, activation in kept.items()}
            self._source = {name: kept[name][self.n_examples :] for name in map(site.hook_name, self.layers)}
            if source == "zero":
                self._source = {name: torch.zeros_like(activation) for name, activation in self._source.items()}
            elif donors is not None:
                self._source = self._given(donors.to(model.cfg.device), batch_tokens, mean=source == "mean")

    def _shared_prefix(self) -> tuple[Cache | None, list[Tensor]]:
        """Keys and values of the positions before ``start``, and their logits where those are read."""
        if not self.start:
            return (DynamicCache() if self.fast else None), []
        keep = {"logits_to_keep": 1} if self.reads.last_only else {}
        with forwards(self._unembedding):
            logits, prefix = self.model(
                self.base_tokens[:, : self.start], return_type="logits_and_cache", use_cache=True, **keep
            )
        return prefix, [] if self.reads.last_only else [logits]

    def _given(self, donors: Int[Tensor, "donor pos"], batch_tokens: int, *, mean: bool) -> dict[str, Tensor]:
        """The donors' activations, or their mean, which stands for every example."""
        kept: dict[str, list[Tensor]] = {self.site.hook_name(layer): [] for layer in self.layers}
        for part in donors.split(max(1, batch_tokens // self.n_pos)):
            for name, activation in self._record(part, None, with_stream=False)[1].items():
                if mean:
                    kept[name] = [sum(kept[name], activation.sum(0, dtype=torch.float64))]
                else:
                    kept[name].append(activation)
        if not mean:
            return {name: torch.cat(parts) for name, parts in kept.items()}
        return {
            name: (total / len(donors)).to(self._base[name].dtype).expand_as(self._base[name])
            for name, (total,) in kept.items()
        }

    @property
    def n_logits(self) -> int:
        """How many logits a forward gives for one cell: a plain one unembeds everything, whatever is read of it."""
        width = len(self.reads.vocab) if self.reads.vocab is not None and self._unembedding else self.model.cfg.d_vocab
        return int(width) * self.n_examples * (1 if self.fast and self.reads.last_only else self.n_pos)

    def _read(self, logits: Float[Tensor, "batch pos d_vocab"], n_cells: int = 1) -> Tensor:
        """The logits that are read, ``[cell example read read_vocab]`` in float32."""
        if self.reads.vocab is not None and not self._unembedding:
            logits = logits[..., self.reads.vocab.to(logits.device)]
        return logits[:, -1 if self.reads.last_only else 0 :].float().unflatten(0, (n_cells, self.n_examples))

    def _forward(self, given: Tensor, hooks: Hooks, cache: Cache | None, **kwargs) -> Tensor:
        """Logits of tokens, or of a stream, on top of the keys and values of a cache; only those that are read."""
        if cache is not None:
            kwargs["past_key_values"] = cache
        if self.fast and self.reads.last_only:
            kwargs["logits_to_keep"] = 1
            # Cut out by position, the rows lie apart in memory, and a product with them is ten times slower.
            hooks = [*hooks, ("unembed.hook_in", lambda stream, hook: stream.contiguous())]
        with forwards(self._unembedding):
            return self.model.run_with_hooks(given, fwd_hooks=hooks, **kwargs)

    def _record_both(
        self, tokens: Int[Tensor, "run*example pos"], cache: Cache | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What ``_record`` gives of the base and the other run together."""
        return self._record(tokens, cache, with_stream=self.fast)

    def _record(
        self, tokens: Int[Tensor, "example pos"], cache: Cache | None, *, with_stream: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One unpatched run: its logits, and the site's activations (and the stream entering each layer)."""
        kept: dict[str, Tensor] = {}

        def keep(activation: Tensor, hook, name: str) -> None:
            kept[name] = activation.detach().clone()

        names = {self.site.hook_name(layer) for layer in self.layers}
        if with_stream:
            names |= {f"blocks.{layer}.hook_resid_pre" for layer in self.layers}
        hooks: Hooks = [(name, partial(keep, name=name)) for name in sorted(names)]
        return self._forward(tokens[:, self.start :], hooks, cache), kept

    def first(self, cell: Cell) -> int:
        """The first position that a patched run of this cell has to compute."""
        return max(self.start, int(cell.where.any(0).nonzero()[0])) if self.fast else 0

    def _window(
        self, activation: Float[Tensor, "example *site"], start: int, end: int | None = None
    ) -> Float[Tensor, "example *site"]:
        """A recorded activation at the positions from ``start`` to before ``end``."""
        return activation.narrow(self.site.pos_axis, start - self.start, (end or self.n_pos) - start)

    def _mask(
        self, cells: Sequence[Cell], layer: int, start: int, end: int | None = None
    ) -> Bool[Tensor, "cell example *site 1"]:
        """True where a cell's patch goes in this layer, in the site's own layout, from ``start`` to before ``end``."""
        where = torch.stack([cell.where[:, start:end] & (layer in cell.layers) for cell in cells])
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
        """False where the patch is what the base run has there already."""
        cell = replace(cell, where=cell.where & self._apart.to(cell.where.device))
        for layer in cell.layers:
            name = self.site.hook_name(layer)
            if (self._mask([cell], layer, self.start)[0] & (self._source[name] != self._base[name])).any():
                return True
        return False

    @torch.no_grad()
    def batch(self, cells: Sequence[Cell]) -> Float[Tensor, "cell example read read_vocab"]:
        """The logits of several patched runs in one forward, even of those in which nothing changes."""
        layers, start = sorted({layer for cell in cells for layer in cell.layers}), min(map(self.first, cells))

        def put(activation: Tensor, hook, layer: int) -> Tensor:
            source = self._window(self._source[self.site.hook_name(layer)], start)
            by_cell = activation.unflatten(0, (len(cells), self.n_examples))
            # In place: resid_mid is hooked as the input of the second norm, and the skip connection past
            # that norm reads the same tensor. A new tensor would change the one and not the other.
            return activation.copy_(torch.where(self._mask(cells, layer, start), source, by_cell).flatten(0, 1))

        hooks: Hooks = [(self.site.hook_name(layer), partial(put, layer=layer)) for layer in layers]
        return self._logits(self._resume(hooks, [self.site], len(cells), layers[0], start), len(cells), start)

    def _resume(
        self,
        hooks: Hooks,
        patched: Sequence[Site],
        n_cells: int,
        layer: int,
        start: int,
        end: int | None = None,
        instead: Mapping[torch.nn.Module, Callable] | None = None,
        **kwargs: Any,
    ) -> Float[Tensor, "batch pos vocab"]:
        """Copies of the base run, from a layer and a position on, with hooks: only what those can change is run.

        Args:
            hooks: They see the positions from ``start`` on.
            patched: The sites that hooks change.
            n_cells: How many copies.
            layer: None of the hooks is below it, and its stream was recorded.
            start: None of the hooks changes anything before it.
            end: Nothing is wanted of the positions from here on.
            instead: Forwards of modules whose output is known already.
            **kwargs: For the forward.
        """
        if self._cache is None:
            return self._forward(self.base_tokens.repeat(n_cells, 1), hooks, None, **kwargs)
        stream = self._base[f"blocks.{layer}.hook_resid_pre"][:, start - self.start :]
        stream = stream[:, : None if end is None else end - start].repeat(n_cells, 1, 1)
        replaced = {
            **self._activations,
            **dict.fromkeys(self.model.blocks[:layer], hand_on(n_block_outputs(self.model))),
            **(instead or {}),
        }
        mlp = getattr(self.model.blocks[-1], "mlp", None)
        at_last = {self.model.hook_dict[site.hook_name(len(self.model.blocks) - 1)] for site in patched}
        # A patch in the MLP itself would see one position only.
        if self.reads.last_only and mlp is not None and not at_last & set(mlp.modules()):
            replaced[mlp] = at_the_end(mlp.forward)
        with forwards(replaced):
            return self._forward(stream, hooks, branches(self._cache, start), start_at_layer=layer, **kwargs)

    def _logits(self, logits: Float[Tensor, "batch pos vocab"], n_cells: int, start: int) -> Tensor:
        """What is read of a forward from position ``start`` on, ``[cell example read read_vocab]``."""
        if not self.reads.last_only and self._cache is not None and start:
            logits = torch.cat([self.base_logits[:, :start].to(logits).repeat(n_cells, 1, 1), logits], dim=1)
        return self._read(logits, n_cells)
