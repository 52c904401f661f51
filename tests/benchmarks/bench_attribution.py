"""How long estimates take beside the exact sweep, and beside TransformerLens' own where that runs.

    python -m tests.benchmarks.bench_attribution [--prompts 8] [--repeats 3]

Everything runs in one process and in turn; printed are medians over repeats. TransformerLens' ``attribution_patch``
takes one pair of prompts at a time, and needs weights that take gradients; its time is for all of them. The default
model groups its keys and values, which TransformerLens refuses; so a model of GPT-2 small's shape runs beside it.
"""

from __future__ import annotations

import argparse
import resource
import statistics
from collections.abc import Callable
from functools import partial

import torch
from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch

import patchlib
from tests.benchmarks.bench_sweep import timed
from tests.helpers import make_pairs
from tests.tiny import load_tiny

EXACT = "sweep z by head, exact"


def transformer_lens(model, pairs, granularity: str) -> None:
    """All pairs of prompts, one at a time."""
    right, wrong = pairs.answers[0]
    for weight in model.parameters():
        weight.requires_grad_(True)
    try:
        for clean, corrupted in zip(pairs.clean_tokens, pairs.corrupted_tokens, strict=True):
            attribution_patch(
                model,
                clean[None],
                corrupted[None],
                lambda logits: (logits[:, -1, right] - logits[:, -1, wrong]).sum(),
                EdgeAttributionConfig(granularity=granularity),
            )
    finally:
        for weight in model.parameters():
            weight.requires_grad_(False)


def rows_of(model, pairs) -> dict[str, Callable[[], object]]:
    """What is timed of a model."""
    quiet, heads, by_pos = {"progress": False}, ("layer", "head"), ("layer", "pos")
    sites = ["resid_pre", "attn_out", "mlp_out"]
    return {
        EXACT: partial(patchlib.sweep, model, pairs, "z", heads, **quiet),
        "attribute z by head": partial(patchlib.attribute, model, pairs, "z", heads, **quiet),
        "attribute 3 sites by position": partial(patchlib.attribute, model, pairs, sites, by_pos, **quiet),
        "attribute z, 5 midpoints": partial(patchlib.attribute, model, pairs, "z", heads, method="integrated", **quiet),
        "sweep z, sieved": partial(patchlib.sweep, model, pairs, "z", heads, prefilter="attribution", **quiet),
        "all edges, eap": partial(patchlib.attribute_edges, model, pairs, **quiet),
    }


def bench(name: str, model, rows: dict[str, Callable[[], object]], repeats: int) -> None:
    """Print the medians of a model's rows."""
    times: dict[str, list[float]] = {row: [] for row in rows}
    for _ in range(repeats):
        for row, run in rows.items():
            times[row].append(timed(run)[0])
    print(f"\n{name}")
    exact = statistics.median(times[EXACT])
    for row, seconds in times.items():
        median = statistics.median(seconds)
        print(f"{row:<32}{median:>8.2f} s  {exact / median:>6.1f} times faster than the exact sweep of z")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, {given.prompts} prompts, medians of {given.repeats}")
    model = patchlib.load_model()
    pairs = patchlib.IOIDataset(model, n_prompts=given.prompts, seed=0).to_pairs(model)
    bench(model.cfg.model_name, model, rows_of(model, pairs), given.repeats)
    model = load_tiny("gpt2-small")
    pairs = make_pairs(model, n=given.prompts, length=15, start=9)
    theirs = {f"TransformerLens' {kind}s": partial(transformer_lens, model, pairs, kind) for kind in ("node", "edge")}
    bench("GPT-2 small's shape", model, rows_of(model, pairs) | theirs, given.repeats)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


if __name__ == "__main__":
    main()
