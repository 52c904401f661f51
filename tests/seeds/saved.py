"""What a notebook printed, and what it saved, read without patchlib: the two sides that must agree."""

from __future__ import annotations

import functools
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import xarray as xr


def cell_name(layer: int, head: int | None, place: int | str | None, *, shared: bool = False) -> str:
    """A cell as the notebooks name it: "L9", "L9H6", "L9KV2", "L9 at S2"."""
    head_name = "" if head is None else f"{'KV' if shared else 'H'}{head}"
    return f"L{layer}{head_name}" + ("" if place is None else f" at {place}")


class Saved:
    """The files of one execution of a notebook, in its folder.

    Attributes:
        folder: With the executed notebook, its manifest, .nc and .csv files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @functools.cached_property
    def printed(self) -> str:
        """All that the cells printed, with lines joined."""
        (notebook,) = self.folder.glob("*.ipynb")
        outputs = (out for cell in nbformat.read(notebook, 4).cells for out in cell.get("outputs", []))
        text = " ".join("".join(out["text"]) for out in outputs if out.output_type == "stream" and out.name == "stdout")
        return " ".join(text.split())

    @functools.cached_property
    def effects(self) -> dict[str, tuple[str, pd.Series]]:
        """By a sweep's name its direction, and each cell's effect of the first metric, from the saved prompts."""
        found = {}
        for path in sorted(self.folder.glob("*.nc")):
            with xr.open_dataset(path) as data:
                if {"clean", "corrupted", "patched"} <= set(data) and "direction" in data.attrs:
                    found[path.name.split(".")[1]] = (data.attrs["direction"], _effects(data))
        return found

    def table(self, name: str) -> pd.DataFrame | None:
        """A saved table, None where there is none of that name."""
        paths = list(self.folder.glob(f"*.{name}.csv"))
        return pd.read_csv(paths[0]) if paths else None

    def array(self, name: str) -> xr.Dataset | None:
        """A saved dataset, None where there is none of that name."""
        paths = list(self.folder.glob(f"*.{name}.nc"))
        return xr.load_dataset(paths[0]) if paths else None


def _effects(data: xr.Dataset) -> pd.Series:
    """A ratio of means over prompts, as the notebooks define an effect."""
    clean, corrupted = (data[name].isel(metric=0).mean("example") for name in ("clean", "corrupted"))
    # A longer prompt has positions that a shorter one lacks: such cells are the mean over the prompts that have them.
    patched = data.patched.isel(metric=0)
    if data.attrs["direction"] == "noise":
        clean, corrupted = corrupted, clean
    table = ((patched.mean("example") - corrupted) / (clean - corrupted)).to_series().dropna()
    cells = table.index.to_frame(index=False)
    shared = "kv_head" in cells
    names = [
        cell_name(row["layer"], row.get("kv_head", row.get("head")), row.get("role", row.get("pos")), shared=shared)
        for row in cells.to_dict("records")
    ]
    return pd.Series(table.to_numpy(dtype=np.float64), names)
