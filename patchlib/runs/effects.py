"""What a report says of each run in numbers: each result with an effect, read once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from patchlib._util import cell_name
from patchlib.errors import RunError
from patchlib.runs.collect import OK, Run
from patchlib.runs.lazy import read_some


@dataclass(frozen=True)
class Effects:
    """One result of one run.

    Attributes:
        metric: The result's first one, which all numbers here are in.
        site: Where was patched, as "z"; empty where the result does not say.
        direction: "denoise" or "noise"; empty where the result does not say.
        n: Prompts.
        clean: Mean over prompts of the unpatched clean run; None where the result does not say.
        corrupted: The same of the corrupted run.
        cells: Effect by cell, its index the swept axes.
    """

    run: Run
    result: str
    metric: str
    site: str
    direction: str
    n: int
    clean: float | None
    corrupted: float | None
    cells: pd.Series

    @property
    def kind(self) -> tuple[str, ...]:
        """What two results have to share for their effects to be held against each other; last, the axes."""
        return self.metric, self.site, self.direction, ", ".join(map(str, self.cells.index.names))

    @property
    def has_heads(self) -> bool:
        """Whether its cells are heads, of which a layer has several."""
        return not {"head", "kv_head"}.isdisjoint(self.cells.index.names)

    @property
    def is_stream(self) -> bool:
        """Whether the residual stream was patched: where the prompts differ, its effect is 1 by construction."""
        return self.site.startswith("resid")

    def largest(self) -> tuple[str, float] | None:
        """The cell with the largest absolute effect; None where there is no effect at all."""
        known = self.cells.dropna()
        if known.empty:
            return None
        at = known.abs().idxmax()
        return named(self.cells, at), float(known[at])


def named(cells: pd.Series, at: object) -> str:
    """The name of a cell, given by its place in the index."""
    place = at if isinstance(at, tuple) else (at,)
    row = dict(zip(cells.index.names, place, strict=True))
    return cell_name(row) if "layer" in row else ", ".join(f"{axis} {value}" for axis, value in row.items())


def first_effects(effects: Sequence[Effects]) -> dict[str, Effects]:
    """For each run's name the result that speaks for it: of most prompts, of a component rather than the stream."""
    found: dict[str, Effects] = {}
    for one in effects:
        other = found.setdefault(one.run.name, one)
        if (one.n, not one.is_stream) > (other.n, not other.is_stream):
            found[one.run.name] = one
    return found


def read_effects(runs: Iterable[Run]) -> tuple[list[Effects], dict[str, str]]:
    """Every result with an effect of the runs that finished, and what is wrong with those that cannot be read.

    Returns:
        The effects, in the order of the runs and of their results; and run's name -> error.
    """
    found, errors = [], {}
    for run in runs:
        for result, path in run.results.items():
            if run.status == OK and path.suffix == ".nc":
                try:
                    effects = _read(run, result)
                except RunError as error:  # one bad file must not keep the others from being shown
                    errors[run.name] = str(error)
                else:
                    found += [effects] if effects else []
    return found, errors


def _read(run: Run, result: str) -> Effects | None:
    file = read_some(run.results[result], ("effect", "clean", "corrupted"))
    if "effect" not in file or not set(file.effect.dims) - {"metric"}:
        return None
    one = file.isel(metric=0) if "metric" in file.dims else file
    clean, corrupted = (float(one[name].mean()) if name in one else None for name in ("clean", "corrupted"))
    metric = str(one["metric"].item()) if "metric" in one.coords else "effect"
    cells = one.effect.reset_coords(drop=True).to_series().replace([np.inf, -np.inf], np.nan)
    site, direction = (str(file.attrs.get(name, "")) for name in ("site", "direction"))
    return Effects(run, result, metric, site, direction, file.sizes.get("example", 0), clean, corrupted, cells)
