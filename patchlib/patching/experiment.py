"""What a sweep is made of, checked once: what to patch, what to write in, what to measure, and how to run it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import check_choice
from patchlib.errors import SweepError
from patchlib.patching.budget import check_batch_tokens
from patchlib.patching.donors import Donors
from patchlib.patching.engine import PatchedForwards, Work
from patchlib.patching.grid import Grid
from patchlib.patching.labels import labels, result_attributes
from patchlib.patching.metrics import Metrics, Readout, Reads
from patchlib.patching.path_engine import PathForwards
from patchlib.patching.receivers import Receiver, receiver_masks
from patchlib.patching.selfcheck import fast_obstacle
from patchlib.progress import Progress
from patchlib.tasks.pairs import PromptPairs

Engine = Literal["auto", "fast", "plain"]


@dataclass(frozen=True)
class HowToRun:
    """How a sweep is run: nothing here changes a number beyond float noise.

    Attributes:
        batch_tokens: Tokens in one forward.
        why_plain: Why the fast engine is not used; None where it is.
        checkpoint: The file for finished cells, if any.
        progress: As for ``sweep``.
    """

    batch_tokens: int
    why_plain: str | None
    checkpoint: str | Path | None = None
    progress: Progress = False


def resolve_how(
    model: TransformerBridge, engine: str, batch_tokens: int | None, checkpoint: str | Path | None, progress: Progress
) -> HowToRun:
    """How ``sweep`` was asked to run; SweepError for an engine that does not exist or does not hold here."""
    check_choice("engine", engine, get_args(Engine))
    why_plain = "as asked" if engine == "plain" else fast_obstacle(model)
    if engine == "fast" and why_plain is not None:
        raise SweepError(f"engine='fast' does not hold for {model.cfg.model_name}: {why_plain}. Use engine='auto'.")
    return HowToRun(check_batch_tokens(model, batch_tokens), why_plain, checkpoint, progress)


@dataclass(frozen=True)
class Experiment:
    """Everything that a sweep's numbers depend on, and how to run it.

    Attributes:
        model: It passed ``check_model``.
        pairs: The prompts.
        grid: What to patch.
        donors: What to write in, and into which of the two prompts.
        metrics: What to measure, by name.
        how: How to run it.
        receivers: Where direct paths lead, none standing for the logits; None where patches go everywhere.
    """

    model: TransformerBridge
    pairs: PromptPairs
    grid: Grid
    donors: Donors
    metrics: Metrics
    how: HowToRun
    receivers: tuple[Receiver, ...] | None = None

    def start_forwards(self, examples: list[int], *, plain: bool = False) -> PatchedForwards:
        """The forwards of some examples (of one length), ready to be patched: the plain way where asked or needed."""
        fast = self.how.why_plain is None and not plain
        work = Work(fast, Reads.of(self.metrics, self.pairs), self.how.batch_tokens)
        prompts = self.donors.batch(self.pairs, examples)
        if self.receivers is None:
            return PatchedForwards(self.model, self.grid, prompts, work)
        masks = receiver_masks(self.model, self.receivers, self.pairs.select(examples))
        return PathForwards(self.model, self.grid, prompts, work, masks)

    def read_unpatched(self, forwards: PatchedForwards, examples: list[int], result: xr.Dataset) -> Readout:
        """Put the metrics of the clean and corrupted prompts into a result, and give what reads the patched logits."""
        both = (forwards.base_logits, forwards.other_logits)
        logits = dict(zip(self.donors.base_and_other, both, strict=True))
        readout = Readout(self.metrics, self.pairs.select(examples), logits["clean"], forwards.reads.vocab)
        for prompts in ("clean", "corrupted"):
            values = readout(logits[prompts][None], f"the {prompts} forward pass")  # [metric 1 example]
            result[prompts].values[:, examples] = values[:, 0].numpy()
        return readout

    def empty_result(self) -> xr.Dataset:
        """The result, labelled, with every number still missing."""
        values = self.grid.values
        n_values = {axis: len(values[axis]) for axis in values}
        sizes = {"metric": len(self.metrics), **n_values, "example": len(self.pairs)}

        def missing(*dims: str) -> tuple[tuple[str, ...], np.ndarray]:
            return dims, np.full([sizes[dim] for dim in dims], np.nan, dtype=np.float32)

        unpatched = {prompts: missing("metric", "example") for prompts in ("clean", "corrupted")}
        return xr.Dataset(
            {"patched": missing(*sizes), **unpatched},
            coords={"metric": list(self.metrics), **values, **labels(self.model, self.pairs, values)},
            attrs=result_attributes(self.model, self.pairs),
        )

    def attributes(self) -> dict[str, str | int]:
        """What a result records of the sweep."""
        engine = "fast" if self.how.why_plain is None else f"plain ({self.how.why_plain})"
        site = {"site": self.grid.site.name}
        paths = {} if self.receivers is None else {"receivers": ", ".join(map(str, self.receivers)) or "logits"}
        return {**site, **self.donors.attributes(), **self.grid.attributes(), "engine": engine, **paths}
