"""Make the longer runs of notebook 03 that come with patchlib: ``python .ci/saved_runs.py FOLDER`` (half an hour).

One run to keep, and four more with other prompts, which tell what of the circuit depends on the prompts.
"""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd

import patchlib
from patchlib._util import head_name

NOTEBOOK = "03_ioi_circuit"
LONG = {"n_prompts": 16, "depth": 3, "n_test": 100, "n_greedy": 3}
OTHERS = {
    "seed_10": {"seed": 10},
    "seed_20": {"seed": 20},
    "ABBA": {"templates": "ABBA", "seed": 30},
    "BABA": {"templates": "BABA", "seed": 40},
}
SAVED = Path(patchlib.__file__).parent / "runs" / "saved_runs" / NOTEBOOK


def run(name: str, folder: Path, parameters: dict) -> dict[str, pd.DataFrame]:
    """The tables of one run; those of a run that is there already are read."""
    out = folder / name
    if not (out / f"{NOTEBOOK}.manifest.json").exists():
        record = patchlib.run([NOTEBOOK], parameters, out)[0]
        if record.status != "ok":
            raise SystemExit(f"{name}: {record.error}")
    tables = {table: pd.read_csv(out / f"{NOTEBOOK}.{table}.csv") for table in ("head_types", "faithful")}
    types = tables["head_types"]
    types["head_name"] = [head_name(*head) for head in zip(types.layer, types.head_index, strict=True)]
    return tables


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    kept = run("long", folder, LONG)
    others = {
        name: run(name, folder, {**LONG, "n_prompts": 8, "n_greedy": 0, **given}) for name, given in OTHERS.items()
    }
    table = kept["head_types"].set_index(["head_name", "position"])[["head_type"]]
    for name, tables in others.items():
        table[name] = tables["head_types"].set_index(["head_name", "position"]).head_type
    table = table.fillna("-").assign(n_found=(table[list(others)].notna()).sum(axis=1)).reset_index()
    runs = {"kept": kept, **others}
    tested = pd.concat({name: tables["faithful"] for name, tables in runs.items()}, names=["prompts"]).droplevel(1)
    shutil.rmtree(SAVED, ignore_errors=True)
    SAVED.mkdir(parents=True)
    for path in (folder / "long").glob(f"{NOTEBOOK}.*.csv"):
        shutil.copy(path, SAVED)
    manifest = json.loads((folder / "long" / f"{NOTEBOOK}.manifest.json").read_text())
    manifest["parameters"]["out_dir"] = "out"  # where it lay is nobody's business
    (SAVED / f"{NOTEBOOK}.manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    table.to_csv(SAVED / f"{NOTEBOOK}.stability.csv", index=False)
    tested[["n_heads", "faithfulness", "ci_low", "ci_high", "n", "circuit", "model", "floor"]].round(3).to_csv(
        SAVED / f"{NOTEBOOK}.tested.csv"
    )
    print(table.to_string(), tested.to_string(), sep="\n\n")
