"""How much faster `patchlib.sweep` is than `transformer_lens.patching`, and how near to what the hardware allows.

    python -m tests.benchmarks.bench_sweep [--quick] [--repeats 3] [--rows '^z'] [--device cpu]

Everything runs in one process and in turn, because machines are noisy: in each repeat our whole sweep, then
TransformerLens on a part of the same cells (another part each time; every one of its cells is a whole forward,
so its time for all of them is in proportion), and nnsight and pyvene on fewer, where they are installed (they are no
dependency). Printed are medians over repeats. `limit` is the time that
the smallest number of multiplications which a patch can change would take at the GEMM peak measured here: those from
the patched layer and position on, the last block's only at the last position, the unembedding's only there and only
for the answers. `difference` is the largest between patchlib and any of the others, in the metric, over all cells
that both ran.
"""

from __future__ import annotations

import argparse
import re
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
from transformer_lens import patching
from transformer_lens.model_bridge import TransformerBridge

import patchlib
from patchlib.patching.sites import SITES
from tests.benchmarks.others import installed
from tests.helpers import make_pairs
from tests.tiny import load_tiny, tiny_path

SETTERS = {
    "head": patching.layer_head_vector_patch_setter,
    "pattern": patching.layer_head_pattern_patch_setter,
    "pos": patching.layer_pos_patch_setter,
}


@dataclass
class Row:
    """One sweep to time."""

    name: str
    model: TransformerBridge
    pairs: patchlib.PromptPairs
    site: str
    over: tuple[str, str]
    part: int
    """TransformerLens runs every `part`-th cell in a repeat."""
    naive: bool = False


def gemm_peak(device: str) -> float:
    """Flops per second of a float32 matrix product, the best of several."""
    a, b = torch.randn(1024, 768, device=device), torch.randn(768, 3072, device=device)
    return 2 * 1024 * 768 * 3072 / min(timed(torch.matmul, a, b)[0] for _ in range(30))


def timed(function: Callable, *args, **kwargs):
    """Seconds until the result is there, and the result; a GPU is waited for, which only queues what it is told."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    begin = time.perf_counter()
    result = function(*args, **kwargs)
    wait()
    return time.perf_counter() - begin, result


def cells(row: Row, result) -> pd.DataFrame:
    axis = row.over[1]
    values = result[axis].values.tolist()
    return pd.DataFrame([(layer, value) for layer in result.layer.values.tolist() for value in values],
                        columns=["layer", "head" if "head" in axis else axis])  # fmt: skip


def transformer_lens(row: Row, index: pd.DataFrame) -> torch.Tensor:
    """The metric of these cells, `[cell example]`, as TransformerLens computes it."""
    device = row.model.cfg.device
    base, source, answers = (
        t.to(device) for t in (row.pairs.corrupted_batch(), row.pairs.clean_batch(), row.pairs.answers)
    )
    examples = torch.arange(len(row.pairs), device=device)

    def metric(logits):
        return logits[examples, -1, answers[:, 0]] - logits[examples, -1, answers[:, 1]]

    def role_patch_setter(activation, index, clean):
        positions = row.pairs.roles[index[1]].to(device)
        activation[examples, positions] = clean[examples, positions]
        return activation

    setters = {**SETTERS, "role": role_patch_setter}
    _, cache = row.model.run_with_cache(source)
    return patching.generic_activation_patch(
        row.model, base, cache, metric, setters.get(row.site) or setters[index.columns[1]], row.site,
        index_df=index, reduce="none",
    ).values.cpu()  # fmt: skip


def naive_loop(row: Row, index: pd.DataFrame) -> None:
    """What a first script does: for every head and prompt, the clean, the corrupted and the patched forward."""
    for layer, head in index.itertuples(index=False):
        name = SITES[row.site].hook_name(layer)
        for clean, corrupted in zip(row.pairs.clean_tokens, row.pairs.corrupted_tokens, strict=True):
            _, cache = row.model.run_with_cache(clean[None].to(row.model.cfg.device))
            row.model(corrupted[None].to(row.model.cfg.device))

            def patch(z, hook, cache=cache, head=head):
                z[:, :, head] = cache[hook.name][:, :, head]
                return z

            row.model.run_with_hooks(corrupted[None].to(row.model.cfg.device), fwd_hooks=[(name, patch)])


def least_flops(row: Row, result) -> float:
    """Multiplications and additions that cannot be left out, counted in the weights and in attention."""
    cfg, pairs = row.model.cfg, row.pairs
    mlp = sum(2 * p.numel() for p in row.model.blocks[0].mlp.parameters() if p.ndim == 2)
    queries = output = 2 * cfg.d_model * cfg.d_head * cfg.n_heads
    keys_values = 2 * 2 * cfg.d_model * cfg.d_head * SITES["k"].n_heads(row.model)
    block = queries + keys_values + output + mlp
    unembedding = 2 * cfg.d_model * len(pairs.answers.unique())  # all that a logit difference reads
    total = 0.0
    for clean, corrupted, i in zip(pairs.clean_tokens, pairs.corrupted_tokens, range(len(pairs)), strict=True):
        n_pos, first = len(clean), int((clean != corrupted).nonzero()[0])
        attention = 4 * cfg.d_head * cfg.n_heads * n_pos
        total += (n_pos + (n_pos - first)) * cfg.n_layers * (block + attention) + 2 * unembedding  # the unpatched two
        for layer, cell in cells(row, result).itertuples(index=False):
            start = first
            if row.over[1] in ("pos", "role"):
                start = int(pairs.roles[cell][i]) if isinstance(cell, str) else cell
            if start < first:
                continue  # nothing there to change
            live, above = n_pos - start, cfg.n_layers - 1 - layer
            total += live * above * (block + attention) - (live - 1) * min(above, 1) * (block - keys_values)
            in_layer = 0.0  # of the patched layer itself
            if row.site in ("q", "k", "v", "pattern", "z"):
                in_layer = output + attention * (row.site != "z")
            if row.site == "resid_pre":
                in_layer = block + attention
            elif row.site != "mlp_out":
                in_layer += mlp
            total += in_layer * (live if above else 1) + unembedding
    return total


def measure(row: Row, repeats: int, peak: float) -> dict[str, str]:
    sweep = lambda: patchlib.sweep(row.model, row.pairs, row.site, row.over, progress=False)  # noqa: E731
    result = sweep()  # warm
    index, ours, theirs, naive, worst = cells(row, result), [], [], [], 0.0
    others: dict[str, list[float]] = {name: [] for name in installed(row)}
    mine = result.patched.isel(metric=0).values.reshape(len(index), -1)
    for repeat in range(repeats):
        ours.append(timed(sweep)[0])
        sample = index.iloc[repeat % row.part :: row.part]
        with torch.no_grad():
            seconds, values = timed(transformer_lens, row, sample.reset_index(drop=True))
            theirs.append(seconds * len(index) / len(sample))
            worst = max(worst, float(abs(values - mine[sample.index]).max()))
            few = index.iloc[repeat :: 6 * row.part]
            for name, patch in installed(row).items():
                seconds, values = timed(patch, row, few.reset_index(drop=True))
                others[name].append(seconds * len(index) / len(few))
                worst = max(worst, float(abs(values - mine[few.index]).max()))
            if row.naive:
                naive.append(timed(naive_loop, row, few)[0] * len(index) / len(few))
    our, their = statistics.median(ours), statistics.median(theirs)
    limit = least_flops(row, result) / peak
    return {
        "row": row.name,
        "cells": str(len(index)),
        "patchlib s": f"{our:.2f}",
        "TransformerLens s": f"{their:.1f}",
        "times": f"{statistics.median(b / a for a, b in zip(ours, theirs, strict=True)):.1f}",
        "spread": f"{min(b / a for a, b in zip(ours, theirs, strict=True)):.1f}-"
        f"{max(b / a for a, b in zip(ours, theirs, strict=True)):.1f}",
        **{f"times {name}": f"{statistics.median(times) / our:.1f}" for name, times in others.items()},
        "naive loop": f"{statistics.median(naive) / our:.0f}" if naive else "",
        "limit s": f"{limit:.2f}",
        "of limit": f"{limit / our:.0%}",
        "difference": f"{worst:.0e}",
    }


def rows(quick: bool, device: str, wanted: str) -> list[Row]:
    """The sweeps of the table whose name `wanted`, a regular expression, finds; on tiny models for a smoke run."""
    shape = load_tiny("gpt2") if quick else patchlib.load_model(tiny_path("gpt2-small"), device=device)
    part = 1 if quick else 12
    pairs, five = make_pairs(shape, n=8, length=15, start=10), make_pairs(shape, n=5, length=15, start=10)
    long = make_pairs(shape, n=2, length=60 if quick else 200, start=30 if quick else 150)
    head, pos, role = ("layer", "head"), ("layer", "pos"), ("layer", "role")
    table = [Row(f"{site}, {over[1]}", shape, pairs, site, over, part)
             for sites, over in ((["z"], head), (["resid_pre", "attn_out", "mlp_out"], pos),
                                 (["q", "k", "v", "pattern"], head)) for site in sites]  # fmt: skip
    table.append(Row("z, head, 5 prompts", shape, five, "z", head, part, naive=True))
    table.append(Row("z, head, 200 tokens", shape, long, "z", head, 1 if quick else 12))
    names = {f"default model: {site}, {over[1]}": (site, over) for site, over in (("z", head), ("resid_pre", role))}
    if any(re.search(wanted, name) for name in names):  # it has to be fetched, which not every machine can
        small = load_tiny("llama") if quick else patchlib.load_model(device=device)
        ioi = patchlib.IOIDataset(small, n_prompts=8, seed=0, templates="ABBA").to_pairs(small)
        table += [Row(name, small, ioi, *what, 2 * part) for name, what in names.items()]
    return [row for row in table if re.search(wanted, row.name)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny models: does it run at all?")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", default="", help="only rows whose name has this, a regular expression")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = arguments.device
    peak = gemm_peak(device)
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{where}, GEMM peak {peak / 1e9:.0f} GFLOP/s, torch {torch.__version__}")
    table = []
    for row in rows(arguments.quick, device, arguments.rows):
        table.append(measure(row, arguments.repeats, peak))
        print("; ".join(f"{name} {value}" for name, value in table[-1].items() if value), flush=True)
    print(pd.DataFrame(table).to_string(index=False))
    print(f"GEMM peak afterwards {gemm_peak(device) / 1e9:.0f} GFLOP/s; "
          f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
