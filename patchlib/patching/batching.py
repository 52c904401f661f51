"""Which examples and which cells share a forward, and what happens when they do not fit."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from jaxtyping import Float
from torch import Tensor

from patchlib.errors import SweepError
from patchlib.patching.budget import default_logit_bytes, is_out_of_memory
from patchlib.patching.engine import PatchedForwards
from patchlib.patching.grid import Cell
from patchlib.tasks.pairs import PromptPairs

FULL = 4
"""Examples with which a forward of a few cells is worth its fixed cost, on a CPU."""
IDLE_TOKENS = 32
"""Tokens that a block takes about as long to compute as to be called and to have its weights read, on a CPU."""


def example_batches(pairs: PromptPairs, batch_tokens: int) -> Iterator[list[int]]:
    """Pairs of one length, a memory-sized number at a time.

    Those that part at one position go together, so that none is computed from an earlier position than it has to be;
    and with those that part next, where they are too few to fill a forward.
    """
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, (clean, corrupted) in enumerate(zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True)):
        alike[len(clean), int((clean != corrupted).nonzero()[0])].append(i)
    for n_pos, group in groupby(sorted(alike.items()), key=lambda item: item[0][0]):
        size = max(1, batch_tokens // (2 * n_pos))  # the base and the other prompts are one forward
        together: list[int] = []
        for _, examples in group:
            if len(together) >= FULL:
                yield from _split(together, size)
                together = []
            together = sorted(together + examples)  # in the task's order, which is the one that a metric expects
        yield from _split(together, size)


def length_batches(pairs: PromptPairs, batch_tokens: int) -> Iterator[list[int]]:
    """Pairs of one length, as many at a time as fit into one forward, wherever they part."""
    for bucket in pairs.buckets():
        yield from _split(bucket.tolist(), max(1, batch_tokens // len(pairs.clean_tokens[int(bucket[0])])))


def _split(examples: list[int], size: int) -> Iterator[list[int]]:
    for first in range(0, len(examples), size):
        yield examples[first : first + size]


def patch_batches(
    forwards: PatchedForwards, batches: Iterable[Sequence[Cell]]
) -> Iterator[tuple[Sequence[Cell], Float[Tensor, "cell example read read_vocab"]]]:
    """Patched logits, a batch of cells at a time; where memory runs out, batches are halved from there on.

    Raises:
        SweepError: Memory runs out in a single cell.
    """
    most = sys.maxsize
    for todo in batches:
        while todo:
            batch = todo[:most]
            try:
                logits = forwards.patched_logits(batch)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise SweepError(
                        f"Memory ran out in a single patched forward pass of {forwards.n_examples} prompts of "
                        f"{forwards.n_pos} tokens. Give fewer tokens at a time (batch_tokens), or a smaller model or "
                        "dtype."
                    ) from error
                most = len(batch) // 2  # and not more in the batches that follow
                continue
            yield batch, logits
            todo = todo[len(batch) :]


def cell_batches(forwards: PatchedForwards, cells: Sequence[Cell], batch_tokens: int) -> Iterator[list[Cell]]:
    """Cells that share a forward: as many as fit, of one first position, without those that cannot change anything.

    Where cells of higher layers do not wait, but idle in the lower ones, their layers are not far apart: idling pays
    while it costs less than a forward of their own.

    Args:
        forwards: What patches them.
        cells: In any order.
        batch_tokens: Tokens in one forward at most, unless a single cell has more.
    """
    n_layers = int(forwards.model.cfg.n_layers)
    most = default_logit_bytes(forwards.model) // (4 * forwards.n_logits)
    live = [cell for cell in cells if forwards.changes(cell)]
    ordered = sorted(live, key=lambda cell: (forwards.first_position(cell), cell.layers))
    for start, group in groupby(ordered, key=forwards.first_position):
        n_tokens = forwards.n_examples * (forwards.n_pos - start)
        size = max(1, min(batch_tokens // n_tokens, most))
        batch: list[Cell] = []
        idle = 0
        for cell in group:
            low = (batch or [cell])[0].layers[0]
            idle += n_tokens * (cell.layers[0] - low) if forwards.fast and not forwards.waits else 0
            if len(batch) == size or idle > IDLE_TOKENS * (n_layers - low):
                yield batch
                batch, idle = [], 0
            batch.append(cell)
        yield batch
