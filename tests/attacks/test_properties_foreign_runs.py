"""Whatever stands in a folder of runs: each fault is one named run, and hides no other."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import patchlib
from patchlib.errors import RunError
from patchlib.runs.execute.pages import write_index
from patchlib.runs.report.netcdf import look_through, open_result
from tests.attacks.case import clear_line
from tests.attacks.foreign_runs import BAD, GOOD, look_at_all, two_runs
from tests.runs.runs_folder import STEM, sweep_result

FEW = settings(max_examples=12, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))

text = st.text(max_size=8) | st.sampled_from(["ok", "..", "/", "<b>", "nan", "1", "x.nc", "2026-01-01", "\0", "\ud800"])
scalars = st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | text
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(text, v, max_size=3), max_leaves=6)
where = st.lists(st.integers(0, 99), min_size=4, max_size=4)
changes_of_records = st.lists(st.tuples(where, values | st.just(...)), max_size=3)
bits = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7))


@pytest.fixture(scope="module")
def place():
    """The folder of a run beside a good one."""
    with tempfile.TemporaryDirectory(prefix="patchlib-foreign-") as name:
        yield two_runs(Path(name))


def _with(record: Any, changes: list[tuple[list[int], Any]]) -> Any:
    """A record with some of its values, at any depth, changed or taken away (where the new one is `...`)."""
    changed = json.loads(json.dumps(record))
    for steps, value in changes:
        holder = changed
        for step in steps:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not keys:
                break
            key = keys[step % len(keys)]
            if isinstance(holder[key], dict | list) and holder[key] and step % 2:
                holder = holder[key]
                continue
            if value is ...:
                del holder[key]
            else:
                holder[key] = value
            break
    return changed


@FEW
@given(changes=changes_of_records, of_status=st.booleans())
def test_a_record_with_any_values_is_one_run_and_hides_no_other(place, changes, of_status):
    path = place / ("status.json" if of_status else f"{STEM}.manifest.json")
    before = path.read_text()
    try:
        path.write_text(json.dumps(_with(json.loads(before), changes)))
        collection, errors = look_at_all(place.parents[1])
    finally:
        path.write_text(before)
    status = dict(collection.runs.status)
    assert set(status) == {GOOD, BAD} and status[GOOD] == "ok" and GOOD not in errors
    if status[BAD] == "damaged":
        clear_line(collection.runs.error[BAD])
    else:
        assert status[BAD] in ("ok", "failed", "timeout", "interrupted", "running", "waiting")
    assert GOOD in collection.dataset(STEM, "output").run.values
    repr(collection.runs)


@settings(FEW, max_examples=3)
@given(changes_of_records)
def test_the_index_names_every_manifest(place, changes):
    odd = place / "odd.manifest.json"
    odd.write_text(json.dumps(_with(json.loads((place / f"{STEM}.manifest.json").read_text()), changes)))
    write_index(place)
    page = (place / "index.html").read_text()
    odd.unlink()
    assert odd.name in page and f"{STEM}.manifest.json" in page


@FEW
@given(st.lists(bits, min_size=1, max_size=3), st.floats(0, 2))
def test_a_signed_netcdf_with_flipped_bits_or_cut_short_is_read_or_refused(flips, length):
    """A crash or a hang of HDF5 would be one of the process that looks through files, and is a refusal too."""
    content = bytearray(NETCDF)
    for at, bit in flips:
        content[int(at * len(content))] ^= 1 << bit
    path = PLACE / f"{abs(hash(bytes(content)))}.nc"
    path.write_bytes(content[: int(length * len(content))])
    try:
        with open_result(path, chunks=None) as dataset:
            dataset.load()
    except RunError as error:
        clear_line(str(error), "cannot be read")
    except (OSError, ValueError, RuntimeError, KeyError, TypeError):
        assert not look_through([path])[path]  # whoever uses the numbers is told by the reader itself
    finally:
        path.unlink()


PLACE = Path(tempfile.mkdtemp(prefix="patchlib-flips-"))
sweep_result(0).to_netcdf(PLACE / "good.nc", engine="h5netcdf")
NETCDF = (PLACE / "good.nc").read_bytes()


@FEW
@given(bits, st.sampled_from([f"{STEM}.output.nc", f"{STEM}.roles.csv"]))
def test_any_flipped_bit_of_any_result_is_named(place, flip, name):
    at, bit = flip
    before = (place / name).read_bytes()
    content = bytearray(before)
    content[int(at * len(content))] ^= 1 << bit
    try:
        (place / name).write_bytes(content)
        runs = patchlib.collect(place.parents[1]).runs
    finally:
        (place / name).write_bytes(before)
    assert dict(runs.status) == {GOOD: "ok", BAD: "damaged"} and f"{name} was changed" in runs.error[BAD]
