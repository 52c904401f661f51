"""Which cells share a forward, and what happens when they do not fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from jaxtyping import Float
from torch import Tensor

from patchlib.errors import SweepError
from patchlib.patching.budget import default_logit_bytes, is_out_of_memory
from patchlib.patching.engine import Cell, PatchedRuns

IDLE_TOKENS = 32
"""Tokens that a block takes about as long to compute as to be called and to have its weights read, on a CPU."""


def run_cells(
    runs: PatchedRuns, cells: Sequence[Cell], batch_tokens: int
) -> Iterator[tuple[Sequence[Cell], Float[Tensor, "cell example read read_vocab"]]]:
    """Patched logits, a batch of cells at a time; cells that cannot change anything are left out.

    Where memory runs out, batches are halved from there on.

    Args:
        runs: What runs them.
        cells: In any order.
        batch_tokens: Tokens in one forward at most, unless a single cell has more.

    Raises:
        SweepError: Memory runs out in a single cell.
    """
    most = len(cells)
    for batch in _batches(runs, [cell for cell in cells if runs.matters(cell)], batch_tokens):
        todo = [batch]
        while todo:
            part = todo.pop(0)
            if len(part) > most:
                todo = [part[:most], part[most:], *todo]
                continue
            try:
                logits = runs.batch(part)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise SweepError(
                        f"Memory ran out in a single patched run of {runs.n_examples} prompts of {runs.n_pos} "
                        "tokens. Give fewer tokens at a time (batch_tokens), or a smaller model or dtype."
                    ) from error
                most = len(part) // 2
                todo = [part, *todo]
                continue
            yield part, logits


def _batches(runs: PatchedRuns, cells: Sequence[Cell], batch_tokens: int) -> Iterator[list[Cell]]:
    """Cells that share a forward: as many as fit, of one first position, and of layers that are not far apart.

    Cells of higher layers idle in the lower ones. That pays while it costs less than a forward of their own.
    """
    n_layers = int(runs.model.cfg.n_layers)
    most = default_logit_bytes(runs.model) // (4 * runs.n_logits)
    for start, group in groupby(sorted(cells, key=lambda cell: (runs.first(cell), cell.layers)), key=runs.first):
        n_tokens = runs.n_examples * (runs.n_pos - start)
        size = max(1, min(batch_tokens // n_tokens, most))
        batch: list[Cell] = []
        idle = 0
        for cell in group:
            low = (batch or [cell])[0].layers[0]
            idle += n_tokens * (cell.layers[0] - low) if runs.fast else 0
            if len(batch) == size or idle > IDLE_TOKENS * (n_layers - low):
                yield batch
                batch, idle = [], 0
            batch.append(cell)
        yield batch
