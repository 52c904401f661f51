"""netCDF results opened, once a process of its own has looked through them: some may be damaged, or somebody else's."""

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from queue import Empty, Queue

import xarray as xr

from patchlib._util import first_line
from patchlib.errors import RunError

PATIENCE = 60.0
"""Seconds in which a file must be looked through; most take a hundredth of one, and the first waits for an import."""
_PROBE = [sys.executable, "-m", "patchlib.runs.report.probe"]
_FAULTS: dict[tuple[Path, int, int], str] = {}
"""What this process knows: a file, when it was changed and its size -> what is wrong with it."""


def open_result(path: Path, chunks: dict[str, int] | None) -> xr.Dataset:
    """A netCDF result, read when it is used; with ``chunks``, by Dask. RunError where that cannot or must not be."""
    fault = look_through([path])[path]
    if not fault:
        try:
            return xr.open_dataset(path, engine="h5netcdf", chunks=chunks)
        except Exception as error:  # of many kinds: what is HDF5 need not be netCDF
            fault = first_line(error)
    raise RunError(f"{path} cannot be read ({fault}); repeat that run")


def look_through(paths: Iterable[Path]) -> dict[Path, str]:
    """What is wrong with each file, empty where nothing is: that it is no netCDF, reads other files, or hangs."""
    known = {path: _identity(path) for path in paths}
    todo = [path for path, identity in known.items() if identity not in _FAULTS]
    while todo:
        for path, fault in zip(todo, _probed(todo), strict=False):
            _FAULTS[known[path]] = fault
        todo = [path for path in todo if known[path] not in _FAULTS]
    return {path: _FAULTS[identity] for path, identity in known.items()}


def _identity(path: Path) -> tuple[Path, int, int]:
    try:
        stat = path.stat()
    except OSError:  # which the probe will say in its own words
        return path, 0, 0
    return path, stat.st_mtime_ns, stat.st_size


def _probed(paths: list[Path]) -> list[str]:
    """What one process says of files, up to the first that it hangs or crashes on."""
    faults: list[str] = []
    answers: Queue[str] = Queue()
    with tempfile.TemporaryFile("w+") as asked:
        asked.writelines(json.dumps(str(path)) + "\n" for path in paths)
        asked.seek(0)
        with subprocess.Popen(
            _PROBE, stdin=asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as probe:
            threading.Thread(target=_pass_on, args=(probe, answers), daemon=True).start()
            try:
                while len(faults) < len(paths) and (answer := answers.get(timeout=PATIENCE)):
                    faults.append(json.loads(answer))
                if len(faults) < len(paths):
                    faults.append("it crashes its reader")
            except Empty:
                faults.append(f"it takes its reader more than {PATIENCE:g} s")
            finally:
                probe.kill()
    return faults


def _pass_on(probe: "subprocess.Popen[str]", answers: "Queue[str]") -> None:
    """Each line that a process writes, and an empty one at its end."""
    assert probe.stdout is not None
    for line in probe.stdout:
        answers.put(line)
    answers.put("")
