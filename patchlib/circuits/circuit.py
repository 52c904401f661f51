"""A circuit: heads by what they do, each at its positions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from patchlib._util import Head, check_heads, head_names
from patchlib.circuits.head_sets import Position, listed_positions
from patchlib.errors import SweepError


@dataclass(frozen=True)
class Circuit:
    """Heads by type, and the positions at which each type works.

    Args:
        head_types: Name of a head type, such as "name mover" -> (layer, head) of each of its heads.
        positions: Name of a head type -> the position, or positions, at which its heads are kept: roles or token
            indices. A type that is not named here is kept at all positions.

    Raises:
        SweepError: Something that is no (layer, head), or a position for a type that is not there.

    Example:
        >>> circuit = patchlib.Circuit({"name mover": [(9, 6), (9, 9)], "induction": [(5, 5)]}, {"name mover": "END"})
        >>> print(circuit.table().to_string())
                           heads positions
        head_type
        name mover    L9H6, L9H9       END
        induction           L5H5       all
        >>> circuit.without([(9, 9)]).heads
        [(5, 5), (9, 6)]
    """

    head_types: Mapping[str, Sequence[Head]]
    positions: Mapping[str, Position | Iterable[Position]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        head_types = {name: tuple(check_heads(heads, least=0)) for name, heads in self.head_types.items()}
        if unknown := set(self.positions) - set(head_types):
            raise SweepError(
                f"Positions are given for {', '.join(sorted(unknown))}, which is no head type of this circuit."
            )
        object.__setattr__(self, "head_types", head_types)
        listed = {name: listed_positions(positions) for name, positions in self.positions.items()}
        object.__setattr__(self, "positions", listed)

    @property
    def heads(self) -> list[Head]:
        """Every (layer, head) once, by layer."""
        return sorted({head for heads in self.head_types.values() for head in heads})

    def head_positions(self, layer_heads: Iterable[Head] | None = None) -> dict[Head, set[Position | None]]:
        """Some of its heads (all when None), each with the positions at which it is part of the circuit."""
        wanted = set(self.heads if layer_heads is None else check_heads(layer_heads, least=0))
        merged: dict[Head, set[Position | None]] = {}
        for name, heads in self.head_types.items():
            for head in wanted.intersection(heads):
                merged.setdefault(head, set()).update(listed_positions(self.positions.get(name)))
        return merged

    def without(self, layer_heads: Iterable[Head]) -> Circuit:
        """The circuit less some heads."""
        gone = set(check_heads(layer_heads, least=0))
        left = {name: [head for head in heads if head not in gone] for name, heads in self.head_types.items()}
        return Circuit(left, self.positions)

    def table(self) -> pd.DataFrame:
        """A row for each head type: its ``heads`` and the ``positions`` at which they are kept."""
        rows = {
            name: (head_names(heads), ", ".join(map(str, listed_positions(self.positions.get(name, "all")))))
            for name, heads in self.head_types.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index", columns=["heads", "positions"]).rename_axis("head_type")
