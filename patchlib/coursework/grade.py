"""Many submissions: a queue, each in a process of its own with a limit on time and memory, and one table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import nbformat
import pandas as pd
import psutil

from patchlib._util import check_count, check_number, sha256_of
from patchlib.coursework.release import course_of
from patchlib.coursework.variant import FILE
from patchlib.errors import RunError
from patchlib.runs.files import alone, prepare_folder, read_json, replacing, write_json

COLUMNS = ["student", "exercise", "points", "of", "message", "seconds", "GB"]
POLL = 0.2
"""Seconds between two looks at how much memory a submission takes."""
_CHILD = [sys.executable, "-m", "patchlib.coursework.autograde"]
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Submission:
    """What a student handed in of one notebook."""

    root: Path
    student: str
    number: str

    @property
    def source(self) -> Path:
        """The notebook with solutions."""
        return next((self.root / "source" / self.number).glob(f"{self.number}*.ipynb"))

    @property
    def path(self) -> Path:
        """Where the student's notebook should be."""
        return self.root / "submitted" / self.student / self.number / self.source.name

    @property
    def record(self) -> Path:
        """What is known of it once it is graded."""
        return self.root / "graded" / self.student / f"{self.number}.json"

    def key(self) -> str:
        """What it was graded from: another submission, source or variant is graded again."""
        files = (self.path, self.source, self.source.with_name(FILE))
        return " ".join(sha256_of(file) if file.is_file() else "-" for file in files)

    def failed(self, reason: str) -> list[dict[str, Any]]:
        """Rows without a point, for the reason given."""
        graded = [
            cell.metadata.nbgrader
            for cell in nbformat.read(self.source, as_version=4).cells
            if cell.metadata.get("nbgrader", {}).get("grade")
        ]
        names = [meta.grade_id.removesuffix("_test") for meta in graded]
        return [
            {"exercise": name, "points": 0, "of": meta.points, "message": reason}
            for name, meta in zip(names, graded, strict=True)
        ]


def grade(
    folder: str | Path,
    only: Sequence[str] = (),
    *,
    workers: int = 1,
    seconds: float = 900,
    cell_seconds: float = 180,
    gigabytes: float = 3,
    again: bool = False,
    told: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Autograde what is in ``submitted/STUDENT/NN/`` of a course's folder, and write ``grades.csv`` after each.

    A submission that hangs, dies or takes too much memory costs itself: no points, and the reason in the table. What is
    graded is not graded again, unless the submission, its source or the variant has changed, or it could not be
    executed and the limits are others now: an interrupted command goes on where it was. Submissions are executed with
    the rights of whoever calls this: do so in a container.

    Args:
        folder: That ``release`` was given. A notebook keeps the name that it was released with.
        only: Numbers of notebooks, such as "01"; all when empty.
        workers: Submissions at a time; each holds a model, 1.3 GB for the default one.
        seconds: That a submission may take.
        cell_seconds: That each of its cells may take, before it is interrupted and gets nothing; the others go on.
        gigabytes: Of memory that a submission may take, its kernel included.
        again: Grade what is graded already.
        told: Is given a line about each submission.

    Returns:
        The table: student, exercise, points (none where a person has to read it), of, message, seconds and GB, of the
        whole submission.

    Raises:
        RunError: nbgrader is missing, nothing was released or submitted there, or another is grading there.
        SweepError: A limit that is none.
    """
    check_count("workers", workers)
    for name, value in (("seconds", seconds), ("cell_seconds", cell_seconds), ("gigabytes", gigabytes)):
        check_number(name, value, 0.001)
    root = prepare_folder(folder)
    course_of(root)  # or every submission would fail alike
    submissions = _submissions(root, only)
    limits = {"seconds": seconds, "cell_seconds": cell_seconds, "gigabytes": gigabytes}
    left = [one for one in submissions if again or not _is_graded(one, limits)]
    if told and len(left) < len(submissions):
        told(f"{len(submissions) - len(left)} of {len(submissions)} are graded already (--again grades them anew)")
    stop = Event()
    with alone(root, "grades"), ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(_graded, submission, limits, workers, stop) for submission in left]
        try:
            for future in as_completed(futures):
                line = future.result()
                _write_table(root)
                if told:
                    told(line)
        except BaseException:  # an interrupt too: what runs is ended, what has ended is in the table
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            table = _write_table(root)
    return table


def failures(folder: str | Path) -> list[str]:
    """Why submissions of a course's folder could not be executed, one line each."""
    records = [(path, read_json(path)) for path in sorted(Path(folder).glob("graded/*/[0-9][0-9].json"))]
    return [f"{path.parent.name} {path.stem}: {record['failed']}" for path, record in records if record.get("failed")]


def _submissions(root: Path, only: Sequence[str]) -> list[Submission]:
    numbers = sorted(path.parent.name for path in (root / "source").glob("[0-9][0-9]/*.ipynb"))
    if not numbers:
        raise RunError(f"nothing was released in {root}: `patchlib coursework release {root}` comes first")
    if unknown := [name for name in only if name not in numbers]:
        raise RunError(f"there is no coursework {', '.join(unknown)} in {root}: {', '.join(numbers)} were released")
    found = sorted(path for path in (root / "submitted").glob("*/[0-9][0-9]") if path.is_dir())
    wanted = [path for path in found if path.name in (only or numbers)]
    if not wanted:
        raise RunError(f"nothing was submitted in {root}: put notebooks into submitted/STUDENT/{numbers[0]}/")
    return [Submission(root, path.parent.name, path.name) for path in wanted]


def _is_graded(submission: Submission, limits: dict[str, float]) -> bool:
    """Whether it need not be graded again; what could not be executed is, under other limits."""
    record = read_json(submission.record)
    same_limits = not record.get("failed") or record.get("limits") == limits
    return record.get("key") == submission.key() and same_limits


def _graded(submission: Submission, limits: dict[str, float], workers: int, stop: Event) -> str:
    """Grade one submission, record it, and say in a line how it went."""
    if stop.is_set():
        return "interrupted"
    submission.record.parent.mkdir(parents=True, exist_ok=True)
    begin, key = time.monotonic(), submission.key()
    if submission.path.is_file():
        rows, reason, peak = _executed(submission, limits, workers, stop)
    else:
        rows, reason, peak = [], f"no {submission.path.name} was handed in", 0.0
    if stop.is_set():
        return "interrupted"
    took = round(time.monotonic() - begin, 1)
    graded = {row["exercise"]: row for row in rows}
    # A graded cell that a student deleted gets nothing, and counts.
    every = submission.failed(reason or "its graded cell is missing")
    rows = [graded.get(row["exercise"], row) for row in every]
    rows = [
        {"student": submission.student, **row, "exercise": f"{submission.number} {row['exercise']}"}
        | {"seconds": took, "GB": round(peak, 2)}
        for row in rows
    ]
    write_json(submission.record, {"key": key, "failed": reason, "limits": limits, "rows": rows})
    points, of = (sum(row[name] or 0 for row in rows) for name in ("points", "of"))
    said = reason or f"{points:g} of {of:g} points"
    return f"{submission.student:<20}{submission.number:<4}{took:>7.1f} s{peak:>7.2f} GB  {said}"


def _executed(
    submission: Submission, limits: dict[str, float], workers: int, stop: Event
) -> tuple[list[dict[str, Any]], str, float]:
    """Rows, why there are none, and the peak of memory in GB."""
    result = submission.record.with_suffix(".result.json")
    result.unlink(missing_ok=True)
    job: dict[str, Any] = {"root": str(submission.root), "student": submission.student, "number": submission.number}
    job |= {"notebook": submission.source.name, "cell_seconds": limits["cell_seconds"], "result": str(result)}
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    # Bars go to stderr, for which nbgrader takes points away.
    environment = dict(os.environ) | dict.fromkeys(_THREADS, threads) | {"TQDM_DISABLE": "1"}
    with submission.record.with_suffix(".log").open("w", encoding="utf-8") as log:
        how: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": log, "stderr": log, "text": True}
        child = subprocess.Popen(_CHILD, env=environment, start_new_session=True, **how)
        assert child.stdin is not None
        with suppress(BrokenPipeError):  # it died at once; its exit code says so
            child.stdin.write(json.dumps(job) + "\n")
            child.stdin.flush()
        try:
            reason, peak = _watch(child, limits, stop)
        finally:
            _kill(child)
            with suppress(BrokenPipeError):
                child.stdin.close()
    said = read_json(result)
    result.unlink(missing_ok=True)
    if reason or "rows" not in said:
        return [], reason or said.get("failed") or f"its process ended with code {child.returncode}", peak
    return said["rows"], "", peak


def _watch(child: subprocess.Popen[str], limits: dict[str, float], stop: Event) -> tuple[str, float]:
    """Until it ends by itself (""), or why it may not go on; and its peak of memory in GB."""
    begin, peak = time.monotonic(), 0.0
    while True:
        with suppress(subprocess.TimeoutExpired):
            child.wait(POLL)
            return "", peak
        used = 0
        for process in _family(child):
            with suppress(psutil.Error):
                used += process.memory_info().rss
        peak = max(peak, used / 1e9)
        if peak > limits["gigabytes"]:
            return f"took more than {limits['gigabytes']:g} GB of memory", peak
        if time.monotonic() - begin > limits["seconds"]:
            return f"took longer than {limits['seconds']:g} s", peak
        if stop.is_set():
            return "interrupted", peak


def _family(child: subprocess.Popen[str]) -> list[psutil.Process]:
    """A submission's process, its kernel, and whatever that started."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(child.pid)
        return [*parent.children(recursive=True), parent]
    return []


def _kill(child: subprocess.Popen[str]) -> None:
    for process in _family(child) if child.poll() is None else []:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    child.wait()


def _write_table(root: Path) -> pd.DataFrame:
    """All that is graded, in one table on disk."""
    records = [read_json(path) for path in sorted((root / "graded").glob("*/[0-9][0-9].json"))]
    table = pd.DataFrame([row for record in records for row in record.get("rows", [])], columns=COLUMNS)
    with replacing(root / "grades.csv") as temporary:
        table.to_csv(temporary, index=False)
    return table
