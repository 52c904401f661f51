"""`python -m tests.seeds`: run the notebooks at many seeds, and hold what they say against what they saved.

The runs are a `patchlib grid`, so that a stopped one goes on where it was; they take 1 to 3 minutes each. Ends with a
table by notebook and model: runs that stopped (the reason is printed), sentences that were checked,
those that the saved results contradict, and those that nothing saved can tell of. Fails if a run of the default model
stops, or if a sentence is contradicted. A model that does not do the task is right to stop: for other models a stop
that says so is counted by itself.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import yaml

from tests.seeds.saved import Saved
from tests.seeds.sentences import judged

DEFAULT = "smollm2-135m"
NO_TASK = ("cannot do the task", "usable", "hardly copies", "no contrast")
"""What a stop says where the model, and not the notebook, is to blame."""


def run(asked: argparse.Namespace) -> None:
    """All runs that are not there yet."""
    asked.out.mkdir(parents=True, exist_ok=True)
    plan = asked.out / "plan.yaml"
    grid = {"model_name": asked.models, "seed": list(range(asked.seeds))}
    plan.write_text(yaml.safe_dump({"notebooks": asked.notebooks, "grid": grid}))
    command = [sys.executable, "-m", "patchlib", "grid", str(plan), "-o", str(asked.out)]
    subprocess.run([*command, "--workers", str(asked.workers)], check=False)  # a run that failed is a row of the table


def row_of(folder: Path) -> dict[str, object]:
    """What became of one run."""
    status = json.loads((folder / "status.json").read_text())
    notebook, model, seed = (part.rpartition("=")[2] for part in folder.name.rsplit(",", 2))
    row = {"notebook": notebook, "model": Path(model).name, "seed": int(seed), "state": status["status"]}
    reason = str(status.get("error") or "").strip().splitlines()
    verdicts = judged(Saved(folder)) if status["status"] == "ok" else {}
    contradicted = [sentence for sentence, holds in verdicts.items() if holds is False]
    no_task = row["model"] != DEFAULT and status["status"] == "failed" and any(w in " ".join(reason) for w in NO_TASK)
    stopped = status["status"] == "failed" and not no_task
    for problem in [*(reason[-1:] if stopped else []), *contradicted]:
        print(folder.name, problem, sep=" | ", flush=True)
    return row | {
        "stopped": stopped,
        "refused": no_task,
        "sentences": len(verdicts) - list(verdicts.values()).count(None),
        "contradicted": len(contradicted),
        "not saved": list(verdicts.values()).count(None),
    }


def main() -> int:
    """Run, judge, print; 1 where something is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.seeds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20, help="from 0 on")
    parser.add_argument("--models", nargs="+", default=[DEFAULT])
    parser.add_argument("--notebooks", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    parser.add_argument("--out", type=Path, default=Path("out/seeds"))
    parser.add_argument("--judge", action="store_true", help="run nothing, and judge what is there")
    asked = parser.parse_args()
    if not asked.judge:
        run(asked)
    folders = sorted(path.parent for path in (asked.out / "runs").glob("*/status.json"))
    rows = pd.DataFrame([row_of(folder) for folder in folders])
    rows = rows[rows.state.isin(["ok", "failed"])]
    numbers = ["stopped", "refused", "sentences", "contradicted", "not saved"]
    table = rows.groupby(["notebook", "model"]).agg(seeds=("seed", "size"), **{name: (name, "sum") for name in numbers})
    print(table.reset_index().to_string(index=False))
    return int(bool(table[["stopped", "contradicted"]].to_numpy().any()))


if __name__ == "__main__":
    sys.exit(main())
