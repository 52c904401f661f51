"""One run of a grid in a process of its own: `python -m patchlib.runs.grid.child`, with the run as JSON on stdin.

A run that takes too much memory, hangs or crashes then costs nobody else anything, and what it held is given back. Its
parent keeps stdin open: when that ends, the parent is gone, and somebody else may be repeating this run.
"""

import json
import os
import sys
import threading
from pathlib import Path

from patchlib._util import without_grammar_of_addresses
from patchlib.runs.execute.provenance import code_hash


def _leave_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)  # at once: the kernel notices by itself


def main() -> int:
    """Run, and return 0 for a notebook that ran through, 1 for one that failed, 3 for a kernel that died.

    Where the code is not what the grid was planned with, nothing is run, and 4 returned: the result would not count.
    """
    job = json.loads(sys.stdin.readline())
    if code_hash(Path(job["notebook"])) != job["code"]:
        print("patchlib or the notebook changed while the grid ran, or differs on the worker; run the grid again")
        return 4
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    without_grammar_of_addresses()
    from patchlib.runs.execute.kernel import DIED
    from patchlib.runs.execute.runner import run

    record = run([job["notebook"]], job["parameters"], job["folder"], progress=False)[0]
    print(f"{record.status}: {record.error or record.notebook}")
    return 0 if record.status == "ok" else 3 if str(record.error).startswith(DIED) else 1


if __name__ == "__main__":
    sys.exit(main())
