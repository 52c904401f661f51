"""Look through netCDF files, which may be anybody's: `python -m patchlib.runs.report.probe`, a path a line on stdin.

For each, a line on stdout says what is wrong with it, or nothing. HDF5 is a large reader in C, which damaged files
have hung and crashed: here that costs nobody else anything.
"""

import json
import sys
from pathlib import Path

import h5py

from patchlib._util import first_line

DENSEST = 1100
"""Bytes of numbers that one byte of a file can hold: zlib, of what compresses best."""
ROOM = 2**20
"""Bytes of numbers that any file may hold."""
READ = 2**24
"""Bytes of a variable up to which it is read here; of a larger one, how it is stored."""


class _Refused(Exception):
    """What a netCDF file of ours never has."""


def look_through(path: Path) -> str:
    """What is wrong with a file; empty where nothing is."""
    try:
        with h5py.File(path, "r") as file:
            _look_into(file, [DENSEST * path.stat().st_size + ROOM], set())
    except Exception as error:  # h5py raises of many kinds
        return first_line(error)
    return ""


def _look_into(group: h5py.Group, room: list[int], seen: set[int]) -> None:
    """Read a group; `room` is what its variables may take yet, `seen` are the places of what was read."""
    dict(group.attrs)
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise _Refused(f"{name!r} in it is a link to another place")
        item = group[name]
        place = h5py.h5o.get_info(item.id).addr
        if place in seen:
            continue
        seen.add(place)
        if isinstance(item, h5py.Group):
            _look_into(item, room, seen)
        elif isinstance(item, h5py.Dataset):
            _look_at(item, room)


def _look_at(variable: h5py.Dataset, room: list[int]) -> None:
    if variable.external or variable.is_virtual:
        raise _Refused(f"{variable.name!r} in it reads other files")
    room[0] -= variable.nbytes
    if room[0] < 0:
        raise _Refused(
            f"{variable.name!r} in it is said to be of {variable.nbytes:,} bytes, more than the file can hold"
        )
    dict(variable.attrs)
    if variable.nbytes <= READ:
        variable[()]
    else:
        variable.id.get_storage_size()


def main() -> None:
    """Answer each line until there are no more."""
    for line in sys.stdin:
        print(json.dumps(look_through(Path(json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
