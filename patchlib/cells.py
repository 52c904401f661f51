"""The cells of a sweep, as people name them; light, so that a report of many runs need not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr


def cell_dims(result: xr.Dataset) -> list[str]:
    """The swept axes of a result, e.g. ``["layer", "head"]``."""
    return [str(dim) for dim in result.patched.dims if dim not in ("metric", "example")]


def cell_name(row: Mapping[str, Any]) -> str:
    """Short name of a row of ``summary_table``: "L9H6", "L9KV2", "L9 at S2", "L9H6 at position 10".

    Where the layers were patched together: "all layers at S2".
    """
    name = f"L{int(row['layer'])}" if "layer" in row else "all layers"
    for axis, mark in (("head", "H"), ("kv_head", "KV")):
        name += f"{mark}{int(row[axis])}" if axis in row else ""
    if "role" in row:
        return f"{name} at {row['role']}"
    return f"{name} at position {int(row['pos'])}" if "pos" in row else name
