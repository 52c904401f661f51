"""How well estimates agree with the exact sweep on a model, and how well methods find the toys' edges.

    python -m tests.benchmarks.tables_attribution [--model smollm2-135m] [--prompts 16] [--seed 0]

Of head outputs z, and of MLPs by position, denoising: both correlations, how many of the ten largest are found, the
largest miss, and the completeness gap; for the gradient and for five midpoints. Then the AUROC of each method on the
toys, whose edges are known.
"""

from __future__ import annotations

import argparse
import time
import warnings

import pandas as pd

import patchlib
from patchlib import toys

METHODS = ("eap", "eap-ig-inputs", "eap-ig-activations", "exact")
SWEPT = {"z by head": ("z", ("layer", "head")), "mlp_out by position": ("mlp_out", ("layer", "pos"))}
QUIET = {"progress": False}


def agreement_table(model, pairs, steps: int = 5) -> pd.DataFrame:
    """A row for each site and method."""
    rows = []
    for name, cells in SWEPT.items():
        exact = patchlib.sweep(model, pairs, *cells, **QUIET)
        estimates = {
            "gradient": patchlib.attribute(model, pairs, *cells, **QUIET),
            f"{steps} midpoints": patchlib.attribute(model, pairs, *cells, method="integrated", steps=steps, **QUIET),
        }
        table = patchlib.agreement(estimates, exact).rename_axis("method").reset_index()
        table.insert(0, "cells", name)
        whole = (exact.clean - exact.corrupted).isel(metric=0)
        for method, estimate in estimates.items():
            if "gap" in estimate:
                gap = estimate.gap.isel(metric=0)
                at = table.method == method
                table.loc[at, "gap_mean"] = float(gap.mean())
                table.loc[at, "gap_worst"] = float(abs(gap / whole).max())
        rows.append(table.assign(contrast=float(whole.mean())))
    return pd.concat(rows, ignore_index=True)


def auroc_table() -> pd.DataFrame:
    """A row for each toy and direction."""
    values = {}
    for make in (toys.induction, toys.or_gate, toys.and_gate, toys.backup):
        toy = make()
        for direction in ("denoise", "noise"):
            for method in METHODS:
                edges = patchlib.attribute_edges(toy.model, toy.task, method, direction=direction, **QUIET)
                values[make.__name__, direction, method] = toys.auroc(edges, toy)
    return pd.Series(values).unstack()[list(METHODS)].rename_axis(["toy", "direction"]).reset_index()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="patchlib's default model when not given")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warnings.simplefilter("ignore", patchlib.EngineWarning)
    model = patchlib.load_model(*([given.model] if given.model else []))
    task = patchlib.IOIDataset(model, n_prompts=given.prompts, seed=given.seed)
    begin = time.process_time()
    print(f"{model.cfg.model_name}, IOI, {given.prompts} prompts, seed {given.seed}, denoising")
    print(agreement_table(model, task.to_pairs(model)).round(3).to_string(index=False))
    print("\nAUROC")
    print(auroc_table().round(2).to_string(index=False))
    print(f"\n{time.process_time() - begin:.0f} s of CPU")


if __name__ == "__main__":
    main()
