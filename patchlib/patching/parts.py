"""A sweep in parts, so that several workers can take them: which parts there are, and how one is measured.

A part is a share of the cells of some prompts. Its forwards are those that one process would run for these cells, with
the same cells in one batch: so the numbers are the same to the bit, whoever runs them on the same kind of machine.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float

from patchlib.patching.batching import cell_batches, patch_batches
from patchlib.patching.checkpoint import Finished
from patchlib.patching.engine import PatchedForwards
from patchlib.patching.grid import CellIndex
from patchlib.patching.metrics import Readout
from patchlib.patching.selfcheck import SelfCheck
from patchlib.patching.unpatched import UnpatchedForwards

if TYPE_CHECKING:  # which asks for the parts
    from patchlib.patching.experiment import Experiment

CELLS = 24
"""Cells that are worth the unpatched forwards that every part runs first."""


@dataclass(frozen=True)
class Part:
    """What one worker does at a time.

    Attributes:
        examples: Prompts of one length.
        done: Cells of theirs that a checkpoint has.
        share: Which of how many shares of the other cells, in batches as one process makes them.
        is_checked: Whether a few of the cells are patched the plain way too.
    """

    examples: list[int]
    done: frozenset[CellIndex] = frozenset()
    share: tuple[int, int] = (0, 1)
    is_checked: bool = False


class Unpatched(NamedTuple):
    """The metrics of a part's prompts without a patch."""

    part: Part
    clean: Float[np.ndarray, "metric example"]
    corrupted: Float[np.ndarray, "metric example"]


class Patched(NamedTuple):
    """The metrics of some of a part's cells."""

    part: Part
    cells: list[CellIndex]
    values: Float[np.ndarray, "metric cell example"]


def parts_of(experiment: Experiment, finished: Finished, *, shared: bool) -> list[Part]:
    """The parts of a sweep, in the order in which one process takes them.

    Args:
        experiment: The sweep.
        finished: What a checkpoint has of it.
        shared: Whether several workers share the cells of the same prompts.
    """
    batches = experiment.example_batches()
    # One batch of prompts, always the same one, has some of its cells computed the plain way too.
    is_due = experiment.shared is None or experiment.shared.is_check_due(experiment.grid.site, experiment.receivers)
    checked = random.Random(0).randrange(len(batches)) if experiment.how.why_plain is None and is_due else None
    parts = []
    for number, examples in enumerate(batches):
        cells = [cell.index for cell in experiment.grid.cells(experiment.pairs.select(examples))]
        done = frozenset(index for index in cells if finished.get(index, examples) is not None)
        n_shares = max(1, (len(cells) - len(done)) // CELLS) if shared else 1
        shares = [(share, n_shares) for share in range(n_shares)]
        parts += [Part(examples, done, share, number == checked and share[0] == 0) for share in shares]
    return parts


def start(experiment: Experiment, part: Part) -> tuple[PatchedForwards, Readout, Unpatched]:
    """The unpatched forwards of a part's prompts, what reads the patched ones, and what they read."""
    forwards = experiment.start_forwards(part.examples)
    readout, clean, corrupted = unpatched_metrics(experiment, forwards, part.examples)
    return forwards, readout, Unpatched(part, clean, corrupted)


def unpatched_metrics(
    experiment: Experiment, forwards: UnpatchedForwards, examples: list[int]
) -> tuple[Readout, Float[np.ndarray, "metric example"], Float[np.ndarray, "metric example"]]:
    """What reads the forwards of some prompts, and what it reads of the clean and the corrupted ones, unpatched."""
    logits = dict(zip(experiment.donors.base_and_other, (forwards.base_logits, forwards.other_logits), strict=True))
    pairs, vocab = experiment.pairs.select(examples), forwards.reads.vocab
    readout = Readout(experiment.metrics, pairs, logits["clean"], vocab, len(experiment.pairs))
    clean, corrupted = (
        readout(logits[prompts][None], f"the {prompts} forward pass")[:, 0].numpy()  # [metric example]
        for prompts in ("clean", "corrupted")
    )
    return readout, clean, corrupted


def measure(experiment: Experiment, part: Part) -> Iterator[Unpatched | Patched]:
    """Run a part: first its unpatched prompts, then its cells, a batch at a time.

    Cells that change nothing are left out.

    Raises:
        SweepError: A metric that is not finite, or memory that runs out.
        ExactnessError: Fast and plain disagree, after the last cell.
    """
    forwards, readout, unpatched = start(experiment, part)
    yield unpatched
    cells = [cell for cell in experiment.grid.cells(readout.pairs) if cell.index not in part.done]
    batches = list(cell_batches(forwards, cells, experiment.how.batch_tokens))
    changing = {cell.index for batch in batches for cell in batch}
    share, n_shares = part.share  # each of about as many neighbours
    batches = batches[share * len(batches) // n_shares : (share + 1) * len(batches) // n_shares]
    check = None
    if part.is_checked:
        start_plain = partial(experiment.start_forwards, plain=True)
        live = [cell for batch in batches for cell in batch]
        idle = [cell for cell in cells if cell.index not in changing]
        check = SelfCheck(start_plain, part.examples, forwards, live, idle)
    for batch, batch_logits in patch_batches(forwards, batches):
        where = f"patched at {experiment.grid.about} from layer {batch[0].layers[0]} on"
        values = readout(batch_logits, f"a {experiment.donors.direction} forward pass, {where}").numpy()
        for cell, cell_logits in zip(batch, batch_logits, strict=True):
            if check:
                check.saw(cell, cell_logits)
        yield Patched(part, [cell.index for cell in batch], values)
    if check:
        check.compare()
