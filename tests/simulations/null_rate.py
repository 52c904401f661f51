"""How often does a step of ``discover`` take a head that has no effect?

    python -m tests.simulations.null_rate --prompts 48 --searches 200

The effects are those of 270 heads' direct paths on the default model's own prompts, with the truth taken out: in
"centred" each head's mean over all prompts is subtracted, which keeps the skew that it has; in "flipped" all that a
prompt does changes its sign by chance. Prompts are then drawn with replacement. "interval" is the rule that was: a head
is taken if its 95% interval (percentile bootstrap) leaves out 0, whatever its size; "step" is the one that is: of the 8
largest effects, those with a corrected p-value below .05.

What it printed (48 prompts, 200 searches; the share of heads without effect that pass, the share of steps that take
one or more, and how many they take in the mean)::

    effects  n  heads that pass by interval  steps that take a head  heads taken a step
    centred  4                        0.222                   0.020               0.025
    flipped  4                        0.198                   0.005               0.005
    centred  8                        0.146                   0.010               0.010
    flipped  8                        0.123                   0.000               0.000
    centred 16                        0.104                   0.010               0.010
    flipped 16                        0.089                   0.005               0.010
    centred 32                        0.079                   0.010               0.010
    flipped 32                        0.074                   0.000               0.000
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
import pandas as pd
import xarray as xr

import patchlib
from patchlib.circuits.tested import RATE, corrected_p_values

SIZES = (4, 8, 16, 32)
N_RESAMPLES, MAX_HEADS = 500, 8


def nulls(moved: np.ndarray, n: int, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Effects of some prompts, in the metric's units, whose mean over all prompts is 0: ``[head example]``."""
    drawn = rng.integers(moved.shape[1], size=n)
    yield "centred", (moved - moved.mean(1, keepdims=True))[:, drawn]
    yield "flipped", moved[:, drawn] * rng.choice([-1, 1], size=n)


def by_interval(moved: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Whether the 95% interval of each head's mean leaves out 0."""
    means = moved[:, rng.integers(moved.shape[1], size=(N_RESAMPLES, moved.shape[1]))].mean(-1)  # [head resample]
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    return (low > 0) | (high < 0)


def by_step(moved: np.ndarray, shape: tuple[int, int]) -> int:
    """How many heads a step takes."""
    n_layers, n_heads = shape
    variables = {name: (("metric", "example"), np.zeros((1, moved.shape[1]))) for name in ("clean", "corrupted")}
    patched = (("metric", "layer", "head", "example"), moved.reshape(1, n_layers, n_heads, -1))
    coords = {"metric": ["logit_diff"], "layer": range(n_layers), "head": range(n_heads)}
    result = xr.Dataset({"patched": patched, **variables}, coords, {"direction": "noise"})
    largest = np.argsort(-abs(moved.mean(1)))[:MAX_HEADS]
    table = pd.DataFrame({"layer": largest // n_heads, "head_index": largest % n_heads})
    return int((corrected_p_values(result, table) < RATE).sum())


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--searches", type=int, default=200)
    wanted = parser.parse_args()
    model = patchlib.load_model()
    task = patchlib.IOIDataset(model, n_prompts=wanted.prompts, seed=0, corruption="abc")
    result = patchlib.path_patch(model, task, positions="END")
    shape = result.sizes["layer"], result.sizes["head"]
    moved = (result.patched - result.clean).isel(metric=0).transpose("layer", "head", "example").values
    moved = moved.reshape(shape[0] * shape[1], -1).astype("float64")
    rng = np.random.default_rng(0)
    rows: dict[tuple[str, int], list[tuple[float, int]]] = {}
    for n in SIZES:
        for _ in range(wanted.searches):
            for kind, null in nulls(moved, n, rng):
                rows.setdefault((kind, n), []).append((by_interval(null, rng).mean(), by_step(null, shape)))
    table = pd.DataFrame(
        {
            "effects": kind,
            "n": n,
            "heads that pass by interval": np.mean([share for share, _ in found]),
            "steps that take a head": np.mean([taken > 0 for _, taken in found]),
            "heads taken a step": np.mean([taken for _, taken in found]),
        }
        for (kind, n), found in rows.items()
    )
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
