"""Does the fast way hold? Asked of each model once, and of a few cells of each sweep, by patching them plainly too."""

import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import user_level
from patchlib.errors import EngineWarning, ExactnessError
from patchlib.models.context import longest_of_one_rotation
from patchlib.patching.donors import PromptBatch
from patchlib.patching.engine import PatchedForwards
from patchlib.patching.grid import Cell, Grid
from patchlib.patching.probes import asked_once, is_causal
from patchlib.patching.shortcuts import brief_of, missing_for_fast
from patchlib.patching.sites import SITES
from patchlib.patching.unpatched import Hooks, Work

N_CHECKED = 2
"""Cells that are patched again, in one of the prompts; and one more cell that was not computed at all."""


ROUNDINGS = 10
"""Roundings of every block's input that two ways to compute the same may differ by: they sum in other orders."""


def tolerance(dtype: torch.dtype) -> float:
    """Float noise in a logit, relative to the largest one, where a model is well-conditioned."""
    return 1e-5 if dtype in (torch.float32, torch.float64) else 8 * torch.finfo(dtype).eps


def float_noise(model: TransformerBridge, tokens: Int[Tensor, "batch pos"]) -> float:
    """How far a logit of these prompts may move when nothing but the order of sums changes.

    Measured, because models amplify roundings by factors that differ a hundredfold between prompts: each number
    that enters a block is moved up or down by its last bit, and the logits are compared.
    """
    tokens = tokens.to(model.cfg.device)
    generator = torch.Generator().manual_seed(0)

    def nudge(stream: Float[Tensor, "batch pos d_model"], hook: Any) -> Tensor:
        sign = torch.randint(2, stream.shape, generator=generator).to(stream) * 2 - 1
        return stream * (1 + sign * torch.finfo(stream.dtype).eps)

    hooks: Hooks = [(f"blocks.{i}.hook_resid_pre", nudge) for i in range(int(model.cfg.n_layers))]
    with torch.no_grad():
        logits: Tensor = model(tokens)
        moved = (model.run_with_hooks(tokens, fwd_hooks=hooks) - logits).abs().max().item()
    return float(max(ROUNDINGS * moved, tolerance(model.cfg.dtype) * max(1.0, logits.abs().max().item())))


@asked_once
def _obstacle(model: TransformerBridge) -> str | None:
    """Why the fast way does not hold for this architecture: asked, and then tried."""
    looks_ahead = None if is_causal(model) else "a later token changes earlier positions: it is not causal"
    return missing_for_fast(model) or looks_ahead or _failure(model)


def fast_obstacle(model: TransformerBridge, n_pos: int = 0) -> str | None:
    """Why the fast way does not hold for this architecture and prompts of so many tokens; None where it does."""
    longest = longest_of_one_rotation(model)
    if _obstacle(model) is None and longest is not None and n_pos > longest:
        return f"beyond {longest} tokens its rotary positions depend on the length of the whole prompt"
    return _obstacle(model)


_WARNED: WeakKeyDictionary[TransformerBridge, set[str]] = WeakKeyDictionary()


def warn_of_plain(model: TransformerBridge, why: str) -> None:
    """Say once of a model why it is not swept the fast way."""
    if why not in _WARNED.setdefault(model, set()):
        _WARNED[model].add(why)
        warnings.warn(
            f"{model.cfg.model_name} is swept with plain forwards, several times slower: {why}. "
            "The numbers are the same.",
            EngineWarning,
            stacklevel=user_level(),
        )


def _failure(model: TransformerBridge) -> str | None:
    """What goes wrong in a small patched forward that resumes at a layer and a position."""
    base = torch.arange(6)[None] % int(model.cfg.d_vocab)
    other = base.clone()
    other[0, 3:] = (other[0, 3:] + 7) % int(model.cfg.d_vocab)
    layers = sorted({0, int(model.cfg.n_layers) // 2, int(model.cfg.n_layers) - 1})
    mask = torch.arange(6)[None] == 4
    cells = [Cell((layer,), (layer,), None, mask) for layer in layers]
    grid, prompts = Grid(SITES["resid_pre"], {}, layers), PromptBatch(base, other)
    try:
        ways = (PatchedForwards(model, grid, prompts, Work(fast)) for fast in (True, False))
        fast, plain = (way.patched_logits(cells) for way in ways)
    except Exception as error:  # whatever it is that this architecture does otherwise
        return f"resuming in the middle fails ({brief_of(error)})"
    if not plain.isfinite().all():
        return None  # the sweep will say in which prompts
    gap = (fast - plain).abs().max().item()
    if not gap <= float_noise(model, base):
        return f"resuming in the middle gives other logits, off by {gap:.2g}"
    return None


class SelfCheck:
    """Watches a fast sweep and compares a few of its cells with plain forwards.

    Args:
        start_plain: Gives the plain forwards of some examples.
        examples: The examples of ``forwards``.
        forwards: The fast forwards to watch.
        live: The cells that ``forwards`` is asked for; chosen from with a generator of its own.
        idle: Cells that it is not asked for, because nothing changes in them.
    """

    def __init__(
        self,
        start_plain: Callable[[list[int]], PatchedForwards],
        examples: list[int],
        forwards: PatchedForwards,
        live: Sequence[Cell],
        idle: Sequence[Cell],
    ) -> None:
        pick = random.Random(0).sample
        self._row = pick(range(len(examples)), 1)
        chosen = pick(live, min(N_CHECKED, len(live))) + pick(idle, min(1, len(idle)))
        # Cells that the engine never yields are claimed to give the base prompts' logits.
        self._fast = {cell.index: forwards.base_logits[self._row] for cell in chosen}
        self._cells = [cell.of_rows(self._row) for cell in chosen]
        self._start_plain, self._example = start_plain, examples[self._row[0]]

    def saw(self, cell: Cell, logits: Float[Tensor, "example read read_vocab"]) -> None:
        """Keep what the fast way gave for a cell, if it is one of the chosen."""
        if cell.index in self._fast:
            self._fast[cell.index] = logits[self._row].clone()

    def compare(self) -> None:
        """Patch the chosen cells the plain way; ExactnessError where the logits differ beyond float noise."""
        if not self._cells:
            return
        forwards = self._start_plain([self._example])
        for cell, plain in zip(self._cells, forwards.patched_logits(self._cells), strict=True):
            fast = self._fast[cell.index]
            gap = (fast - plain).abs().max().item()
            usual = tolerance(forwards.model.cfg.dtype) * max(1.0, plain.abs().max().item())
            if not gap <= usual and not gap <= (noise := float_noise(forwards.model, forwards.base_tokens)):
                head = "all heads" if cell.head is None else f"head {cell.head}"
                layers = ", ".join(map(str, cell.layers))
                worst = (fast - plain).abs().argmax()
                raise ExactnessError(
                    f"At layer {layers}, {head}, a logit of the fast engine is {fast.flatten()[worst]:.6g} and of "
                    f"the plain one {plain.flatten()[worst]:.6g}: off by {gap:.3g}, where float noise is below "
                    f"{noise:.1g}. Use engine='plain', and please report the model."
                )
