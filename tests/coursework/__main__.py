"""Print the matrix: `python -m tests.coursework [01 02] [--model NAME] [--task NAME] [--seed S]`, or on tiny models."""

import argparse
import time
from contextlib import nullcontext

from patchlib.coursework import Variant
from tests.coursework import CONTEXTS, NOTEBOOKS, matrix, variant

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("notebooks", nargs="*", help="such as 01; all by default")
parser.add_argument("--model", help="such as smollm2-135m; tiny models and a toy by default")
parser.add_argument("--task", default="ioi")
parser.add_argument("--seed", type=int, default=0)
asked = parser.parse_args()
given = Variant(model=asked.model or "smollm2-135m", task=asked.task, seed=asked.seed)
contexts = {asked.model: lambda: variant(given)} if asked.model else CONTEXTS
print("| notebook | exercise | answer | variant | points | message |\n|---|---|---|---|---|---|")
begin = time.process_time()
for context, enter in contexts.items():
    for name in NOTEBOOKS:
        if asked.notebooks and name[:2] not in asked.notebooks:
            continue
        with enter() or nullcontext():
            for row in matrix(name):
                head = f"| {row['notebook']} | {row['exercise']} | {row['answer']} | {context} |"
                print(f"{head} {row['points']:g} of {row['of']:g} | {row['message']} |", flush=True)
print(f"\n{time.process_time() - begin:.0f} s of processor time")
