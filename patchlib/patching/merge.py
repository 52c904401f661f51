"""Results that were swept separately -> one: other layers, heads or positions, other prompts, other sites."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from patchlib import stats
from patchlib._util import check_kind, shown
from patchlib.errors import SweepError

PROMPTS = ("clean_prompt", "corrupted_prompt", "answer", "wrong_answer")
MAY_DIFFER = ("site", "seed", "n_examples", "engine", "executor", "device")
"""What parts of one sweep may record differently; of versions too, and all else has to agree."""


def merge(results: Iterable[xr.Dataset]) -> xr.Dataset:
    """Join results of one model and one kind of patch that were swept in parts.

    Parts of the same prompts go together along their axes (layers, heads, positions); then parts of other prompts
    behind each other; then other sites along a new axis ``site``. The effect is computed anew, over all prompts.

    Args:
        results: From ``sweep`` or ``path_patch``, in the order in which prompts and sites shall come; their metrics,
            axes, direction, source and weights are the same.

    Returns:
        As ``sweep`` gives it, over all cells. Attributes in which parts differ list what they have, once each;
        ``n_examples`` counts all prompts.

    Raises:
        SweepError: A part is no result or of another sweep, two parts disagree about a cell, or cells of the grid are
            in no part.

    Example:
        Two layers, swept apart:

        >>> how = {"over": ("layer", "head"), "progress": False}
        >>> parts = [patchlib.sweep(model, task, "z", layers=[layer], **how) for layer in (20, 23)]
        >>> result = patchlib.merge(parts)
        >>> dict(result.patched.sizes)
        {'metric': 1, 'layer': 2, 'head': 9, 'example': 4}
        >>> result.effect.sel(metric="logit_diff", layer=23).equals(parts[1].effect.sel(metric="logit_diff", layer=23))
        True
    """
    if isinstance(results, xr.Dataset):
        results = [results]
    parts = [stats.check_result(part, "patched") for part in check_kind("results", results, Iterable, "give a list")]
    if not parts:
        raise SweepError("There are no results to merge: give at least one.")
    for part in parts:
        _check_alike(parts[0], part)
    of_sites = [
        _along_example([_along_axes(same) for same in _groups(of_site, _prompts)])
        for of_site in _groups(parts, lambda part: part.attrs.get("site"))
    ]
    merged = _along_site(of_sites) if len(of_sites) > 1 else of_sites[0]
    merged.attrs = _attributes(parts) | {"n_examples": merged.sizes["example"]}
    return merged.assign(effect=stats.effect(merged))


def _check_alike(first: xr.Dataset, part: xr.Dataset) -> None:
    records = [{"metrics": list(r.metric.values), "axes": list(r.patched.dims), **r.attrs} for r in (first, part)]
    for what in {**records[0], **records[1]}:
        one, other = (record.get(what) for record in records)
        if what not in MAY_DIFFER and not what.startswith("version_") and one != other:
            raise SweepError(f"These are no parts of one sweep: their {what} differ, {shown(one)} and {shown(other)}.")


def _groups(parts: Sequence[xr.Dataset], key: Callable[[xr.Dataset], Hashable]) -> list[list[xr.Dataset]]:
    """Parts with the same key together, in the order in which the keys first come."""
    keys = list(map(key, parts))
    return [[part for part, of in zip(parts, keys, strict=True) if of == wanted] for wanted in dict.fromkeys(keys)]


def _prompts(part: xr.Dataset) -> Hashable:
    return tuple(tuple(part[name].values) for name in PROMPTS)


def _along_axes(parts: list[xr.Dataset]) -> xr.Dataset:
    """Parts of the same prompts and site: each gives the cells that it has."""
    axes = [str(dim) for dim in parts[0].patched.dims if dim not in ("metric", "example")]
    values: dict[str, list[Any]] = {axis: _in_order([part[axis].values for part in parts]) for axis in axes}
    merged = parts[0].drop_vars("effect", errors="ignore").reindex(values)
    has = xr.zeros_like(merged.patched, dtype=bool)
    for part in parts:
        here = {axis: part[axis] for axis in axes}
        before = merged.patched.loc[here].where(has.loc[here], part.patched)
        pairs = [(before, part.patched), (merged.clean, part.clean), (merged.corrupted, part.corrupted)]
        # To the last bits: batches of other cells sum in another order.
        if not all(np.allclose(known, new, rtol=1e-4, atol=1e-4, equal_nan=True) for known, new in pairs):
            raise SweepError(
                f"Two parts disagree about the same prompts, patched or not (site {part.attrs.get('site')}): sweep "
                "them again with one version of everything."
            )
        merged.patched.loc[here] = part.patched
        has.loc[here] = True
        for name, label in part.coords.items():  # such as pos_label, of positions that the first part does not have
            if name not in part.dims and label.dims in [(axis,) for axis in axes]:
                merged[name].loc[{label.dims[0]: part[label.dims[0]]}] = label
    if not has.all():
        lacking = int((~has).any(["metric", "example"]).sum())
        raise SweepError(
            f"{lacking} cells of the grid over {', '.join(axes)} are in none of the parts: sweep them too."
        )
    return merged


def _in_order(values: list[np.ndarray]) -> list[Any]:
    """All values of an axis: numbers in their order, names as they come."""
    every = list(dict.fromkeys(value for part in values for value in part.tolist()))
    return every if any(isinstance(value, str) for value in every) else sorted(every)


def _along_example(parts: list[xr.Dataset]) -> xr.Dataset:
    """Parts of other prompts: a position that only some of them have is NaN in the others, as in a sweep."""
    if len(parts) == 1:
        return parts[0]
    for axis in set(parts[0].patched.dims) - {"pos", "metric", "example"}:
        if any(list(part[axis].values) != list(parts[0][axis].values) for part in parts):
            raise SweepError(f"Parts of other prompts are over other values of {axis}: sweep the same ones of all.")
    merged = xr.concat(parts, "example", data_vars="minimal", coords="minimal", compat="override", join="outer")
    if "pos_label" in merged.coords:  # a token that all prompts which have the position have in common
        labels = [dict(zip(part.pos.values, part.pos_label.values, strict=True)) for part in parts]
        found = [{label[position] for label in labels if position in label} for position in merged.pos.values]
        merged = merged.assign_coords(pos_label=("pos", [same.pop() if len(same) == 1 else "" for same in found]))
    return merged.assign_coords(example=np.arange(merged.sizes["example"]))


def _along_site(parts: list[xr.Dataset]) -> xr.Dataset:
    """Parts of other sites over the same axes and prompts, beside each other."""
    for part in parts:
        if not part.drop_vars("patched").drop_attrs().equals(parts[0].drop_vars("patched").drop_attrs()):
            raise SweepError(
                "Parts of other sites are of other prompts, layers, heads or positions: sweep the same ones."
            )
    site = pd.Index([part.attrs["site"] for part in parts], name="site")
    patched = xr.concat([part.patched for part in parts], site)
    merged = parts[0].assign(patched=patched.transpose("metric", "site", ...))
    return merged


def _attributes(parts: list[xr.Dataset]) -> dict[str, Any]:
    """What all parts record; where they differ, each value once."""
    attributes = {}
    for name in dict.fromkeys(name for part in parts for name in part.attrs):
        values = list(dict.fromkeys(part.attrs[name] for part in parts if name in part.attrs))
        attributes[name] = values[0] if len(values) == 1 else ", ".join(map(str, values))
    return attributes
