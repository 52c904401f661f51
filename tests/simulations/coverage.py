"""How often 95% intervals hold what they claim, of ways to make them, numbers of prompts, and kinds of data.

    python -m tests.simulations.coverage             # the table in docs/limits.md, half a minute
    python -m tests.simulations.coverage --bank      # first measures the model's own data anew

A population is drawn from again and again, and the share of draws is counted in whose interval the population's own
ratio (or mean) lies. The model's own data are hundreds of prompts' logit differences, clean, corrupted and with single
heads patched; prompts, or wordings and then prompts of them, are drawn from these.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import norm
from scipy.stats import t as student

from patchlib.stats.intervals import ratio_intervals

BANK = Path(__file__).with_name("bank.npz")
HEADS = [(20, 0), (23, 3), (24, 4), (17, 4), (29, 1), (20, 1)]
"""Of the default model: large, small, negative and next to no effect, and one that depends on the order of names."""
SIZES = (6, 8, 16, 64)
N_RESAMPLES = 999
Sample = tuple[np.ndarray, np.ndarray, float, np.ndarray | None]
"""Above and below the line [draw example], the population's ratio, and the prompts' wordings where they are shared."""


def make_bank(n_prompts: int = 480) -> None:
    """Measure the model's own data: 16 wordings, 30 prompts of each."""
    import patchlib

    model = patchlib.load_model()
    task = patchlib.IOIDataset(model, n_prompts=n_prompts, seed=2024)
    layers, heads = (sorted({pair[i] for pair in HEADS}) for i in (0, 1))
    result = patchlib.sweep(model, task, "z", ("layer", "head"), layers=layers, heads=heads)
    of_heads = [result.patched.sel(layer=layer, head=head)[0] for layer, head in HEADS]
    _, wording = np.unique(task.to_pairs(model).clusters, return_inverse=True)
    patched = np.stack(of_heads).astype("float32")
    np.savez_compressed(BANK, clean=result.clean[0], corrupted=result.corrupted[0], patched=patched, wording=wording)


def synthetic(draw: np.random.Generator, n: int, n_draws: int) -> Iterator[tuple[str, Sample]]:
    """Effects on a contrast of 8 that spreads by 2.3 over prompts, as the default model's does."""
    shape = (n_draws, n)
    below, one = draw.normal(8, 2.3, shape), np.ones(shape)
    noise = draw.normal(0, 1.5, shape)
    yield "ratio, normal", (0.3 * below + noise, below, 0.3, None)
    yield "ratio, exponential", (draw.exponential(2.4, shape), below, 0.3, None)
    yield "ratio, lognormal", (2.4 * draw.lognormal(-0.5, 1, shape), below, 0.3, None)
    skewed = 4 + draw.exponential(4, shape)
    yield "ratio, both exponential", (draw.exponential(2.4, shape), skewed, 0.3, None)
    yield "mean, normal", (2 + noise, one, 2.0, None)
    yield "mean, exponential", (draw.exponential(2, shape), one, 2.0, None)
    yield "mean, lognormal", (draw.lognormal(-0.5, 1, shape), one, 1.0, None)


def of_the_model(draw: np.random.Generator, n: int, n_draws: int, n_wordings: int) -> Iterator[tuple[str, Sample]]:
    """Prompts of the bank; with ``n_wordings``, so many of its wordings and as many prompts of each."""
    with np.load(BANK) as bank:
        clean, corrupted, patched, wording = (bank[name] for name in ("clean", "corrupted", "patched", "wording"))
    clusters = None
    chosen = draw.integers(len(clean), size=(n_draws, n))
    if n_wordings:
        prompts = np.array([np.flatnonzero(wording == label) for label in range(wording.max() + 1)])  # [wording prompt]
        clusters = np.repeat(np.arange(n_wordings), n // n_wordings)
        drawn = draw.integers(len(prompts), size=(n_draws, n_wordings))[:, clusters]  # [draw example]
        chosen = prompts[drawn, draw.integers(prompts.shape[1], size=(n_draws, n))]
    below = (clean - corrupted).astype("float64")
    for (layer, head), values in zip(HEADS, patched, strict=True):
        above = (values - corrupted).astype("float64")
        yield f"L{layer}H{head}", (above[chosen], below[chosen], above.mean() / below.mean(), clusters)
    yield "contrast", (below[chosen], np.ones((n_draws, n)), below.mean(), clusters)


def fieller(above: np.ndarray, below: np.ndarray, clusters: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Fieller's interval alone: prompts taken as independent, and no correction for skewness."""
    n = above.shape[1]
    t = student.ppf(0.975, n - 1)
    x, y = above.mean(1), below.mean(1)
    a, b = above - x[:, None], below - y[:, None]
    xx, xy, yy = ((p * q).sum(1) * t**2 / (n * (n - 1)) for p, q in ((a, a), (a, b), (b, b)))
    room = y**2 - yy
    root = np.sqrt(np.maximum((x * y - xy) ** 2 - room * (x**2 - xx), 0))
    ends = ((x * y - xy + sign * root) / room for sign in (-1, 1))
    low, high = (np.where(room > 0, end, np.nan) for end in ends)
    return low, high


def resampled(kind: str) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """A bootstrap interval of Efron and Tibshirani 1993: "percentile", "BCa" or "studentised"."""

    def interval(above: np.ndarray, below: np.ndarray, clusters: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        n = above.shape[1]
        draw = np.random.default_rng(0)
        weights = np.array([np.bincount(draw.integers(n, size=n), minlength=n) for _ in range(N_RESAMPLES)]).T / n
        ratio = above.mean(1) / below.mean(1)
        x, y = above @ weights, below @ weights  # [draw resample]
        ratios = x / y
        if kind == "percentile":
            return tuple(np.quantile(ratios, [0.025, 0.975], axis=1))
        if kind == "BCa":
            bias = norm.ppf((ratios < ratio[:, None]).mean(1).clip(0.5 / N_RESAMPLES, 1 - 0.5 / N_RESAMPLES))
            without = (above.sum(1, keepdims=True) - above) / (below.sum(1, keepdims=True) - below)
            pull = without.mean(1, keepdims=True) - without
            acceleration = (pull**3).sum(1) / (6 * (pull**2).sum(1) ** 1.5)
            z = bias + norm.ppf([[0.025], [0.975]])
            levels = norm.cdf(bias + z / (1 - acceleration * z))  # [end draw]
            ordered = np.sort(ratios, axis=1)
            ends = (levels * N_RESAMPLES).astype(int).clip(0, N_RESAMPLES - 1)
            return tuple(np.take_along_axis(ordered, ends.T, 1).T)
        squares = (above**2) @ weights - 2 * ratios * ((above * below) @ weights) + ratios**2 * ((below**2) @ weights)
        errors = np.sqrt(np.maximum(squares, 1e-12)) / abs(y)  # of above - ratio * below, whose mean is 0
        pivots = np.quantile((ratios - ratio[:, None]) / errors, [0.975, 0.025], axis=1)  # [end draw]
        error = np.sqrt(((above - ratio[:, None] * below) ** 2).mean(1)) / abs(below.mean(1))
        return tuple(ratio - pivots * error)

    return interval


METHODS: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "percentile bootstrap": resampled("percentile"),
    "BCa bootstrap": resampled("BCa"),
    "studentised bootstrap": resampled("studentised"),
    "Fieller": fieller,
    "patchlib": lambda above, below, clusters: ratio_intervals(above, below, 0.95, clusters),
}


def coverage(sample: Sample, method: str) -> tuple[float, float, float]:
    """Share of intervals that hold the truth, their median width, and the share of draws that have none."""
    above, below, truth, clusters = sample
    low, high = METHODS[method](above, below, clusters)
    has_interval = np.isfinite(low) & np.isfinite(high)
    holds = (low <= truth) & (truth <= high)
    return holds[has_interval].mean(), float(np.median((high - low)[has_interval])), 1 - has_interval.mean()


def table(n_draws: int = 2000, seed: int = 0, methods: tuple[str, ...] = tuple(METHODS)) -> pd.DataFrame:
    """A row for each population and number of prompts; the model's heads are one row, of their mean and their worst."""
    draw, rows = np.random.default_rng(seed), []
    for n in SIZES:
        for population, sample in synthetic(draw, n, n_draws):
            rows += [(population, n, method, *coverage(sample, method)) for method in methods]
        for n_wordings in (0, 16) if n == 64 else (0,):
            name = f"the model's, {n_wordings} wordings" if n_wordings else "the model's"
            for head, sample in of_the_model(draw, n, n_draws, n_wordings):
                rows += [(f"{name}, {head}", n, method, *coverage(sample, method)) for method in methods]
    return pd.DataFrame(rows, columns=["population", "n", "method", "coverage", "width", "without"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank", action="store_true", help="measure the model's own data anew")
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.bank:
        make_bank()
    long = table(arguments.draws, arguments.seed)
    for column in ("coverage", "width", "without"):
        wide = long.pivot_table(column, ["population", "n"], "method", sort=False)[list(METHODS)]
        print(f"\n{column}\n{wide.round(3).to_string()}")


if __name__ == "__main__":
    main()
