"""Sets of heads, each at some positions: what an ablation keeps, or what it knocks out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from patchlib._util import Head, check_heads, check_positions
from patchlib.patching.grid import position_mask
from patchlib.tasks.pairs import PromptPairs

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

    Example:
        >>> patchlib.HeadSet({(9, 6): ["END"]}, keep=True)  # one head at the last word, and no other
        HeadSet(head_positions={(9, 6): ('END',)}, keep=True)
    """

    head_positions: HeadPositions
    keep: bool

    def __post_init__(self) -> None:
        listed = {head: listed_positions(positions) for head, positions in self.head_positions.items()}
        object.__setattr__(self, "head_positions", listed)

    def check(self, pairs: PromptPairs, n_layers: int, n_heads: int) -> None:
        """SweepError for a head that the model does not have, or a position that the prompts do not have."""
        check_heads(self.head_positions, n_layers, n_heads, least=0)
        longest = max(len(row) for row in pairs.clean_tokens)
        for positions in self.head_positions.values():
            named = [position for position in positions if position is not None]
            if named or not positions:
                check_positions(named, pairs.roles, longest)

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
    """One position or several, as a tuple."""
    if positions is None or isinstance(positions, str) or not isinstance(positions, Iterable):
        return (positions,)
    return tuple(positions)
