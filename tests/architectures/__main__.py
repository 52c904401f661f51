"""`python -m tests.architectures [--only NAME ...]`: a row for each architecture, and what is wrong in the end."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings

import transformers

import patchlib
from tests.architectures.configs import TABLE
from tests.architectures.findings import findings


def main() -> int:
    """Print the table; 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.architectures", description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(TABLE), metavar="NAME", help="these architectures")
    parser.add_argument("--wrong", action="store_true", help="leave out what is right")
    chosen = parser.parse_args()
    for category in (patchlib.ContrastWarning, patchlib.EngineWarning):
        warnings.simplefilter("ignore", category)
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    wrong = []
    for name in chosen.only:
        engine, found = findings(name)
        print(f"\n{name}: {engine}")
        for finding in found:
            if finding.wrong or not chosen.wrong:
                print(f"  {'WRONG ' if finding.wrong else ''}{finding.what}: {finding}", flush=True)
            wrong += [f"{name}: {finding.what}: {finding}"] if finding.wrong else []
    print(f"\n{len(chosen.only)} architectures, {len(wrong)} findings that are wrong", *wrong, sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
