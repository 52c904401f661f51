"""The folder of one run: its status, manifest, results and log, on disk so that a stopped grid goes on from there."""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from patchlib._util import sha256_of
from patchlib.runs.files import alone, write_json
from patchlib.runs.records import Manifest, Status, read_record

OK = "ok"
OVER = (OK, "failed", "timeout", "interrupted")
STATUS = "status.json"
PATIENCE = 30.0
"""Seconds to wait for another process that writes a status, which takes it some milliseconds."""


def now() -> str:
    """The time, as statuses have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def duration(seconds: float) -> str:
    """A time as commands and pages say it."""
    return f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 60:,.0f} min"


@dataclass(frozen=True)
class RunFolder:
    """What lies in the folder of a run; each file is read once, when it is first asked for.

    It is a look at one moment: who waits for a change makes a new one. What cannot be read is empty.

    Attributes:
        path: The folder; of a grid's run its own, of `patchlib run` that of several notebooks.
        stem: The notebook's, where several share the folder; else the status or the folder's name has it.
    """

    path: Path
    stem: str | None = None

    @cached_property
    def status(self) -> dict[str, Any]:
        """What a grid knows of the run."""
        return read_record(self.path / STATUS, Status)

    @property
    def notebook(self) -> str:
        """The notebook's stem."""
        return self.stem or str(self.status.get("notebook") or self.path.name.partition(",")[0])

    @property
    def manifest_path(self) -> Path:
        """Where the manifest lies."""
        return self.path / f"{self.notebook}.manifest.json"

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the run says of itself."""
        return read_record(self.manifest_path, Manifest)

    @property
    def is_ok(self) -> bool:
        """Whether the run ended well."""
        return self.status.get("status") == OK

    @property
    def is_over(self) -> bool:
        """Whether the run has ended, well or not; it is planned as "waiting"."""
        return self.status.get("status") in OVER

    @property
    def files(self) -> dict[Path, str]:
        """The results -> their sha256, as the manifest has it."""
        return {self.path / file["name"]: file["sha256"] for file in self.manifest.get("files", [])}

    @property
    def results(self) -> dict[str, Path]:
        """Result's name -> its file."""
        return {file.name.removeprefix(f"{self.notebook}.").rpartition(".")[0]: file for file in self.files}

    def damage(self) -> str | None:
        """What is wrong with the files of a run that ended well; None if they are as the manifest has them."""
        if not self.manifest:
            return f"{self.manifest_path.name} cannot be read"
        for path, sha256 in self.files.items():
            if not os.path.isfile(path):  # which is False for what can be no path
                return f"{path.name} is missing"
            if not self._is_ours(path, sha256):
                return f"{path} lies in another folder, which does not say that it is this run's"
            try:
                if sha256_of(path) != sha256:
                    return f"{path.name} was changed after its run"
            except OSError as error:
                return f"{path.name} cannot be read ({error.strerror or error})"
        return None

    def _is_ours(self, path: Path, sha256: str) -> bool:
        """Whether a result lies here; or where the run's parameter out_dir said, with a manifest that has it too."""
        if path.parent.resolve() == self.path.resolve():
            return True
        return {"name": path.name, "sha256": sha256} in RunFolder(path.parent, self.notebook).manifest.get("files", [])

    def last_words(self) -> str | None:
        """The log's last line."""
        log = (self.path / "log.txt").read_text("utf-8", errors="replace")
        return next((line for line in reversed(log.split("\n")) if line.strip()), None)

    def clean(self, *, manifests: bool = True) -> None:
        """Remove what a killed process left half written, and the manifest of an earlier attempt.

        Under the lock of the status, whose next one may be half written just now by whoever interrupts the run.
        """
        with alone(self.path, "status", wait=PATIENCE):
            for stale in (*self.path.glob(".*.tmp"), *(self.path.glob("*.manifest.json") if manifests else ())):
                stale.unlink(missing_ok=True)

    def update(self, *, unless_over: bool = False, **values: Any) -> dict[str, Any]:
        """Change some of the status as it is on disk now, and return it; or leave that of a run that has ended.

        Under a lock: a worker that begins a run and whoever interrupts it at that moment would each write over what
        the other wrote.
        """
        with alone(self.path, "status", wait=PATIENCE):
            status = read_record(self.path / STATUS, Status)
            if not (unless_over and status.get("status") in OVER):
                status |= values
                write_json(self.path / STATUS, status)
        return status
