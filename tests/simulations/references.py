"""How far a circuit's faithfulness depends on how many prompts its mean ablation is over, and on which.

    python -m tests.simulations.references [--draws 4] [--n-test 8]

The circuit is what `discover` finds in 16 IOI prompts of the default model, tested on others, each of another wording.
For each number of ABC prompts a template, that many are drawn `draws` times: faithfulness, its floor without heads, how
far the draws lie apart (standard deviation), and the mean error that `Ablation.reference_error` says of one draw alone.
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
import pandas as pd

import patchlib

NUMBERS = (1, 2, 4, 14, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--n-test", type=int, default=8)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", patchlib.ReferenceWarning)
    model = patchlib.load_model()
    task = patchlib.IOIDataset(model, n_prompts=16, seed=0, corruption="abc")
    circuit = patchlib.discover(model, task, depth=2, progress=False).circuit
    kept = [patchlib.HeadSet(circuit.head_positions(), keep=True)]
    rows = []
    for number in NUMBERS:
        found = []
        for draw in range(arguments.draws):
            unseen = patchlib.IOIDataset(model, n_prompts=arguments.n_test, seed=1, corruption="abc")
            unseen.seed = 100 + draw  # of the reference alone: the prompts are drawn
            ablation = patchlib.Ablation(model, unseen, reference=unseen.reference(model, number))
            result = patchlib.faithfulness(ablation, circuit)
            error = ablation.reference_error(kept)[0] / result.model if number >= 8 else np.nan
            found.append((result.faithfulness, result.floor / result.model, error))
        (faithful, floor, error), (apart, floor_apart, _) = np.mean(found, axis=0), np.std(found, axis=0, ddof=1)
        rows.append((number, faithful, apart, error, floor, floor_apart))
        print(f"{number} of each template: done", flush=True)
    names = ["k", "faithfulness", "apart", "said", "floor", "floor_apart"]
    print(f"{len(circuit.heads)} heads, {arguments.n_test} prompts, {arguments.draws} draws")
    print(pd.DataFrame(rows, columns=names).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
