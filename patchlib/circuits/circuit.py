"""Heads at positions: sets of them, circuits of them by what they do, and the circuit that was published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from patchlib._util import (
    Head,
    check_flag,
    check_heads,
    check_kind,
    check_positions,
    check_text,
    head_names,
    is_index,
    listed,
    shown,
)
from patchlib.errors import SweepError
from patchlib.models.check import check_model
from patchlib.patching.grid import position_mask
from patchlib.tasks.ioi import IOI_HEADS
from patchlib.tasks.pairs import PromptPairs

GPT2_LAYERS = 12
Position = int | str
"""A token index, or a role of the task."""
HeadPositions = Mapping[Head, Iterable[Position | None]]
"""Heads, each with the positions that are meant: None for all."""


@dataclass(frozen=True)
class HeadSet:
    """Some heads at some positions, and whether they are what is kept or what is knocked out.

    Args:
        head_positions: (layer, head) -> positions, each a role or a token index; None stands for all of them.
        keep: True: all other heads are knocked out. False: these are.

    Raises:
        SweepError: Something that is no (layer, head), or no position.

    Example:
        >>> patchlib.HeadSet({(9, 6): ["END"]}, keep=True)  # one head at the last word, and no other
        HeadSet(head_positions={(9, 6): ('END',)}, keep=True)
    """

    head_positions: HeadPositions
    keep: bool

    def __post_init__(self) -> None:
        check_flag("keep", self.keep)
        check_kind("head_positions", self.head_positions, Mapping, "give {(layer, head): positions}")
        heads = check_heads(self.head_positions, least=0)
        listed = map(listed_positions, self.head_positions.values())
        object.__setattr__(self, "head_positions", dict(zip(heads, listed, strict=True)))

    def check(self, pairs: PromptPairs, n_layers: int, n_heads: int) -> None:
        """SweepError for a head that the model does not have, or a position that the prompts do not have."""
        check_heads(self.head_positions, n_layers, n_heads, least=0)
        shortest = min(len(row) for row in pairs.clean_tokens)  # elsewhere nothing would be ablated
        for positions in self.head_positions.values():
            if named := [position for position in positions if position is not None]:
                check_positions(named, pairs.positions, shortest)

    def mask(self, pairs: PromptPairs, n_layers: int, n_heads: int) -> Bool[Tensor, "example pos layer head"]:
        """Where these prompts, of one length, keep their own heads' outputs."""
        n_pos = len(pairs.clean_tokens[0])
        named = torch.zeros(len(pairs), n_pos, n_layers, n_heads, dtype=torch.bool)
        for (layer, head), positions in self.head_positions.items():
            for position in positions:
                named[:, :, layer, head] |= position_mask(position, pairs)
        return named if self.keep else ~named


def everywhere(layer_heads: Iterable[Head]) -> dict[Head, tuple[None]]:
    """Heads at all positions, as ``HeadSet`` takes them.

    Args:
        layer_heads: (layer, head) pairs; none at all goes too.

    Returns:
        (layer, head) -> ``(None,)``, which stands for all positions.

    Raises:
        SweepError: Something that is no pair of whole numbers.

    Example:
        >>> patchlib.everywhere([(9, 6), (9, 9)])
        {(9, 6): (None,), (9, 9): (None,)}
    """
    return {head: (None,) for head in check_heads(layer_heads, least=0)}


def listed_positions(positions: Iterable[Position | None] | Position | None) -> tuple[Position | None, ...]:
    """One position or several, as a tuple; SweepError for what can be no position, or for none."""
    positions = listed(positions)
    if None not in positions or len(positions) > 1:
        check_positions([position for position in positions if position is not None])
    return tuple(int(position) if is_index(position) else position for position in positions)


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
        check_kind("head_types", self.head_types, Mapping, "give {type: (layer, head) pairs}")
        check_kind("positions", self.positions, Mapping, "give {type: its positions}")
        head_types = {
            check_text("A head type", name): tuple(check_heads(heads, least=0))
            for name, heads in self.head_types.items()
        }
        if unknown := set(self.positions) - set(head_types):
            raise SweepError(f"Positions are given for {', '.join(map(shown, unknown))}, which is no head type here.")
        object.__setattr__(self, "head_types", head_types)
        positions = {name: listed_positions(positions) for name, positions in self.positions.items()}
        object.__setattr__(self, "positions", positions)

    @property
    def heads(self) -> list[Head]:
        """Every (layer, head) once, by layer."""
        return sorted({head for heads in self.head_types.values() for head in heads})

    def head_positions(self, layer_heads: Iterable[Head] | None = None) -> dict[Head, set[Position | None]]:
        """Some of its heads (all when None), each with the positions at which it is part of the circuit."""
        wanted = set(self.heads if layer_heads is None else self._own(layer_heads))
        merged: dict[Head, set[Position | None]] = {}
        for name, heads in self.head_types.items():
            for head in wanted.intersection(heads):
                merged.setdefault(head, set()).update(listed_positions(self.positions.get(name)))
        return merged

    def without(self, layer_heads: Iterable[Head]) -> Circuit:
        """The circuit less some heads."""
        gone = self._own(layer_heads)
        left = {name: [head for head in heads if head not in gone] for name, heads in self.head_types.items()}
        return Circuit(left, self.positions)

    def _own(self, layer_heads: Iterable[Head]) -> set[Head]:
        """Some of its heads; SweepError for one that it does not have, without which it would be the same."""
        heads = set(check_heads(layer_heads, least=0))
        if strange := heads - set(self.heads):
            raise SweepError(f"{head_names(strange)} cannot be used: the circuit has {head_names(self.heads)}.")
        return heads

    def table(self) -> pd.DataFrame:
        """A row for each head type: its ``heads`` and the ``positions`` at which they are kept."""
        rows = {
            name: (head_names(heads), ", ".join(map(str, listed_positions(self.positions.get(name, "all")))))
            for name, heads in self.head_types.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index", columns=["heads", "positions"]).rename_axis("head_type")


def check_circuit(circuit: Circuit) -> Circuit:
    """The same circuit; SweepError for anything else."""
    return check_kind("A circuit", circuit, Circuit, "make one with patchlib.Circuit({type: (layer, head) pairs})")


def beside_published(model: TransformerBridge, circuit: Circuit) -> pd.DataFrame:
    """A circuit's head types beside those of GPT-2 small (Wang et al. 2022, figure 2), by mean depth.

    Depth is the mean over a type's heads of layer / (layers - 1): 0 is the first layer, 1 the last.

    Args:
        model: Of the circuit.
        circuit: Such as ``Discovery.circuit``.

    Returns:
        A row for each head type that either has, from the first layers up: ``heads`` and ``depth`` of the circuit,
        ``gpt2_heads`` and ``gpt2_depth`` of the published one; for GPT-2 small itself also ``n_shared``, how many of
        the published heads were found in that type.

    Raises:
        SweepError: This is no model, or no circuit.

    Example:
        >>> circuit = patchlib.Circuit({"S-inhibition": [(20, 0)], "negative name mover": [(24, 4)]})
        >>> table = patchlib.beside_published(model, circuit)
        >>> table.loc[["s-inhibition", "negative name mover"], ["heads", "depth", "gpt2_depth"]].round(2)
                             heads  depth  gpt2_depth
        head_type
        s-inhibition         L20H0   0.69        0.68
        negative name mover  L24H4   0.83        0.95
    """
    check_model(model)
    check_circuit(circuit)
    published = {name.lower(): heads for name, heads in IOI_HEADS.items()}
    ours = {name.lower(): heads for name, heads in circuit.head_types.items() if not name.startswith("unnamed")}
    n_layers = int(model.cfg.n_layers)

    def depth(heads: Sequence[Head], n: int) -> float:
        return sum(layer for layer, _ in heads) / len(heads) / (n - 1) if heads else float("nan")

    rows = []
    for name in {**published, **ours}:
        heads, gpt2_heads = ours.get(name, ()), published.get(name, ())
        n_shared = len(set(heads) & set(gpt2_heads))
        depths = depth(heads, n_layers), depth(gpt2_heads, GPT2_LAYERS)
        rows.append((name, head_names(heads), depths[0], head_names(gpt2_heads), depths[1], n_shared))
    columns = ["head_type", "heads", "depth", "gpt2_heads", "gpt2_depth", "n_shared"]
    table = pd.DataFrame(rows, columns=columns).set_index("head_type")
    table = table.loc[table[["gpt2_depth", "depth"]].mean(axis=1).sort_values().index]
    is_gpt2 = model.cfg.model_name in ("gpt2", "gpt2-small", "openai-community/gpt2")
    return table if is_gpt2 else table.drop(columns="n_shared")
