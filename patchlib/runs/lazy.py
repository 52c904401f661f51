"""Many files of one kind as one dataset that reads them when asked, one after the other.

`xarray.open_mfdataset` is lazy only with Dask, and holds an open dataset for each file. Here each variable is one of
xarray's own lazy arrays, which knows the paths and opens the files that a selection needs: a thousand runs take as
much memory as one until their numbers are looked at. `.chunk(run=1)` makes Dask arrays of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import pandas as pd
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from patchlib.errors import RunError

RUN = "run"


def lazy_dataset(paths: Mapping[str, Path]) -> xr.Dataset:
    """The datasets of several netCDF files along a new first axis `run`.

    The join is outer: an axis holds every value that it has in any of the files, and is NaN (None for text) where a
    file lacks one. Coordinates that are the same in all files stay as they are, others get the axis `run` too.
    Attributes are those that all files share.

    Args:
        paths: name of the run -> its file; at least one.

    Raises:
        RunError: A file cannot be read, or a variable has other axes in one file than in another.
    """
    files = list(paths.values())
    first = open_one(files[0])
    plain = {name: first[name].load().variable for name in first.coords if name not in first.dims}
    axes = {dim: _axis(first, dim) for dim in first.dims}
    full = {name: True for name in first.variables}  # False: some file lacks it, or some of its axis
    kinds = {name: (one.dims, one.dtype) for name, one in first.variables.items()}
    attrs, own = dict(first.attrs), {dim for dim in first.dims if dim not in first.coords}
    first.close()

    for path in files[1:]:
        with open_one(path) as file:
            found = {dim: _axis(file, dim) for dim in file.dims}
            whole = {dim: axes[dim].equals(index) if dim in axes else False for dim, index in found.items()}
            axes |= {d: _union(axes[d], index) if d in axes else index for d, index in found.items() if not whole[d]}
            for name, one in file.variables.items():
                dims, dtype = kinds.get(name, (one.dims, one.dtype))
                if dims != one.dims:
                    raise RunError(
                        f"{name!r} is over {', '.join(map(str, dims))} in {files[0].name} but over "
                        f"{', '.join(map(str, one.dims))} in {path}; collect them apart, such as by model_name"
                    )
                kinds[name] = dims, np.result_type(dtype, one.dtype)
                full[name] = full.get(name, False) and all(whole[dim] for dim in dims)
            full |= {name: False for name in full if name not in file.variables}
            plain = {n: v for n, v in plain.items() if n in file.coords and v.identical(file[n].load().variable)}
            attrs = {
                key: value
                for key, value in attrs.items()
                if key in file.attrs and np.array_equal(file.attrs[key], value)
            }
            own &= {dim for dim in found if dim not in file.coords}

    coords: dict[Any, Any] = {dim: index for dim, index in axes.items() if dim not in own} | {RUN: list(paths)}
    coords |= {name: one for name, one in plain.items() if full[name]}
    lazy = {}
    for name, (dims, dtype) in kinds.items():
        if name not in coords:
            array = _OfRuns(files, str(name), dims, _with_gaps(dtype) if not full[name] else dtype, axes)
            # as xarray wraps what it opens from a file: read once, then kept
            kept = indexing.MemoryCachedArray(indexing.LazilyIndexedArray(array))
            lazy[name] = xr.Variable((RUN, *dims), kept)
    dataset = xr.Dataset(lazy, coords, attrs)
    return dataset.set_coords([name for name in first.coords if name in lazy])


def open_one(path: Path) -> xr.Dataset:
    """One run's result, not yet read; close it, or use it in a `with`."""
    try:
        return xr.open_dataset(path, engine="h5netcdf")
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}); repeat that run") from error


def read_some(path: Path, names: Iterable[str]) -> xr.Dataset:
    """Some variables of a run's result, with the values of their axes and the result's attributes.

    xarray's own opening looks at every variable of the file; where it only decodes what is asked for, one variable
    of a sweep takes a third of the time, which over a thousand runs is half a minute.
    """
    try:
        with h5netcdf.File(path, "r", decode_vlen_strings=True) as file:
            wanted = [name for name in names if name in file.variables]
            dims = [dim for name in wanted for dim in file[name].dimensions if dim in file.variables]
            one = {name: file[name] for name in dict.fromkeys([*wanted, *dims])}
            found = {n: (v.dimensions, v[...], dict(v.attrs)) for n, v in one.items()}
            return xr.decode_cf(xr.Dataset(found, attrs=dict(file.attrs)))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error}); repeat that run") from error


def _axis(file: xr.Dataset, dim: Any) -> pd.Index:
    return file.indexes[dim] if dim in file.indexes else pd.RangeIndex(file.sizes[dim])


def _union(one: pd.Index, other: pd.Index) -> pd.Index:
    numbers = np.issubdtype(one.dtype, np.number) and np.issubdtype(other.dtype, np.number)
    return one.union(other, sort=None if numbers else False)  # roles and metrics stay in the order they had


def _with_gaps(dtype: np.dtype) -> np.dtype:
    """The dtype that can say "none here" as well."""
    return dtype if dtype.kind in "fc" else np.dtype(float if dtype.kind in "iu" else object)


class _OfRuns(BackendArray):
    """One variable of many files; reads from those that an index asks for."""

    def __init__(
        self, files: Sequence[Path], name: str, dims: tuple[Any, ...], dtype: np.dtype, axes: Mapping[Any, pd.Index]
    ) -> None:
        self.files, self.name, self.dims = files, name, dims
        self.axes = {dim: axes[dim] for dim in dims}
        self.dtype = np.dtype(object) if dtype.kind in "US" else dtype  # the longest text is not known yet
        self.shape = (len(files), *(len(axes[dim]) for dim in dims))

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        numbers, cells = np.arange(len(self.files))[key[0]], key[1:]
        if numbers.ndim == 0:
            return self._one(self.files[numbers], cells)
        rest = np.empty(self.shape[1:], bool)
        parts = np.empty((len(numbers), *xr.Variable(self.dims, rest)[cells].shape), self.dtype)
        for i, number in enumerate(numbers):
            parts[i] = self._one(self.files[number], cells)
        return parts

    def _one(self, path: Path, cells: tuple[Any, ...]) -> np.ndarray:
        gap = None if self.dtype == object else np.nan
        file = read_some(path, [self.name])
        if self.name not in file.variables:
            return xr.Variable(self.dims, np.full(self.shape[1:], gap, self.dtype))[cells].values
        numbered = {dim: range(file.sizes[dim]) for dim in self.dims if dim not in file.coords}
        array = file[self.name].assign_coords(numbered)
        if any(not array.indexes[dim].equals(index) for dim, index in self.axes.items()):
            array = array.astype(self.dtype).reindex(self.axes, fill_value=gap)
        return array.variable[cells].values  # orthogonal, as the key is
