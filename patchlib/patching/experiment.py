"""A sweep, checked once and then run: what to patch, what to write in, what to measure, and how to run it."""

import warnings
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from patchlib import stats
from patchlib._util import check_choice, user_level, versions
from patchlib.errors import ContrastWarning, SweepError
from patchlib.models.load import last_weights_hash, weights_hash
from patchlib.patching.batching import example_batches
from patchlib.patching.budget import GRAPH, check_batch_tokens
from patchlib.patching.checkpoint import Finished, open_checkpoint
from patchlib.patching.donors import Donors, PromptBatch
from patchlib.patching.engine import PatchedForwards
from patchlib.patching.grid import Grid
from patchlib.patching.head_values import HeadValueForwards
from patchlib.patching.metrics import Metrics, Reads
from patchlib.patching.parts import Part, Patched, Unpatched, measure, parts_of
from patchlib.patching.path_engine import PathForwards
from patchlib.patching.receivers import Receiver, receiver_masks
from patchlib.patching.selfcheck import fast_obstacle, warn_of_plain
from patchlib.patching.set_forwards import SetForwards, SetGrid
from patchlib.patching.severed import SeveredForwards, WindowGrid
from patchlib.patching.shared import Shared
from patchlib.patching.unpatched import Recorded, Work
from patchlib.patching.workers import check_executor, measured_by
from patchlib.progress import Progress, progress_bar
from patchlib.tasks.pairs import PromptPairs
from patchlib.tasks.tokens import text_of

Engine = Literal["auto", "fast", "plain"]
Paths = TypeVar("Paths", bound=PathForwards)
NOISE = "dividing by it would give noise"
WHY_NAN = {
    "answers swapped": "dividing by it would turn every sign around",
    "the model cannot do the task": "there is no behaviour to restore or to destroy",
}


@dataclass(frozen=True)
class HowToRun:
    """How a sweep is run: nothing here changes a number beyond float noise.

    Attributes:
        batch_tokens: Tokens in one forward.
        why_plain: Why the fast engine is not used; None where it is.
        checkpoint: The file for finished cells, if any.
        progress: As for ``sweep``.
        executor: What runs its parts; None for this process.
    """

    batch_tokens: int
    why_plain: str | None
    checkpoint: str | Path | None = None
    progress: Progress = False
    executor: Executor | None = None


def resolve_how(
    model: TransformerBridge,
    pairs: PromptPairs,
    engine: str,
    batch_tokens: int | None,
    checkpoint: str | Path | None,
    progress: Progress,
    executor: Executor | None,
) -> HowToRun:
    """How ``sweep`` was asked to run; SweepError for an engine that does not exist or does not hold here."""
    check_choice("engine", engine, get_args(Engine))
    why_plain = "as asked" if engine == "plain" else fast_obstacle(model, max(map(len, pairs.clean_tokens)))
    if engine == "fast" and why_plain is not None:
        raise SweepError(f"engine='fast' does not hold for {model.cfg.model_name}: {why_plain}. Use engine='auto'.")
    if engine == "auto" and why_plain is not None:
        warn_of_plain(model, why_plain)
    if executor is not None:
        check_executor(executor, model)
    return HowToRun(check_batch_tokens(model, batch_tokens), why_plain, checkpoint, progress, executor)


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
        shared: What other experiments on the same prompts leave to this one; None where it is alone.
    """

    model: TransformerBridge
    pairs: PromptPairs
    grid: Grid
    donors: Donors
    metrics: Metrics
    how: HowToRun
    receivers: tuple[Receiver, ...] | None = None
    shared: Shared | None = None

    def example_batches(self) -> list[list[int]]:
        """Which examples (of one length) go together."""
        # With a graph a forward takes more memory, and what is shared is of the same examples with and without.
        tokens = self.how.batch_tokens // GRAPH if self.shared else self.how.batch_tokens
        return list(example_batches(self.pairs, max(1, tokens)))

    def start_forwards(self, examples: list[int], *, plain: bool = False) -> PatchedForwards:
        """The forwards of some examples (of one length), ready to be patched: the plain way where asked or needed."""
        if self.receivers is not None:
            return self.start_paths(examples, PathForwards, plain=plain)
        kind: type[PatchedForwards] = HeadValueForwards if self.grid.site.name == "head_v" else PatchedForwards
        kind = SeveredForwards if isinstance(self.grid, WindowGrid) and self.grid.severed else kind
        kind = SetForwards if isinstance(self.grid, SetGrid) else kind
        return kind(self.model, self.grid, *self._work(examples, plain))

    def start_paths(self, examples: list[int], kind: type[Paths], *, plain: bool = False) -> Paths:
        """``start_forwards`` of direct paths to the receivers, patched or, by another kind of forwards, estimated."""
        prompts, work, recorded = self._work(examples, plain)
        masks = receiver_masks(self.model, self.receivers or (), self.pairs.select(examples))
        return kind(self.model, self.grid, prompts, work, masks, recorded)

    def _work(self, examples: list[int], plain: bool) -> tuple[PromptBatch, Work, Recorded | None]:
        """What forwards of some examples start from."""
        fast = self.how.why_plain is None and not plain
        # What is swept the fast way takes logits_to_keep, and so can the few cells that are checked the plain way.
        reads, all_logits = Reads.of(self.metrics, self.pairs), self.how.why_plain is not None
        work = Work(fast, reads, self.how.batch_tokens, all_logits)
        prompts = self.donors.batch(self.pairs, examples)
        recorded = None if self.shared is None else self.shared.recorded(self.model, examples, prompts, work)
        return prompts, work, recorded

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
            coords={"metric": list(self.metrics), **values, **self._labels()},
            attrs=self._origin(),
        )

    def attributes(self) -> dict[str, str | int]:
        """What a result records of the sweep."""
        engine = "fast" if self.how.why_plain is None else f"plain ({self.how.why_plain})"
        site = {"site": self.grid.site.name}
        paths = {} if self.receivers is None else {"receivers": ", ".join(map(str, self.receivers)) or "logits"}
        return {**site, **self.donors.attributes(), **self.grid.attributes(), "engine": engine, **paths}

    def run(self) -> xr.Dataset:
        """Every cell of the grid patched, beside the two unpatched forwards, and its effect: what ``sweep`` returns."""
        result = self.patched()
        warn_of_contrast(result)
        return result.assign(effect=stats.effect(result))

    def patched(self) -> xr.Dataset:
        """Every cell of the grid patched, beside the two unpatched forwards."""
        grid, how, (base, _) = self.grid, self.how, self.donors.base_and_other
        result = self.empty_result().assign_attrs(self.attributes())
        n_cells = grid.n_cells
        with (
            open_checkpoint(how.checkpoint, self, result) as finished,
            progress_bar(len(self.pairs) * n_cells, f"{self.donors.direction} {grid.about}", how.progress) as bar,
        ):
            parts = parts_of(self, finished, shared=how.executor is not None)
            measured = self._measured_here(parts) if how.executor is None else measured_by(how.executor, self, parts)
            n_done = 0
            for step in measured:
                if isinstance(step, Unpatched):
                    self._start(result, step, base, finished)
                    continue
                for cell, values in zip(step.cells, step.values.swapaxes(0, 1), strict=True):
                    result.patched.values[(slice(None), *cell, step.part.examples)] = values  # [metric example]
                finished.add(step.cells, step.part.examples, step.values)
                n_done += len(step.cells) * len(step.part.examples)
                bar.update(len(step.cells) * len(step.part.examples))
            bar.update(n_cells * len(self.pairs) - n_done)  # cells that needed no forward
        if how.executor is not None:  # not before, since a checkpoint goes on with whatever executor
            result.attrs["executor"] = f"{type(how.executor).__name__}, {len(parts)} parts"
        return result

    def _measured_here(self, parts: list[Part]) -> Iterator[Unpatched | Patched]:
        for part in parts:
            yield from measure(self, part)

    def _start(self, result: xr.Dataset, step: Unpatched, base: str, finished: Finished) -> None:
        """Put in what is known of some prompts without patching: unpatched metrics, and finished cells."""
        examples = step.part.examples
        if not result[base].isel(example=examples).isnull().all():  # another part of these prompts came before
            return
        result.clean.values[:, examples], result.corrupted.values[:, examples] = step.clean, step.corrupted
        for cell in self.grid.cells(self.pairs.select(examples)):
            saved = finished.get(cell.index, examples)
            # What a patch gives that changes nothing, until it is found to change something.
            known = result[base].values[:, examples] if saved is None else saved
            result.patched.values[(slice(None), *cell.index, examples)] = known  # [metric example]

    def _labels(self) -> dict[str, Any]:
        """Coordinates beside the axes: prompts and answers per example, and what stands at each position."""
        texts = self.pairs.example_prompts(self.model)
        coords: dict[str, Any] = {name: ("example", list(map(savable, column))) for name, column in texts.items()}
        coords["example"] = np.arange(len(self.pairs))
        if self.pairs.clusters:
            coords["cluster"] = ("example", list(map(savable, self.pairs.clusters)))
        if "pos" in self.grid.values:
            coords["pos_label"] = ("pos", [savable(self._shared(position)) for position in self.grid.values["pos"]])
        return coords

    def _shared(self, position: int) -> str:
        """The token where all prompts have the same one, else the role, in angle brackets, that all have there."""
        pairs = self.pairs
        rows = [(i, row) for i, row in enumerate(pairs.clean_tokens) if -len(row) <= position < len(row)]
        others = [pairs.corrupted_tokens[i] for i, _ in rows]
        if len(tokens := {int(row[position]) for row in (*(row for _, row in rows), *others)}) == 1:
            token = text_of(self.model, [tokens.pop()])
            return token.strip() or repr(token)
        where = {i: position % len(row) for i, row in rows}
        shared = [role for role, index in pairs.roles.items() if all(int(index[i]) == where[i] for i in where)]
        return f"<{shared[0]}>" if shared else ""

    def _origin(self) -> dict[str, str | int | float]:
        """Model, weights, task and library versions, as attributes that netCDF can hold."""
        model, pairs = self.model, self.pairs
        return {
            "model": str(model.cfg.model_name),
            # A checkpoint may be of weights that were changed behind PyTorch's back: all are read.
            "weights_hash": last_weights_hash(model) if self.how.checkpoint is None else weights_hash(model),
            "dtype": str(model.cfg.dtype).removeprefix("torch."),
            "device": str(model.cfg.device),
            "prepend_bos": str(bool(model.cfg.default_prepend_bos)),
            "task": pairs.name,
            "seed": "none" if pairs.seed is None else int(pairs.seed),
            "n_examples": len(pairs),
            **{f"task_{k}": str(value) if isinstance(value, bool) else value for k, value in pairs.metadata.items()},
            **{f"version_{name.replace('-', '_')}": version for name, version in versions().items()},
        }


def savable(text: str) -> str:
    """A label as a file can hold it: some tokens are the byte 0, which netCDF refuses."""
    return text.replace("\0", "\\0")


def warn_of_contrast(result: xr.Dataset) -> None:
    """Warn of metrics whose contrast is not usable, so that effects are NaN."""
    table = stats.contrast(result)
    for metric in table.index[~table.usable]:
        row = table.loc[[metric]]
        warnings.warn(
            f"{stats.why_unusable(row)} Effects are NaN, because {WHY_NAN.get(row.reason.item(), NOISE)}.",
            ContrastWarning,
            stacklevel=user_level(),
        )
