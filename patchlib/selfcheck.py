"""A few cells of each fast sweep, run again whole, so that a wrong number never goes unnoticed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from patchlib.engine import Cell, PatchedRuns
from patchlib.errors import ExactnessError

N_CHECKED = 2
"""Cells, and prompts of each, that are run again; and one more cell that was not run at all."""


def tolerance(dtype: torch.dtype) -> float:
    """Float noise in a logit, relative to the largest one: the two ways sum the same numbers in other orders."""
    return 1e-5 if dtype in (torch.float32, torch.float64) else 8 * torch.finfo(dtype).eps


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
        few = list(range(min(N_CHECKED, len(examples))))
        pick = random.Random(0).sample
        live = [cell for cell in cells if runs.matters(cell)]
        idle = [cell for cell in cells if not runs.matters(cell)]
        chosen = pick(live, min(N_CHECKED, len(live))) + pick(idle, min(1, len(idle)))
        # Cells that the engine never yields are claimed to give the base run.
        self._fast = {cell.index: runs.base_logits[few] for cell in chosen}
        self._cells = [replace(cell, where=cell.where[few]) for cell in chosen]
        self._start, self._examples = start, examples[: len(few)]

    def saw(self, cell: Cell, logits: Float[Tensor, "example read d_vocab"]) -> None:
        """Keep what the fast way gave for a cell, if it is one of the chosen."""
        if cell.index in self._fast:
            self._fast[cell.index] = logits[: len(self._examples)].clone()

    def compare(self) -> None:
        """Run the chosen cells whole; ExactnessError where the logits differ beyond float noise."""
        if not self._cells:
            return
        plain = self._start(self._examples, fast=False)
        for cell, whole in zip(self._cells, plain.batch(self._cells), strict=True):
            fast = self._fast[cell.index]
            gap = (fast - whole).abs().max().item()
            noise = tolerance(plain.model.cfg.dtype) * max(1.0, whole.abs().max().item())
            if not gap <= noise:
                head = "all heads" if cell.head is None else f"head {cell.head}"
                worst = (fast - whole).abs().argmax()
                raise ExactnessError(
                    f"At layer {cell.layer}, {head}, a logit of the fast engine is {fast.flatten()[worst]:.6g} and of "
                    f"a plain run {whole.flatten()[worst]:.6g}: off by {gap:.3g}, where float noise is below "
                    f"{noise:.1g}. Use engine='plain', and please report the model."
                )
