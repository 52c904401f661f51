"""Make the longer runs of notebook 03 that come with patchlib: ``python .ci/saved_runs.py FOLDER`` (twenty minutes).

One search that goes further than the notebook's defaults, and twenty with other prompts, which tell what of a circuit
depends on the prompts.
"""

import json
import shutil
import sys
from pathlib import Path

import patchlib

NOTEBOOK = "03_ioi_circuit"
LONG = {"n_prompts": 16, "depth": 3, "n_test": 100, "n_greedy": 3}
PROMPTS, SEED = 64, 100
SAVED = Path(patchlib.__file__).parent / "runs" / "saved_runs" / NOTEBOOK


def run(folder: Path) -> None:
    """The longer run; one that is there already is kept."""
    if not (folder / f"{NOTEBOOK}.manifest.json").exists():
        record = patchlib.run([NOTEBOOK], LONG, folder)[0]
        if record.status != "ok":
            raise SystemExit(record.error)


def search(folder: Path) -> None:
    """The searches; those that are there already are kept."""
    if (folder / f"{NOTEBOOK}.searches.csv").exists():
        return
    model = patchlib.load_model()
    task = patchlib.IOIDataset(model, n_prompts=PROMPTS, seed=SEED, corruption="abc")
    again = patchlib.stability(model, task, n_searches=20, n_prompts=16, depth=2, hold_out="prompts")
    again.heads.to_csv(folder / f"{NOTEBOOK}.found_heads.csv", index=False)
    again.head_types.to_csv(folder / f"{NOTEBOOK}.found_types.csv", index=False)
    again.searches.assign(protocol=again.protocol).to_csv(folder / f"{NOTEBOOK}.searches.csv", index=False)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    run(folder)
    search(folder)
    shutil.rmtree(SAVED, ignore_errors=True)
    SAVED.mkdir(parents=True)
    for path in folder.glob(f"{NOTEBOOK}.*.csv"):
        shutil.copy(path, SAVED)
    manifest = json.loads((folder / f"{NOTEBOOK}.manifest.json").read_text())
    manifest["parameters"]["out_dir"] = "out"  # where it lay is nobody's business
    (SAVED / f"{NOTEBOOK}.manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
