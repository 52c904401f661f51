"""Does the fast way hold? Asked of each model once, and of a few cells of each sweep, by running them whole."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib.errors import ExactnessError, SweepError
from patchlib.patching.engine import Cell, PatchedRuns
from patchlib.patching.shortcuts import missing_for_fast
from patchlib.patching.sites import SITES, Site

N_CHECKED = 2
"""Cells that are run again, on one of the prompts; and one more cell that was not run at all."""


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
    generator = torch.Generator().manual_seed(0)

    def nudge(stream: Float[Tensor, "batch pos d_model"], hook) -> Tensor:
        sign = torch.randint(2, stream.shape, generator=generator).to(stream) * 2 - 1
        return stream * (1 + sign * torch.finfo(stream.dtype).eps)

    hooks: list[tuple[str, Callable]] = [(f"blocks.{i}.hook_resid_pre", nudge) for i in range(int(model.cfg.n_layers))]
    with torch.no_grad():
        logits = model(tokens)
        moved = (model.run_with_hooks(tokens, fwd_hooks=hooks) - logits).abs().max().item()
    return max(ROUNDINGS * moved, tolerance(model.cfg.dtype) * max(1.0, logits.abs().max().item()))


_USED: WeakKeyDictionary[TransformerBridge, dict[str, bool]] = WeakKeyDictionary()
_OBSTACLES: WeakKeyDictionary[TransformerBridge, str | None] = WeakKeyDictionary()


def fast_obstacle(model: TransformerBridge) -> str | None:
    """Why the fast way does not hold for this architecture, or None where it does: asked, and then tried."""
    if model not in _OBSTACLES:
        _OBSTACLES[model] = missing_for_fast(model) or _failure(model)
    return _OBSTACLES[model]


def check_used(model: TransformerBridge, site: Site) -> None:
    """SweepError where a model shows an activation but computes past it: every effect would be a false 0."""
    known = _USED.setdefault(model, {})
    if site.name not in known:
        tokens = torch.arange(4)[None].to(model.cfg.device) % int(model.cfg.d_vocab)
        hook_name = site.hook_name(int(model.cfg.n_layers) - 1)
        with torch.no_grad():
            moved = model.run_with_hooks(tokens, fwd_hooks=[(hook_name, lambda activation, hook: activation.mul_(-2))])
            known[site.name] = not torch.equal(moved, model(tokens))
    if not known[site.name]:
        raise SweepError(
            f"In {model.cfg.model_name}, {site.name} can be read but not patched: the model computes past it, so that "
            "every effect would be 0. Take another site."
        )


def _failure(model: TransformerBridge) -> str | None:
    """What goes wrong in a small patched run that resumes at a layer and a position."""
    base = torch.arange(6)[None] % int(model.cfg.d_vocab)
    other = base.clone()
    other[0, 3:] = (other[0, 3:] + 7) % int(model.cfg.d_vocab)
    layers = sorted({0, int(model.cfg.n_layers) // 2, int(model.cfg.n_layers) - 1})
    where = torch.arange(6)[None] == 4
    cells = [Cell((layer,), (layer,), None, where) for layer in layers]
    try:
        fast, whole = (
            PatchedRuns(model, SITES["resid_pre"], base, other, layers, fast=fast).batch(cells)
            for fast in (True, False)
        )
    except Exception as error:  # whatever it is that this architecture does otherwise
        return f"resuming in the middle fails: {type(error).__name__}: {error}"
    if not whole.isfinite().all():
        return None  # the sweep will say where
    gap = (fast - whole).abs().max().item()
    if not gap <= float_noise(model, base):
        return f"resuming in the middle gives other logits, off by {gap:.2g}"
    return None


class SelfCheck:
    """Watches a fast sweep and compares a few of its cells with plain runs.

    Args:
        start: Gives the ``PatchedRuns`` of some examples, ``start(examples, fast=...)``.
        examples: The examples of ``runs``.
        runs: The fast runs to watch.
        cells: All cells that ``runs`` is asked for; chosen from with a generator of its own.
    """

    def __init__(
        self, start: Callable[..., PatchedRuns], examples: list[int], runs: PatchedRuns, cells: Sequence[Cell]
    ) -> None:
        pick = random.Random(0).sample
        self._one = pick(range(len(examples)), 1)
        live = [cell for cell in cells if runs.matters(cell)]
        idle = [cell for cell in cells if not runs.matters(cell)]
        chosen = pick(live, min(N_CHECKED, len(live))) + pick(idle, min(1, len(idle)))
        # Cells that the engine never yields are claimed to give the base run.
        self._fast = {cell.index: runs.base_logits[self._one] for cell in chosen}
        self._cells = [replace(cell, where=cell.where[self._one]) for cell in chosen]
        self._start, self._example = start, examples[self._one[0]]

    def saw(self, cell: Cell, logits: Float[Tensor, "example read read_vocab"]) -> None:
        """Keep what the fast way gave for a cell, if it is one of the chosen."""
        if cell.index in self._fast:
            self._fast[cell.index] = logits[self._one].clone()

    def compare(self) -> None:
        """Run the chosen cells whole; ExactnessError where the logits differ beyond float noise."""
        if not self._cells:
            return
        plain = self._start([self._example], fast=False)
        for cell, whole in zip(self._cells, plain.batch(self._cells), strict=True):
            fast = self._fast[cell.index]
            gap = (fast - whole).abs().max().item()
            usual = tolerance(plain.model.cfg.dtype) * max(1.0, whole.abs().max().item())
            if not gap <= usual and not gap <= (noise := float_noise(plain.model, plain.base_tokens)):
                head = "all heads" if cell.head is None else f"head {cell.head}"
                layers = ", ".join(map(str, cell.layers))
                worst = (fast - whole).abs().argmax()
                raise ExactnessError(
                    f"At layer {layers}, {head}, a logit of the fast engine is {fast.flatten()[worst]:.6g} and of "
                    f"a plain run {whole.flatten()[worst]:.6g}: off by {gap:.3g}, where float noise is below "
                    f"{noise:.1g}. Use engine='plain', and please report the model."
                )
