"""The cells of a set, as people name them: a site, a layer, perhaps a head and a position."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import cell_name, check_heads, check_indices, check_positions, check_text, listed, shown
from patchlib.errors import SweepError
from patchlib.patching.sites import SITES, Site, check_patchable, get_site
from patchlib.tasks.pairs import PromptPairs

CellLike = Sequence[Any]
"""``(layer, head)`` or ``(layer, head, position)``; of sites without heads ``(layer,)`` or ``(layer, position)``. All
may begin with the name of a site."""
Cells = Iterable[CellLike] | pd.DataFrame
MEND = "give (layer, head) or (layer, head, position); of a site without heads (layer,) or (layer, position)"


class Member(NamedTuple):
    """One cell of a set.

    Attributes:
        site: What is patched.
        layer: In which layer.
        head: Of which head; of all when None.
        position: A token index, role or span; all when None.
        head_axis: Whether the head is a ``"head"`` or a ``"kv_head"``.
    """

    site: Site
    layer: int
    head: int | None
    position: int | str | None
    head_axis: str = "head"

    def name(self, default: str) -> str:
        """As people write it: "L9H6 at END"; with the site, where it is another one than this."""
        row: dict[str, Any] = {"layer": self.layer}
        if self.head is not None:
            row[self.head_axis] = self.head
        if self.site.name != default:
            row["site"] = self.site.name
        if self.position is not None:
            row["role" if isinstance(self.position, str) else "pos"] = self.position
        return cell_name(row)


def every_cell(model: TransformerBridge, site_name: str) -> list[tuple[int, ...]]:
    """Every head of a site, or every layer where it has no heads."""
    site = get_site(model, site_name)
    heads = range(site.n_heads(model)) if site.has_heads else None
    layers = site.layers(model)
    return [(layer,) for layer in layers] if heads is None else [(layer, head) for layer in layers for head in heads]


def entries_of(cells: Cells) -> list[Any]:
    """The cells one by one; of a table its rows."""
    if isinstance(cells, pd.DataFrame):
        return cells.to_dict("records")
    if isinstance(cells, str | Mapping):
        raise SweepError(f"Cells cannot be {shown(cells)}: {MEND}.")
    return listed(cells)


def cell_texts(model: TransformerBridge, pairs: PromptPairs, cells: Cells, site: str) -> list[str]:
    """What each cell is called; SweepError for one that comes twice, by the same name or by another."""
    return [member.name(site) for member in _members(model, pairs, cells, site)]


def _members(model: TransformerBridge, pairs: PromptPairs, cells: Cells, site: str) -> list[Member]:
    """Each cell, checked; SweepError for one that comes twice."""
    members: dict[tuple[Any, ...], Member] = {}
    for entry in entries_of(cells):
        member = _member(model, pairs, entry, site)
        key = (member.site, member.layer, member.head, _tokens_at(pairs, member.position))
        if first := members.get(key):
            names = [one.name(site) for one in (first, member)]
            same = "" if names[0] == names[1] else f" (as {names[0]} and as {names[1]}, which are the same tokens)"
            raise SweepError(f"{names[0]} was given twice{same}: give each cell once.")
        members[key] = member
    return list(members.values())


def _tokens_at(pairs: PromptPairs, position: int | str | None) -> tuple[tuple[int, ...], ...] | None:
    """Which tokens of each prompt a position is, whatever it is called; None where it is all of them."""
    lengths = [len(row) for row in pairs.clean_tokens]
    if position is None:
        return None
    if isinstance(position, int):
        return tuple((position if position >= 0 else n_pos + position,) for n_pos in lengths)
    if position in pairs.spans:
        return tuple(tuple(sorted(indices)) for indices in pairs.spans[position])
    return tuple((index,) for index in pairs.roles[position].tolist())


def named_sets(model: TransformerBridge, pairs: PromptPairs, cells: Any, site: str) -> dict[str, tuple[Member, ...]]:
    """The members of each set, by its name, checked."""
    sets = cells if isinstance(cells, Mapping) else {"": cells}
    if not sets:
        raise SweepError("There is no set to patch: the mapping of names to cells is empty.")
    named: dict[str, tuple[Member, ...]] = {}
    for name, given in sets.items():
        members = _members(model, pairs, given, site)
        if not members:
            raise SweepError(f"The set {shown(name)} has no cell: {MEND}." if name else f"No cell was given: {MEND}.")
        texts = " + ".join(member.name(site) for member in members)
        named[check_text("A set's name", name) if name else texts] = tuple(members)
    by_head = {member.site for members in named.values() for member in members if member.head is not None}
    for used in {member.site for members in named.values() for member in members}:
        check_patchable(model, used, by_head=used in by_head)
    return named


def _member(model: TransformerBridge, pairs: PromptPairs, entry: Any, default: str) -> Member:
    """One cell as it was given; SweepError names what is not there."""
    rest = _of_row(model, entry, default) if isinstance(entry, Mapping) else listed(entry)
    site = get_site(model, rest.pop(0) if rest and isinstance(rest[0], str) else default)
    if site.hook or site.of:
        possible = ", ".join(name for name, other in SITES.items() if not other.hook and not other.of)
        raise SweepError(f"Sets have no cells of {site.name!r}: choose from {possible}.")
    n_least = 2 if site.has_heads else 1
    if not n_least <= len(rest) <= n_least + 1:
        raise SweepError(f"{shown(entry)} is no cell of {site.name!r}: {MEND}.")
    layer, position = rest[0], rest[n_least] if len(rest) > n_least else None
    head = rest[1] if site.has_heads else None
    axis = site.head_axis(model) if site.has_heads else "head"
    if head is not None:
        mark = "H" if axis == "head" else "KV"
        [(layer, head)] = check_heads([(layer, head)], int(model.cfg.n_layers), site.n_heads(model), mark=mark)
    [layer] = check_indices("layer", [layer], int(model.cfg.n_layers))
    get_site(model, site.name, [layer])
    if position is not None:
        [position] = check_positions([position], pairs.positions, min(len(row) for row in pairs.clean_tokens))
    return Member(site, layer, head, position, axis)


def _of_row(model: TransformerBridge, row: Mapping[str, Any], default: str) -> list[Any]:
    """A row of ``summary_table`` as a cell."""
    known = {key: value for key, value in row.items() if not pd.isna(value)}
    if "layer" not in known or "neuron" in known:
        raise SweepError(f"A row without a layer, or of a neuron, is no cell, {shown(list(row))}: {MEND}.")
    name = str(known.get("site", default))
    head = next((known[key] for key in ("head_index", "head", "kv_head") if key in known), None)
    position = next((known[key] for key in ("role", "pos", "position") if key in known), None)
    return [name, known["layer"], *([head] if get_site(model, name).has_heads else []), position]
