"""Folders of runs that are somebody else's, or damaged: every fault is one named run, and nothing in them runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import numpy as np

import patchlib
from patchlib._util import sha256_of
from patchlib.runs.execute.manifest import new_manifest
from patchlib.runs.execute.pages import write_index
from patchlib.runs.report import netcdf
from patchlib.runs.report.collect import Collection
from patchlib.runs.report.effects import compared, headlines, overview, read_effects
from patchlib.runs.report.pictures import galleries
from tests.attacks.case import Refusal, case, clear_line, refused
from tests.runs.runs_folder import STEM, add_run

GOOD, BAD = f"{STEM},good", f"{STEM},bad"


def two_runs(folder: Path) -> Path:
    """A good run, and one to be damaged, whose folder is returned."""
    add_run(folder, "good", parameters={"seed": 1})
    return add_run(folder, "bad", parameters={"seed": 2})


def sign(place: Path) -> None:
    """Make the manifest fit the results again, as who changed them on purpose would."""
    path = place / f"{STEM}.manifest.json"
    manifest = json.loads(path.read_text())
    for file in manifest["files"]:
        file["sha256"] = sha256_of(place / file["name"])
    path.write_text(json.dumps(manifest))


def look_at_all(folder: Path) -> tuple[Collection, dict[str, str]]:
    """All that the page over many runs does with a folder; the runs, and what is wrong with their files."""
    collection = patchlib.collect(folder)
    effects, errors = read_effects(collection.records)
    overview(collection.records, effects, errors)
    compared(effects)
    headlines(collection.records)
    galleries(collection.records)
    assert len(collection.runs) == len(collection.records)
    return collection, errors


def one_is_damaged(folder: Path, *words: str) -> Refusal:
    """The bad run is named as damaged, in one line with these words, and the good one is all that is left."""
    collection, errors = look_at_all(folder)
    runs = collection.runs
    assert dict(runs.status) == {GOOD: "ok", BAD: "damaged"} and not errors, (runs.status, errors)
    assert list(collection.dataset(STEM, "output").run) == [GOOD]
    assert list(collection.table(STEM, "roles").run) == [GOOD]
    return Refusal(clear_line(runs.error[BAD], *words))


def _flip(path: Path, at: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= 1 << bit
    path.write_bytes(content)


@case("A2", "a bit of a saved dataset flipped")
def flipped_dataset(folder: Path) -> Refusal:
    _flip(two_runs(folder) / f"{STEM}.output.nc", -100)
    return one_is_damaged(folder, "output.nc", "changed")


@case("A2", "a number of a saved table changed, its length and time kept")
def changed_table(folder: Path) -> Refusal:
    path = two_runs(folder) / f"{STEM}.roles.csv"
    before = path.stat()
    path.write_text(path.read_text().replace("0.2", "0.9"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return one_is_damaged(folder, "roles.csv", "changed")


@case("A2", "the results of two runs exchanged")
def exchanged(folder: Path) -> str:
    bad = two_runs(folder) / f"{STEM}.output.nc"
    good = folder / "runs" / GOOD / f"{STEM}.output.nc"
    first, second = bad.read_bytes(), good.read_bytes()
    bad.write_bytes(second)
    good.write_bytes(first)
    assert set(patchlib.collect(folder).runs.status) == {"damaged"}
    return "both are named"


@case("A2", "`verify` of a changed result: named, and nothing is run")
def verify_changed(folder: Path) -> str:
    bad = two_runs(folder)
    (bad / f"{STEM}.roles.csv").write_text("head,score\nL1H0,7\n")
    (folder / "runs" / GOOD / "status.json").unlink()
    table = patchlib.verify(folder, sample=9)
    assert list(table.run) == [BAD] and not table.same.any() and "changed" in table.note[0], table
    return str(table.note[0])


@case("A2", "a result deleted, a result that is a folder, one that is a pipe")
def no_regular_file(folder: Path) -> Refusal:
    path = two_runs(folder) / f"{STEM}.output.nc"
    path.unlink()
    one_is_damaged(folder, "output.nc", "missing")
    path.mkdir()
    one_is_damaged(folder, "output.nc", "missing")
    path.rmdir()
    os.mkfifo(path)
    return one_is_damaged(folder, "output.nc", "missing")


def _external_storage(file: h5py.File, secret: Path) -> None:
    file.create_dataset("x", (8,), "u1", external=[(str(secret), 0, 8)])


def _external_link(file: h5py.File, secret: Path) -> None:
    file["x"] = h5py.ExternalLink(str(secret), "/secret")


def _soft_link(file: h5py.File, secret: Path) -> None:
    file["x"] = h5py.SoftLink("/effect")


def _virtual(file: h5py.File, secret: Path) -> None:
    layout = h5py.VirtualLayout((8,), "u1")
    layout[:] = h5py.VirtualSource(str(secret), "secret", (8,))
    file.create_virtual_dataset("x", layout)


def _nested_external(file: h5py.File, secret: Path) -> None:
    group = file.create_group("a/b")
    group["up"] = file["a"]  # a circle of hard links
    group.create_dataset("x", (8,), "u1", external=[(str(secret), 0, 8)])


def _bomb(file: h5py.File, secret: Path) -> None:
    file.create_dataset("x", (10**6, 10**6), "f8", chunks=(1000, 1000), compression="gzip")


def _many_bombs(file: h5py.File, secret: Path) -> None:
    for i in range(40):
        file.create_dataset(f"x{i}", (10**6,), "f8", chunks=(10**6,), compression="gzip", fillvalue=1.0)


_FOREIGN: dict[str, tuple[Callable[[h5py.File, Path], None], str]] = {
    "external storage": (_external_storage, "reads other files"),
    "a link to another file": (_external_link, "link"),
    "a soft link": (_soft_link, "link"),
    "a virtual dataset": (_virtual, "reads other files"),
    "external storage in a group that holds itself": (_nested_external, "reads other files"),
    "8 TB of zeros in 30 KB": (_bomb, "more than"),
    "320 MB in 40 variables that are not there": (_many_bombs, "more than"),
}

for _text, (_make, _word) in _FOREIGN.items():

    @case("B10", f"a netCDF with {_text}, signed")
    def _foreign_netcdf(folder: Path, make: Callable[[h5py.File, Path], None] = _make, word: str = _word) -> Refusal:
        bad = two_runs(folder)
        secret = folder / "secret.h5"
        with h5py.File(secret, "w") as file:
            file["secret"] = np.frombuffer(b"password", "u1")
        with h5py.File(bad / f"{STEM}.output.nc", "a") as file:
            make(file, secret)
        sign(bad)
        collection, errors = look_at_all(folder)
        assert set(errors) == {BAD}, errors
        one = Collection(folder, tuple(run for run in collection.records if run.name == BAD))
        refused(lambda: one.dataset(STEM, "output"), word)
        return Refusal(clear_line(errors[BAD], "output.nc", word))


@case("B10", "a netCDF that is text, empty, cut short, a notebook, signed")
def no_netcdf(folder: Path) -> Refusal:
    bad = two_runs(folder)
    path = bad / f"{STEM}.output.nc"
    content = path.read_bytes()
    errors: dict[str, str] = {}
    for wrong in (b"no netCDF", b"", content[: len(content) // 2], content[:50], b"CDF\x01" + bytes(100), b"{}"):
        path.write_bytes(wrong)
        sign(bad)
        errors = look_at_all(folder)[1]
        assert set(errors) == {BAD} and clear_line(errors[BAD], "cannot be read"), errors
    return Refusal(errors[BAD])


@case("B10", "a netCDF on which its reader hangs or crashes")
def reader_hangs(folder: Path) -> Refusal:
    stub = "import json, os, sys, time\nfor line in sys.stdin:\n    'bad' in line and {}\n    print('\"\"', flush=True)"
    errors: dict[str, str] = {}
    for does, word in (("os.abort()", "crashes"), ("time.sleep(60)", "more than 3 s")):
        two_runs(folder)
        probe = [sys.executable, "-I", "-S", "-c", stub.format(does)]
        with patch.object(netcdf, "_PROBE", probe), patch.object(netcdf, "PATIENCE", 3.0):
            netcdf._FAULTS.clear()
            errors = look_at_all(folder)[1]
        netcdf._FAULTS.clear()
        assert set(errors) == {BAD}, errors
        clear_line(errors[BAD], word)
    return Refusal(errors[BAD])


_ODD: dict[str, Callable[[Any], Any]] = {
    "text for effects": lambda ds: ds.assign(effect=ds.effect.astype(str)),
    "no metric left": lambda ds: ds.isel(metric=[]),
    "text for layers": lambda ds: ds.assign_coords(layer=["a", "b", "c"]),
    "a cell twice": lambda ds: ds.assign_coords(layer=[0, 0, 1]),
    "text for the clean metric": lambda ds: ds.assign(clean=ds.clean.astype(str)),
    "complex effects": lambda ds: ds.assign(effect=ds.effect.astype(complex)),
    "all effects infinite": lambda ds: ds.assign(effect=ds.effect * np.inf),
    "dates for heads": lambda ds: ds.assign_coords(head=np.array([1, 2], "datetime64[ns]")),
    "no coordinates": lambda ds: ds.drop_vars(["metric", "layer", "head"]),
    "a number for a site": lambda ds: ds.assign_attrs(site=[1.0, 2.0], direction=3),
}

for _text, _change in _ODD.items():

    @case("B10", f"a dataset with {_text} beside a good one")
    def _odd_dataset(folder: Path, change: Callable[[Any], Any] = _change) -> str:
        add_run(folder, "good", parameters={"seed": 1})
        from tests.runs.runs_folder import sweep_result

        add_run(folder, "bad", parameters={"seed": 2}, results={"output": change(sweep_result(2))})
        collection, errors = look_at_all(folder)
        assert dict(collection.runs.status) == {GOOD: "ok", BAD: "ok"} and set(errors) <= {BAD}
        return clear_line(errors[BAD]) if errors else "it is shown, and the good one too"


def _changed_manifest(folder: Path, text: str, record: str = f"{STEM}.manifest.json") -> None:
    (two_runs(folder) / record).write_text(text)


_DEEP = '{"a":' * 1000 + "1" + "}" * 1000
_RECORDS: dict[str, str] = {
    "nested 1,000 deep": _DEEP,
    "nested 100,000 deep": "[" * 100_000,
    "of bytes that are no text": "\udcff",
    "that is a list": "[]",
    "that is empty": "",
    "with a number of 5,000 digits": '{"notebook": ' + "9" * 5000 + "}",
}

for _text, _content in _RECORDS.items():

    @case("B10", f"a manifest {_text}")
    def _bad_manifest(folder: Path, content: str = _content) -> Refusal:
        path = two_runs(folder) / f"{STEM}.manifest.json"
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
        return one_is_damaged(folder, "manifest.json", "cannot be read")

    @case("B10", f"a status {_text}")
    def _bad_status(folder: Path, content: str = _content) -> Refusal:
        (two_runs(folder) / "status.json").write_bytes(content.encode("utf-8", "surrogateescape"))
        return one_is_damaged(folder, "status.json", "cannot be read")


_FIELDS: dict[str, Any] = {
    "wall_time_s": ["long", -1, float("nan"), [1], True, 10**400],
    "peak_memory_mb": ["much", {}, float("inf")],
    "finished_utc": ["yesterday", 5, None, []],
    "status": ["<b>fine</b>", 1, None, ["ok"], {"ok": 1}],
    "error": [5, ["x"], {}],
    "notebook": [5, None, "../../etc/passwd", "a/b", "", "a\nb", [], "/abs"],
    "parameters": [[], "seed=1", None, 5],
    "models": [{}, "gpt2", [1], [{}], [{"name": 5, "weights_hash": "x"}], None],
    "headline": [[], {"x": "large"}, {"x": [1]}, {"x": float("inf")}, "x"],
    "files": [{}, "x", [1], [{}], [{"name": "x.nc"}], [{"name": 5, "sha256": "0"}], [{"name": "x.nc", "sha256": 5}]],
}

for _field, _values in _FIELDS.items():

    @case("B10", f"a manifest with {_field} of other kinds: {_values!s:.60}...")
    def _wrong_field(folder: Path, field: str = _field, values: list[Any] = _values) -> Refusal:
        path = two_runs(folder) / f"{STEM}.manifest.json"
        manifest = json.loads(path.read_text())
        missing = {name: value for name, value in manifest.items() if name != field}
        optional = field == "headline"  # older manifests have none
        for changed in [*[missing] * (not optional), *(manifest | {field: value} for value in values)]:
            path.write_text(json.dumps(changed))
            assert dict(patchlib.collect(folder).runs.status) == {GOOD: "ok", BAD: "damaged"}, changed.get(field)
        return one_is_damaged(folder, "manifest.json", "cannot be read")


@case("B10", "a manifest whose results lie in other folders, are devices or no results")
def results_elsewhere(folder: Path) -> Refusal:
    bad = two_runs(folder)
    path = bad / f"{STEM}.manifest.json"
    manifest = json.loads(path.read_text())
    secret = folder / "secret.csv"
    secret.write_text("user,password\nme,1234\n")
    said = Refusal("")
    for name in ("../../secret.csv", str(secret), "/dev/zero", "/dev/stdin", "x", "a\0b.csv", "", "x" * 5000 + ".csv"):
        file = {"name": name, "sha256": sha256_of(secret)}
        path.write_text(json.dumps(manifest | {"files": [*manifest["files"], file]}))
        said = one_is_damaged(folder)
    return said


@case("B10", "results that a notebook saved to its own out_dir are still found")
def results_in_out_dir(folder: Path) -> str:
    patchlib.save_run(folder / "mine", "nb", {"effects": _small()}, {"seed": 1})
    manifest = json.loads((folder / "mine" / "nb.manifest.json").read_text())
    manifest["files"] = [file | {"name": f"../mine/{file['name']}"} for file in manifest["files"]]
    (folder / "out").mkdir()
    (folder / "out" / "nb.manifest.json").write_text(json.dumps(manifest))
    collection = patchlib.collect(folder / "out")
    assert list(collection.runs.status) == ["ok"]
    assert collection.dataset("nb", "effects").effect.values.tolist() == [[0.5, 0.25]]
    return "found"


def _small() -> Any:
    import xarray as xr

    return xr.Dataset({"effect": ("layer", [0.5, 0.25])})


@case("B10", "the index over manifests of every damage")
def index_of_damage(folder: Path) -> str:
    patchlib.save_run(folder, "good", {}, {"seed": 1})
    manifest = new_manifest("bad", {})
    number = 0
    for field, values in _FIELDS.items():
        for value in values:
            number += 1
            (folder / f"bad{number}.manifest.json").write_text(json.dumps(manifest | {field: value}))
    for text in _RECORDS.values():
        number += 1
        (folder / f"bad{number}.manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    write_index(folder)
    page = (folder / "index.html").read_text()
    missing = [name for i in range(1, number + 1) if (name := f"bad{i}.manifest.json") not in page]
    assert "good.manifest.json" in page and not missing and "<b>fine</b>" not in page, missing
    return f"{number} bad ones are named"


@case("B10", "`verify` of a run whose `repeat` names a notebook from outside", 60)
def verify_foreign(folder: Path) -> Refusal:
    bad = two_runs(folder)
    path = bad / f"{STEM}.manifest.json"
    manifest = json.loads(path.read_text())
    evil, mark = folder / f"{STEM}.ipynb", folder / "mark"
    source = f"open({str(mark)!r}, 'w').close()"
    cell = {"cell_type": "code", "source": source, "metadata": {}, "outputs": [], "execution_count": None}
    evil.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    (folder / "runs" / GOOD / "status.json").unlink()
    said = Refusal("")
    for repeat in (f"patchlib run {evil}", f"patchlib run ./{STEM}.ipynb", "", "'", "rm -rf /", f"sh -c {STEM}"):
        path.write_text(json.dumps(manifest | {"repeat": repeat}))
        said = refused(lambda: patchlib.verify(folder), "not patchlib's", "--notebook")
    path.write_text(json.dumps(manifest | {"repeat": ["patchlib"]}))
    assert patchlib.verify(folder).note[0].startswith(path.name)
    assert not mark.exists()
    return said


@case("B10", "pipes in the place of a manifest, a status, a notebook: nobody waits for them", 30)
def pipes(folder: Path) -> Refusal:
    bad = two_runs(folder)
    for name in ("status.json", f"{STEM}.manifest.json", f"{STEM}.ipynb"):
        before = (bad / name).read_bytes()
        (bad / name).unlink()
        os.mkfifo(bad / name)
        if name.endswith(".json"):
            write_index(bad)
            one_is_damaged(folder, name, "cannot be read")
        look_at_all(folder)
        (bad / name).unlink()
        (bad / name).write_bytes(before)
    (bad / "status.json").write_text("")
    return one_is_damaged(folder, "status.json")


@case("B10", "a link called report.ipynb in a folder from elsewhere", 60)
def linked_report(folder: Path) -> str:
    two_runs(folder)
    mine = folder.with_name(f"{folder.name}-mine.txt")
    mine.write_text("mine")
    (folder / "report.ipynb").symlink_to(mine)
    (folder / "report.html").symlink_to(mine)
    try:
        with patch("patchlib.runs.report.write.execute", return_value="as it would"):
            refused(lambda: patchlib.write_report(folder), "could not be made")
        assert mine.read_text() == "mine" and not (folder / "report.ipynb").exists()
    finally:
        mine.unlink()
    return "the file that it leads to is as it was"


@case("C15", "folders and settings of other kinds for `collect`, `verify`, `write_report`, `read_grid`, `run_grid`", 30)
def other_kinds(folder: Path) -> Refusal:
    two_runs(folder)
    for odd in (None, 5, [], "a\0b", "x" * 5000, folder / "none"):
        for call in (patchlib.collect, patchlib.verify, patchlib.write_report, patchlib.read_grid):
            refused(lambda call=call, odd=odd: call(odd))
    odd_settings = {"sample": [0, 1.5, "1"], "seed": [None, [], "x"], "atol": [-1, "x", None, float("nan")]}
    for name, values in odd_settings.items():
        for value in values:
            how = {name: value}
            refused(lambda how=how: patchlib.verify(folder, **how), name)
    for runs in (None, 5, "grid.yaml", [1], {}):
        refused(lambda runs=runs: patchlib.run_grid(runs, folder / "out"), "read_grid")
    refused(lambda: patchlib.run_grid([], None), "None")
    collection = patchlib.collect(folder)
    for notebook, result in ((None, None), (STEM, 5), (STEM, "roles"), ([], {})):
        refused(lambda notebook=notebook, result=result: collection.dataset(notebook, result))
    refused(lambda: collection.dataset(STEM, "output", seed=[1]), "seed = '[1]'")
    return refused(lambda: collection.table(STEM, "output"), ".dataset")
