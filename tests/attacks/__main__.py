"""Try every attack and say what each gives now.

python -m tests.attacks [--only A5]
"""

import argparse
import sys
from collections import Counter

from tests.attacks.case import GOOD, HANG, REFUSED, RIGHT, TRACEBACK, WRONG, judge
from tests.attacks.table import all_cases


def main() -> int:
    """Print a row per case and the count of outcomes; 1 if any is a traceback, wrong or a hang."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacks", description=__doc__)
    parser.add_argument("--only", default="", help="a kind such as A5, or A; or a part of the text")
    only = parser.parse_args().only
    counts: Counter[str] = Counter()
    for case in all_cases():
        kind = case.kind if len(only) > 1 else case.kind[0]
        if only and only != kind and only not in case.text:
            continue
        verdict = judge(case)
        counts[verdict.outcome] += 1
        print(f"| {case.kind} | {case.text} | {verdict.outcome} | {verdict.said} |", flush=True)
    print("; ".join(f"{outcome} {counts[outcome]}" for outcome in (RIGHT, REFUSED, TRACEBACK, WRONG, HANG)))
    return 0 if set(counts) <= set(GOOD) else 1


if __name__ == "__main__":
    sys.exit(main())
