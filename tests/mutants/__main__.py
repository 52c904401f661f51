"""Put each fault of the table into a copy of the package, run the tests that should find it, say which survive.

    python -m tests.mutants [--only ablation] [--list] [--at-once 2]

Nothing in the working tree is written. Takes five minutes on 2 quiet cores, so it is no part of the test suite;
`tests/test_mutants.py` checks that each fault's text is still there.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.table import FAULTS, Fault
from tests.mutants.worker import CPU_SECONDS, run_pytest

ROOT = Path(__file__).parents[2]
COPIED = ("patchlib", "tests", "conftest.py", "pyproject.toml")
MAY_SURVIVE = 3
PASSED, FAILED = 0, 1  # pytest's exit codes; any other means that the tests could not be run
PROCESSES = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Verdict:
    """What became of a fault: the test that found it, or why none was asked or could be."""

    killed: bool
    said: str
    seconds: float
    broken: bool = False
    """The tests could not be run, so that nothing is known."""


def try_fault(fault: Fault | None, tests: tuple[str, ...]) -> Verdict:
    """Run tests on a copy of the package with one fault in it; with none, to see that they pass."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        for part in COPIED:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "saved_runs"))
            else:
                shutil.copy(ROOT / part, folder / part)
        if fault is not None:
            source = folder / fault.file
            source.write_text(source.read_text().replace(fault.old, fault.new))
        process = PROCESSES.Process(target=run_pytest, args=(name, tests, f"{name}/output"))
        process.start()
        process.join()
        output = Path(name, "output").read_text(errors="replace") if Path(name, "output").exists() else ""
    seconds = time.monotonic() - began
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)
    if process.exitcode == FAILED and failed:
        return Verdict(True, failed[1], seconds)
    if process.exitcode == -signal.SIGXCPU:
        return Verdict(True, f"the limit of {CPU_SECONDS} s of computing", seconds)
    if process.exitcode == PASSED:
        return Verdict(False, "", seconds)
    return Verdict(False, f"pytest's exit code is {process.exitcode}: {output[-500:]}", seconds, broken=True)


def occurrences(fault: Fault) -> int:
    """How often a fault's text is in the source: it has to be once."""
    return (ROOT / fault.file).read_text().count(fault.old)


def main() -> int:
    """The table, a line for each fault as it is known, and a summary; 1 where it does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="MODULE", help="faults of one module, such as ablation")
    parser.add_argument("--list", action="store_true", help="say what would be done")
    parser.add_argument("--at-once", type=int, default=2, metavar="N", help="faults that are tried at a time (2)")
    asked = parser.parse_args()
    faults = [fault for fault in FAULTS if asked.only in ("", fault.module)]
    if not faults:
        parser.error(f"no faults in {asked.only!r}; there are {', '.join(sorted({f.module for f in FAULTS}))}")
    if asked.list:
        for fault in faults:
            print(f"{fault.module:13} {fault}{f'   may survive: {fault.reason}' if fault.reason else ''}")
        print(f"{len(faults)} faults")
        return 0
    if rotten := [fault for fault in faults if occurrences(fault) != 1]:
        for fault in rotten:
            print(f"{fault.file} has this {occurrences(fault)} times, not once: {fault.old!r}")
        return 1

    PROCESSES.set_forkserver_preload(["tests.mutants.preload"])
    verdicts: dict[Fault, Verdict] = {}
    with ThreadPoolExecutor(asked.at_once) as pool:
        trials = {pool.submit(try_fault, fault, fault.tests): fault for fault in faults}
        for trial in as_completed(trials):
            fault, verdict = trials[trial], trial.result()
            verdicts[fault] = verdict
            by = verdict.said.splitlines()[-1].partition("::")[2] or verdict.said if verdict.said else "SURVIVES"
            print(f"{fault.module:13} {fault!s:88} {verdict.seconds:5.0f} s  {by}", flush=True)
    # A test that fails without any fault has found none.
    finders = tuple(sorted({verdict.said for verdict in verdicts.values() if "::" in verdict.said and verdict.killed}))
    sound = try_fault(None, finders) if finders else Verdict(False, "", 0)
    print(f"Without a fault the {len(finders)} tests that found one pass: {'no' if sound.said else 'yes'}", flush=True)

    survivors = [fault for fault, verdict in verdicts.items() if not verdict.killed]
    killed = Counter(fault.module for fault, verdict in verdicts.items() if verdict.killed)
    for module, n in Counter(fault.module for fault in faults).items():
        print(f"{module:13} {killed[module]} of {n} killed")
    for fault in survivors:
        said = "the tests could not be run: " + verdicts[fault].said if verdicts[fault].broken else fault.reason
        print(f"survives: {fault.module}: {fault}\n    {said or 'NO REASON IS GIVEN'}")
    print(f"{len(faults)} faults, {len(faults) - len(survivors)} killed, {len(survivors)} survive")
    if sound.killed or sound.broken:
        print(f"They fail without any fault: {sound.said}")
        return 1
    unexplained = any(not fault.reason or verdicts[fault].broken for fault in survivors)
    return int(len(survivors) > MAY_SURVIVE or unexplained)


if __name__ == "__main__":
    sys.exit(main())
