"""The grid of a sweep: what ``over`` names, checked against model, site and task, and the cells it makes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib.errors import SweepError
from patchlib.patching.engine import Cell
from patchlib.patching.sites import Site
from patchlib.tasks.base import PromptPairs


@dataclass(frozen=True)
class Grid:
    """The axes that are swept, in order, and what every cell shares.

    Attributes:
        values: Axis name -> its coordinate values, in the order of the result's dims.
        layers: The layers that are patched.
        fixed: Positions that every cell patches (token indices or roles) where no position axis is swept;
            None for all positions.
    """

    values: dict[str, list[Any]]
    layers: list[int]
    fixed: list[int | str] | None

    @property
    def shape(self) -> tuple[int, ...]:
        """How many values each axis has."""
        return tuple(len(values) for values in self.values.values())

    def cells(self, pairs: PromptPairs) -> list[Cell]:
        """The cells that these prompts (of one length) have: positions past their end are left out."""
        everywhere: list[int | str | None] = [None]
        fixed = torch.stack([position_mask(p, pairs) for p in self.fixed or everywhere]).any(0)
        masks = {value: position_mask(value, pairs) for axis in ("pos", "role") for value in self.values.get(axis, ())}
        cells = []
        for index in itertools.product(*(range(n) for n in self.shape)):
            at = {axis: values[i] for (axis, values), i in zip(self.values.items(), index, strict=True)}
            where = masks.get(at.get("pos", at.get("role")), fixed)
            if where.any():
                layers = (at["layer"],) if "layer" in at else tuple(sorted(self.layers))
                cells.append(Cell(index, layers, at.get("head", at.get("kv_head")), where))
        return cells


def position_mask(position: int | str | None, pairs: PromptPairs) -> Bool[Tensor, "example pos"]:
    """True at a token index or role of each of these prompts, which are of one length; everywhere for None."""
    n_pos = len(pairs.clean_tokens[0])
    if position is None:
        return torch.ones(len(pairs), n_pos, dtype=torch.bool)
    index: Int[Tensor, "example 1"] | int = position if isinstance(position, int) else pairs.roles[position][:, None]
    return (torch.arange(n_pos) == index).expand(len(pairs), n_pos)


def resolve_grid(
    model: TransformerBridge,
    site: Site,
    pairs: PromptPairs,
    over: Sequence[str],
    layers: Sequence[int] | int | None,
    heads: Sequence[int] | int | None,
    positions: Sequence[int | str] | int | str | None,
) -> Grid:
    """What ``sweep`` was asked for, as a checked grid; SweepError names the first thing that does not exist."""
    over = list(over) if isinstance(over, Iterable) and not isinstance(over, str) else [over]
    head_axis = site.head_axis(model)
    if head_axis == "kv_head":  # "head" is understood, and labelled as what it is
        over = [head_axis if axis == "head" else axis for axis in over]
    possible = ["layer", *([head_axis] if site.has_heads else []), "pos", *(["role"] if pairs.roles else [])]
    for axis in over:
        if axis not in possible:
            why = "this task names no positions" if axis == "role" else f"site {site.name!r} has no such axis"
            raise SweepError(f"Cannot sweep over {axis!r}: {why}. Possible here: {', '.join(possible)}.")
    if not over or len(set(over)) < len(over) or {"pos", "role"} <= set(over):
        raise SweepError(
            f"over={tuple(over)} must name at least one axis, each once, and only one of 'pos' and 'role'."
        )

    chosen_layers = _in_range("layer", layers, model.cfg.n_layers)
    values: dict[str, list[Any]] = {"layer": chosen_layers}
    if heads is not None and head_axis not in over:
        mend = f"add {head_axis!r} to over" if site.has_heads else f"site {site.name!r} has no heads"
        raise SweepError(f"heads={heads} was given, but over={tuple(over)} has no {head_axis!r} axis: {mend}.")
    if site.has_heads:
        values[head_axis] = _in_range(head_axis, heads, site.n_heads(model))
    longest = max(len(row) for row in pairs.clean_tokens)
    values["pos"] = list(range(longest))
    values["role"] = list(pairs.roles)
    fixed = None
    if positions is not None:
        checked = _positions(positions, pairs, longest)
        if "pos" in over or "role" in over:
            axis, kind = ("pos", int) if "pos" in over else ("role", str)
            if not all(isinstance(position, kind) for position in checked):
                wanted = "token indices" if kind is int else "role names"
                raise SweepError(f"positions={checked}: a sweep over {axis!r} takes {wanted}.")
            values[axis] = checked
        else:
            fixed = checked
    return Grid({axis: values[axis] for axis in over}, chosen_layers, fixed)


def _is_index(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)  # NumPy's whole numbers are Integral too


def _in_range(axis: str, asked: Sequence[int] | int | None, n: int) -> list[int]:
    if asked is None:
        return list(range(n))
    asked = list(asked) if isinstance(asked, Iterable) else [asked]
    wrong = [i for i in asked if not _is_index(i) or not 0 <= i < n]
    if wrong or not asked or len(set(asked)) < len(asked):
        raise SweepError(f"{axis} {wrong or asked} cannot be swept: give whole numbers from 0 to {n - 1}, each once.")
    return [int(i) for i in asked]


def _positions(asked: Sequence[int | str] | int | str, pairs: PromptPairs, longest: int) -> list[int | str]:
    asked = [asked] if isinstance(asked, str) or not isinstance(asked, Iterable) else list(asked)
    checked: list[int | str] = []
    for position in asked:
        if isinstance(position, str) and position not in pairs.roles:
            roles = ", ".join(pairs.roles) or "none"
            raise SweepError(f"Unknown position {position!r}: this task's named positions are: {roles}.")
        if not isinstance(position, str) and not _is_index(position):
            raise SweepError(f"Position {position!r} is neither a token index nor the name of a role.")
        if not isinstance(position, str) and not 0 <= position < longest:
            raise SweepError(
                f"Position {position} is outside the prompts, which have positions 0 to {longest - 1}"
                f"{' (use the role END, or that number, for the last)' if position < 0 else ''}."
            )
        checked.append(position if isinstance(position, str) else int(position))
    if not checked or len(set(checked)) < len(checked):
        raise SweepError(f"positions={asked} must name at least one position, each once.")
    return checked
