"""C15: what can happen to a checkpoint's file."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import patchlib
from patchlib.errors import SweepError
from patchlib.patching.checkpoint import Finished
from tests.attacks.case import Refusal, case, refused
from tests.helpers import computed_cells, contrast_pairs, sweep
from tests.tiny import load_tiny

HOW = {"site": "z", "over": ("layer", "head"), "batch_tokens": 6}  # one cell at a time
NOBODY = 65534


@functools.cache
def pairs() -> patchlib.PromptPairs:
    return contrast_pairs(load_tiny("gpt2"), n=1)


@functools.cache
def whole():
    return sweep(load_tiny("gpt2"), pairs(), **HOW)


def swept(path, meanwhile=None):
    """The sweep with a checkpoint; after three batches something happens to its file."""
    done = []

    def tell(n, total):
        done.append(n)
        if meanwhile is not None and len(done) == 3:
            meanwhile()

    return patchlib.sweep(load_tiny("gpt2"), pairs(), checkpoint=path, progress=tell, **HOW)


def n_computed(path) -> int:
    """How many cells an equal sweep still computes, whose numbers must be those of one without a checkpoint."""
    whole()
    with computed_cells() as cells:
        assert swept(path).equals(whole())
    return len(cells)


def goes_on(path) -> None:
    """Some of the twelve cells were kept, and the others are computed now."""
    swept_now = n_computed(path)
    assert 0 < swept_now < 12, f"{swept_now} cells of 12 were computed again"
    assert n_computed(path) == 0


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """The file may not grow any more: SQLite says that the disk is full."""
    honest = Finished._open
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA page_size = 512")
        database.execute("VACUUM")

    def limited(self):
        honest(self)
        ((n_pages,),) = self._database.execute("PRAGMA page_count").fetchall()
        self._database.execute(f"PRAGMA max_page_count = {n_pages}")

    Finished._open = limited
    try:
        yield
    finally:
        Finished._open = honest


@case("C15", "the disk is full after some cells")
def _(folder: Path) -> Refusal:
    path = folder / "z.ckpt"
    with small_disk(path):
        line = refused(lambda: swept(path), "cannot be written", "full", "free some space", "kept", by=SweepError)
    goes_on(path)
    return line


@case("C15", "another process locks it before, and meanwhile")
def _(folder: Path) -> Refusal:
    path = folder / "z.ckpt"
    other: list[sqlite3.Connection] = []

    def lock() -> None:
        other.append(sqlite3.connect(path))
        other[-1].execute("BEGIN EXCLUSIVE")

    line = refused(lambda: swept(path, lock), "cannot be written", "locked", "kept", by=SweepError)
    refused(lambda: swept(path), "locked", "wait for the other process", by=SweepError)
    other[0].close()
    goes_on(path)
    return line


@case("C15", "it is deleted meanwhile, with its folder, and put aside for another one")
def _(folder: Path) -> str:
    path = folder / "deep" / "z.ckpt"
    for meanwhile in (path.unlink, lambda: shutil.rmtree(path.parent)):
        assert swept(path, meanwhile).equals(whole())
        assert n_computed(path) == 0, "what was finished is not in the new file"
        path.unlink()
    swept(folder / "other.ckpt")
    assert swept(path, lambda: os.replace(folder / "other.ckpt", path)).equals(whole())
    assert n_computed(path) == 0
    return "written anew, with all that was finished"


@case("C15", "another sweep's file takes its place meanwhile")
def _(folder: Path) -> Refusal:
    path = folder / "z.ckpt"
    sweep(load_tiny("gpt2"), pairs(), metric="prob", checkpoint=folder / "other.ckpt", **HOW)
    return refused(lambda: swept(path, lambda: os.replace(folder / "other.ckpt", path)), "another sweep", by=SweepError)


@case("C15", "damaged rows, a damaged page, a file that was cut")
def _(folder: Path) -> Refusal:
    import warnings

    path = folder / "z.ckpt"
    swept(path)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE finished SET metrics = zeroblob(3) WHERE rowid = 1")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert 0 < n_computed(path) < 12
    assert any("Damaged rows" in str(warning.message) for warning in said)
    assert n_computed(path) == 0
    content = path.read_bytes()
    for damage in (content[:100] + b"\xff" * 3000 + content[3100:], content[: len(content) // 2], content[:50]):
        path.write_bytes(damage)
        line = refused(lambda: swept(path), "cannot be used as a checkpoint", "remove this one", by=SweepError)
    path.write_bytes(b"")
    assert n_computed(path) == 12 and n_computed(path) == 0
    return line


@case("C15", "a folder, a device, a file that is none, a folder that is a file, a file of another program's")
def _(folder: Path) -> Refusal:
    (folder / "notes.txt").write_text("some notes " * 1000)
    with contextlib.closing(sqlite3.connect(folder / "their.db")) as database, database:
        database.execute("CREATE TABLE inputs (a INT)")
        database.execute("CREATE TABLE finished (b INT)")
    paths = folder, "/dev/full", "/dev/null", "/proc/z.ckpt", folder / "notes.txt", folder / "notes.txt" / "z"
    for path in (*paths, folder / "their.db"):
        line = refused(lambda path=path: swept(path), "cannot be used as a checkpoint", by=SweepError)
    return line


@case("C15", "names that are none: empty, True, a number, bytes, an address, a NUL, 5,000 letters")
def _(folder: Path) -> Refusal:
    for path in ("", " ", True, 3, b"z.ckpt", "s3://bucket/z.ckpt", "z\0.ckpt", object()):
        line = refused(lambda path=path: swept(path), "checkpoint must be", by=SweepError)
    refused(lambda: swept(folder / ("z" * 5000)), "cannot be used as a checkpoint", by=SweepError)
    return line


@case("C15", "names that are odd: ':memory:', a question mark, a space, a home folder")
def _(folder: Path) -> str:
    here, home = os.getcwd(), os.environ.get("HOME")
    os.chdir(folder)
    os.environ["HOME"] = str(folder)
    try:
        for path in (":memory:", "a b?mode=memory", "file:z.ckpt?mode=memory", "~/z.ckpt"):
            swept(path)
            assert n_computed(path) == 0, path
        assert (folder / ":memory:").is_file() and (folder / "z.ckpt").is_file()
    finally:
        os.chdir(here)
        os.environ["HOME"] = home or ""
    return "files of these names"


@case("C15", "it may not be written, for a user who is not root")
def _(folder: Path) -> Refusal | str:
    path = folder / "z.ckpt"
    swept(path)
    folder.chmod(0o755)
    path.chmod(0o444)
    if os.geteuid() == 0:
        os.seteuid(NOBODY)
        try:
            line = refused(lambda: swept(path), "cannot be used as a checkpoint", "writable", by=SweepError)
            refused(lambda: swept(folder / "new.ckpt"), "cannot be used as a checkpoint", by=SweepError)
        finally:
            os.seteuid(0)
    else:
        line = refused(lambda: swept(path), "cannot be used as a checkpoint", "writable", by=SweepError)
    path.chmod(0o644)
    assert n_computed(path) == 0
    return line


@case("C15", "two sweeps write into it at once")
def _(folder: Path) -> str:
    path = folder / "z.ckpt"
    swept(path, lambda: swept(path))
    assert n_computed(path) == 0
    return "each finds what the other has finished, and no number differs"
