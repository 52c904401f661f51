"""Make the longer runs of notebook 03 that come with patchlib: ``python .ci/saved_runs.py FOLDER`` (half an hour).

One run to keep, and four more with other prompts, which tell what of the circuit depends on the prompts.
"""

import json
import shutil
import sys
from pathlib import Path

import pandas as pd

import patchlib
from patchlib._util import head_names

NOTEBOOK = "03_ioi_circuit"
LONG = {"n_prompts": 16, "depth": 3, "n_test": 100, "n_greedy": 3}
OTHERS = {
    "seed 10": {"seed": 10},
    "seed 20": {"seed": 20},
    "ABBA": {"templates": "ABBA", "seed": 30},
    "BABA": {"templates": "BABA", "seed": 40},
}
SAVED = Path(patchlib.__file__).parent / "runs" / "saved_runs" / NOTEBOOK


def run(name: str, folder: Path, parameters: dict) -> dict[str, pd.DataFrame]:
    """The tables of one run; those of a run that is there already are read."""
    out = folder / name.replace(" ", "_")
    if not (out / f"{NOTEBOOK}.manifest.json").exists():
        record = patchlib.run([NOTEBOOK], parameters, out)[0]
        if record.status != "ok":
            raise SystemExit(f"{name}: {record.error}")
    return {one: pd.read_csv(out / f"{NOTEBOOK}.{one}.csv") for one in ("roles", "faithful")}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    kept = run("long", folder, LONG)
    others = {
        name: run(name, folder, {**LONG, "n_prompts": 8, "n_greedy": 0, **given}) for name, given in OTHERS.items()
    }
    rows = kept["roles"].assign(head=[head_names([cell]) for cell in kept["roles"][["layer", "head"]].values.tolist()])
    table = rows[["head", "at", "role"]].set_index(["head", "at"])
    for name, tables in others.items():
        roles = tables["roles"]
        names = [head_names([cell]) for cell in roles[["layer", "head"]].values.tolist()]
        table[name] = pd.Series(roles.role.tolist(), index=[names, roles["at"]])
    table = table.fillna("-").assign(found=(table[list(others)].notna()).sum(axis=1)).reset_index()
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
