"""The two unpatched forwards: of the base prompts, which are patched, and of the others, which activations come from.

What they leave is what every patched forward goes on from: logits, keys and values, the stream that enters each layer,
and the activations that are written in.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers.cache_utils import Cache, DynamicCache

from patchlib.patching import shortcuts
from patchlib.patching.budget import BATCH_TOKENS
from patchlib.patching.donors import PromptBatch
from patchlib.patching.grid import Grid
from patchlib.patching.lean import lean_modules
from patchlib.patching.metrics import Reads
from patchlib.patching.probes import is_causal

Hooks = list[tuple[str, Callable[..., Tensor | None]]]
Activations = dict[str, Tensor]
"""By hook name."""
Attention = dict[torch.nn.Module, tuple[Tensor, int | None]]
"""By attention sublayer, what it gives for the base prompts, and how many things it gives besides."""


def _last_position(stream: Float[Tensor, "example pos d_model"], hook: Any) -> Float[Tensor, "example 1 d_model"]:
    return stream[:, -1:].contiguous()


UNEMBED_LAST = ("unembed.hook_in", _last_position)
"""The hook for forwards of which the last position's logits are read: those of all are the largest tensor."""


class Work(NamedTuple):
    """How much of a forward is done.

    Attributes:
        fast: Use the shortcuts; else run every patched forward whole.
        reads: Which of the logits are read.
        batch_tokens: Tokens in one forward of donors.
        unembeds_all: Let a plain forward give all logits, though only the last are read: what any model can.
    """

    fast: bool = True
    reads: Reads = Reads()
    batch_tokens: int = BATCH_TOKENS["cpu"]
    unembeds_all: bool = True


@dataclass(frozen=True)
class Recorded:
    """What the two unpatched forwards of some prompts leave.

    Attributes:
        base_logits, other_logits: As of ``UnpatchedForwards``.
        cache: Keys and values of the base prompts; None where forwards are plain.
        base: Activations of the base prompts, from the first position in which any two prompts differ.
        source: What is written in.
        attention: Of the sublayers of which it was wanted.
    """

    base_logits: Float[Tensor, "example read read_vocab"]
    other_logits: Float[Tensor, "example read read_vocab"]
    cache: Cache | None
    base: Activations
    source: Activations
    attention: Attention


class UnpatchedForwards:
    """The forwards of some base prompts and of the other ones, and what they leave to go on from.

    Args:
        model: In eval mode.
        grid: What is patched: only the activations of its site in its layers are kept.
        prompts: What is patched into, and where activations are taken from.
        work: How much of each forward is done.
        recorded: What forwards of these prompts, of the same work, have left already; None to run them.

    Attributes:
        base_logits, other_logits: ``[example read read_vocab]`` in float32, unpatched; ``read`` is 1 or all positions.
    """

    def __init__(
        self,
        model: TransformerBridge,
        grid: Grid,
        prompts: PromptBatch,
        work: Work,
        recorded: Recorded | None = None,
    ) -> None:
        self.model, self.site, self.fast, self.reads = model, grid.site, work.fast, work.reads
        self._keeps_last = work.fast or not work.unembeds_all
        self.n_examples, self.n_pos = prompts.base.shape
        self.layers = sorted(set(grid.layers))
        self.base_tokens, other_tokens = (tokens.to(model.cfg.device) for tokens in (prompts.base, prompts.other))
        self._noise = None if prompts.noise is None else prompts.noise.to(model.cfg.device)
        apart = self.base_tokens != other_tokens  # [example pos]
        if self._noise is not None:
            apart |= self._noise.any(-1)
        # Where a row's two prompts are alike so far, so are their activations, whatever rounding makes of them. An
        # ablation's values come from elsewhere, and differ from the first position on, as those of a model do in which
        # a later token changes earlier positions.
        alike_so_far = prompts.source == "other" and is_causal(model)
        self._can_differ = apart.cummax(1).values if alike_so_far else torch.ones_like(apart)
        # Before it nothing can change; the last position is always run, to have something to read.
        n_alike = int((~self._can_differ.any(0)).sum())
        self.start = min(n_alike, self.n_pos - 1) if self.fast else 0
        vocab = self.reads.vocab
        self._unembedding = shortcuts.unembedding_of(model, vocab) if self.fast and vocab is not None else {}
        self._lean = lean_modules(model) if self.fast else {}
        self.recorded = self._run_both(prompts, other_tokens, work) if recorded is None else recorded
        self.base_logits, self.other_logits = self.recorded.base_logits, self.recorded.other_logits
        self._cache, self._base, self._source = self.recorded.cache, self.recorded.base, self.recorded.source

    @torch.no_grad()
    def _run_both(self, prompts: PromptBatch, other_tokens: Int[Tensor, "example pos"], work: Work) -> Recorded:
        """The two unpatched forwards: in one, so that what is alike in the two is so to the bit."""
        attention: Attention = {}
        prefix, prefix_logits = self._shared_prefix()
        cache = None if prefix is None else shortcuts.branches(prefix, self.start, keep=True)
        both = torch.cat([self.base_tokens, other_tokens])  # [2*example pos]
        logits, kept = self._record_both(both, cache, attention)
        base_logits, other_logits = (
            self._read(torch.cat([*prefix_logits, half], dim=1))[0] for half in logits.chunk(2)
        )
        source = {name: kept[name][self.n_examples :] for name in self.written_names}
        # What is kept of the base prompts alone does not hold on to the others'.
        base = {
            name: activation[: self.n_examples] if name in source else activation[: self.n_examples].clone()
            for name, activation in kept.items()
        }
        if prompts.source == "zero":
            source = {name: torch.zeros_like(activation) for name, activation in source.items()}
        elif prompts.donors is not None:
            donors = prompts.donors.to(self.model.cfg.device)
            source = self._of_donors(donors, work.batch_tokens, base, mean=prompts.source == "mean")
        # Patched forwards are of the base prompts, and go on from their keys and values alone.
        cache = None if cache is None else shortcuts.branches(cache, self.n_pos, self.n_examples)
        return Recorded(base_logits, other_logits, cache, base, source, attention)

    @property
    def written_names(self) -> list[str]:
        """The hooks whose activations are written in."""
        return [self.site.hook_name(layer) for layer in self.layers]

    def _shared_prefix(self) -> tuple[Cache | None, list[Tensor]]:
        """Keys and values of the positions before ``start``, and their logits where those are read."""
        if not self.start:
            return (DynamicCache() if self.fast else None), []
        cache = DynamicCache()
        logits = self._forward(self.base_tokens[:, : self.start], [], cache)
        return cache, [] if self.reads.last_only else [logits]

    def _record_both(
        self, tokens: Int[Tensor, "2*example pos"], cache: Cache | None, attention: Attention
    ) -> tuple[Tensor, Activations]:
        """What ``_record`` gives of the base and the other prompts together; and attention's outputs, if wanted."""
        return self._record(tokens, cache, with_stream=self.fast, hooks=self._noised(self.start, n_others=1))

    def _noised(self, start: int, end: int | None = None, *, n_copies: int = 1, n_others: int = 0) -> Hooks:
        """A hook that adds the base prompts' noise, if any, to what is embedded of these positions of theirs.

        Args:
            start, end: The positions.
            n_copies: How often a forward has the base prompts.
            n_others: How often it has, behind them, as many prompts without noise.
        """
        if self._noise is None:
            return []
        noise = self._noise[:, start:end].repeat(n_copies, 1, 1)  # [copy*example pos d_model]
        noise = torch.cat([noise, *[torch.zeros_like(noise)] * n_others])
        return [("hook_embed", lambda embedded, hook: embedded + noise.to(embedded))]

    def _record(
        self, tokens: Int[Tensor, "example pos"], cache: Cache | None, *, with_stream: bool, hooks: Hooks | None = None
    ) -> tuple[Tensor, Activations]:
        """One unpatched forward: its logits, and activations (also the stream entering each layer), under hooks."""
        kept: Activations = {}

        def keep(activation: Tensor, hook: Any, name: str) -> None:
            # A copy, because later modules and hooks write into the same memory.
            kept[name] = activation.detach().clone()

        names = set(self.written_names)
        if with_stream:
            names |= {f"blocks.{layer}.hook_resid_pre" for layer in self.layers}
        hooks = [*(hooks or []), *((name, partial(keep, name=name)) for name in sorted(names))]
        return self._forward(tokens[:, self.start :], hooks, cache), kept

    def _of_donors(
        self, donors: Int[Tensor, "donor pos"], batch_tokens: int, base: Activations, *, mean: bool
    ) -> Activations:
        """The donors' activations, or their mean, which stands for every example."""
        kept: dict[str, list[Tensor]] = {name: [] for name in self.written_names}
        for rows in torch.split(donors, max(1, batch_tokens // self.n_pos)):
            for name, activation in self._record(rows, None, with_stream=False)[1].items():
                # Of a mean only the sum is kept, since a reference may have many prompts; in float64, so that
                # neither their number nor their order shows in the last digits.
                if mean:
                    kept[name] = [sum(kept[name], activation.sum(0, dtype=torch.float64))]
                else:
                    kept[name].append(activation)
        if not mean:
            return {name: torch.cat(parts) for name, parts in kept.items()}
        return {
            name: (total / len(donors)).to(base[name].dtype).expand_as(base[name]) for name, (total,) in kept.items()
        }

    def _forward(self, given: Tensor, hooks: Hooks, cache: Cache | None, **kwargs: Any) -> Tensor:
        """Logits of tokens, or of a stream, on top of the keys and values of a cache; only those that are read."""
        if self.reads.last_only and self._keeps_last:
            kwargs["logits_to_keep"] = 1
            # Cut out by position, the rows lie apart in memory, and a product with them is ten times slower.
            hooks = [*hooks, ("unembed.hook_in", lambda stream, hook: stream.contiguous())]
        going_on: AbstractContextManager[dict[str, Any]] = nullcontext({})
        if cache is not None:
            going_on = shortcuts.going_on_from(self.model, cache)
        # A graph needs what activation functions would write over.
        lean = {} if torch.is_grad_enabled() else self._lean
        with shortcuts.forwards(lean | self._unembedding), going_on as arguments:
            logits: Tensor = self.model.run_with_hooks(given, fwd_hooks=hooks, **arguments, **kwargs)
        return logits

    def _read(
        self, logits: Float[Tensor, "cell*example pos vocab"], n_cells: int = 1
    ) -> Float[Tensor, "cell example read read_vocab"]:
        """The logits that are read, of whole prompts, on the prompts' device, wherever the last layer lies."""
        logits = logits.to(self.base_tokens.device)
        if self.reads.vocab is not None and not self._unembedding:
            logits = logits[..., self.reads.vocab.to(logits.device)]  # the plain way has unembedded all
        read = logits[:, -1 if self.reads.last_only else 0 :].float()
        return torch.unflatten(read, 0, (n_cells, self.n_examples))  # [cell example read read_vocab]
