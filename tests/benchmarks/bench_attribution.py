"""How long estimates take beside the exact sweep, and beside TransformerLens' own where that runs.

    python -m tests.benchmarks.bench_attribution [--prompts 8] [--repeats 3]
    python -m tests.benchmarks.bench_attribution --memory 8 16 32

Everything runs in one process and in turn; printed are medians over repeats, of wall and of CPU time: the latter also
says something where other programs run beside it. TransformerLens' ``attribution_patch`` takes one pair of prompts at a
time, and needs weights that take gradients; its time is for all of them. The default model groups its keys and values,
which TransformerLens refuses; so a model of GPT-2 small's shape runs beside it. With ``--memory``: the peak of a
process that scores all edges of as many prompts.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
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


def of_process(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds of wall time and of CPU time."""
    begin = time.process_time()
    wall, _ = timed(run)
    return wall, time.process_time() - begin


def bench(name: str, model, rows: dict[str, Callable[[], object]], repeats: int) -> None:
    """Print the medians of a model's rows."""
    times: dict[str, list[tuple[float, float]]] = {row: [] for row in rows}
    for _ in range(repeats):
        for row, run in rows.items():
            times[row].append(of_process(run))
    medians = {row: [statistics.median(kind) for kind in zip(*pairs, strict=True)] for row, pairs in times.items()}
    print(f"\n{name}")
    for row, (wall, cpu) in medians.items():
        ratio = medians[EXACT][1] / cpu
        print(f"{row:<32}{wall:>8.2f} s wall{cpu:>8.2f} s CPU{ratio:>8.1f} times less CPU than the exact sweep of z")


def peak_of_edges(n_prompts: int) -> str:
    """The peak of a process of its own."""
    code = (
        "import resource, patchlib; model = patchlib.load_model(); "
        f"task = patchlib.IOIDataset(model, n_prompts={n_prompts}, seed=0); "
        "patchlib.attribute_edges(model, task, progress=False); "
        "print(f'{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB')"
    )
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    return run.stdout.splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="*", default=[], metavar="PROMPTS")
    given = parser.parse_args()
    if given.memory:
        for n_prompts in given.memory:
            print(f"all edges of {n_prompts} prompts: peak {peak_of_edges(n_prompts)}", flush=True)
        return
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
