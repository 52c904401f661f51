"""What checks ask the library: quiet sweeps of the logit difference, and cells in which a wrong answer shows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from jaxtyping import Float
from transformer_lens.model_bridge import TransformerBridge

from patchlib import stats
from patchlib._util import Head
from patchlib.errors import TaskError
from patchlib.patching.sweeps import sweep
from patchlib.tasks.pairs import PromptPairs

T = TypeVar("T")
N_PROMPTS = 4
"""Prompts that a check calls a student's function on: enough for a ratio of means, and seconds on the default model."""


def few(task: PromptPairs, n: int = N_PROMPTS) -> PromptPairs:
    """The last prompts of a task: a notebook's example is its first."""
    return task.select(range(max(0, len(task) - n), len(task)))


def swept(model: TransformerBridge, task: PromptPairs, site: str, over: Sequence[str], **how: Any) -> xr.Dataset:
    """``sweep`` of the logit difference, without a bar and without warnings: a check reads what it needs itself."""
    return quietly(sweep, model, task, site, over, metric="logit_diff", progress=False, **how).isel(metric=0)


def quietly(function: Callable[..., T], *arguments: Any, **how: Any) -> T:
    """What one of the library's functions returns, without warnings."""
    with warnings.catch_warnings(action="ignore"):
        return function(*arguments, **how)


def effects(result: xr.Dataset) -> Float[np.ndarray, "*axes"]:
    """The effects of a result of ``swept``; TaskError where they have nothing to be divided by."""
    whole = result.expand_dims("metric")
    if not (said := stats.contrast(whole)).usable.all():
        raise TaskError(f"This variant cannot be checked: {stats.why_unusable(said)} Take another seed, task or model.")
    values: Float[np.ndarray, "*axes"] = result.effect.values.astype(np.float64)
    return values


def mean_of_ratios(result: xr.Dataset) -> Float[np.ndarray, "*axes"]:
    """The mean over prompts of each prompt's own effect: the mistake that ``effects`` does not make."""
    base, other = (result[name] for name in ("corrupted", "clean")[:: 1 if result.direction == "denoise" else -1])
    ratios: Float[np.ndarray, "*axes"] = ((result.patched - base) / (other - base)).mean("example").values
    return ratios


def layers_of(model: TransformerBridge) -> list[int]:
    """Two layers that no example takes: a third of the way up, and the last."""
    n = int(model.cfg.n_layers)
    return sorted({n // 3, n - 1})


def telling_heads(result: xr.Dataset, n: int = 2) -> list[Head]:
    """The (layer, head) of a sweep whose patches move the metric most, so that a wrong one gives another number."""
    base = result.corrupted if result.direction == "denoise" else result.clean
    moved = abs((result.patched - base).mean("example")).stack(cell=("layer", "head"))
    order = np.argsort(-moved.values, kind="stable")[:n]
    return [(int(layer), int(head)) for layer, head in moved.cell.values[order]]
