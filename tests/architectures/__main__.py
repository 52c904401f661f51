"""`python -m tests.architectures [--only NAME ...]`: a row for each architecture, and what is wrong in the end."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings

import torch
import transformers

import patchlib
from patchlib.errors import PatchlibError
from patchlib.patching.selfcheck import fast_obstacle
from tests.architectures.configs import TABLE
from tests.architectures.heads import TOOLS, check_tool
from tests.architectures.models import both
from tests.architectures.sites import HEADS, STREAM, Finding, check_separate, check_site, check_whole_stream, gap
from tests.helpers import contrast_pairs


def findings(name: str, say: object = print) -> list[Finding]:
    """Everything that was found of one architecture; a single refusal where it does not load."""
    try:
        with both(name) as (model, hand):
            say(f"\n{name}: {fast_obstacle(model) or 'fast'}")
            pairs = contrast_pairs(model, n=3, length=12, start=5)
            found = []
            with torch.no_grad():
                theirs, ours = hand.logits(pairs.clean_batch()), model(pairs.clean_batch())
                found.append(Finding("logits", gap=gap(ours, theirs)))
                for site in (*STREAM, *HEADS):
                    found += [check_site(model, hand, pairs, site, way) for way in ("denoise", "noise")]
                found += [check_whole_stream(model, pairs, site) for site in STREAM[:3]]
                layer = next(i for i, attention in enumerate(hand.attentions) if attention is not None)
                found += [check_separate(model, pairs, site, layer) for site in ("q", "k", "v", "pattern")]
            return found + [check_tool(tool, model, hand, pairs) for tool in TOOLS]
    except PatchlibError as error:
        say(f"\n{name}: does not load")
        return [Finding("load", refusal=str(error))]


def main() -> int:
    """Print the table; 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.architectures", description=__doc__)
    parser.add_argument("--only", nargs="*", default=list(TABLE), metavar="NAME", help="these architectures")
    parser.add_argument("--wrong", action="store_true", help="leave out what is right")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore", patchlib.ContrastWarning)
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    wrong = []
    for name in chosen.only:
        for finding in findings(name):
            if finding.wrong or not chosen.wrong:
                print(f"  {'WRONG ' if finding.wrong else ''}{finding.what}: {finding}", flush=True)
            wrong += [f"{name}: {finding.what}: {finding}"] if finding.wrong else []
    print(f"\n{len(chosen.only)} architectures, {len(wrong)} findings that are wrong", *wrong, sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
