"""Where names stand beside points, so that none covers another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CHARACTER, LINE, GAP = 6.6, 13.0, 7.0
"""Of a name in 11 pixel type: the width of a character, the height, and how far it stands from its point, in pixels."""
Box = tuple[float, float, float, float]
"""Left, bottom, right and top."""


def axis_range(values: np.ndarray, margin: float = 0.08) -> tuple[float, float]:
    """The ends of an axis that holds all of these with room for their names."""
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    room = margin * ((high - low) or 1.0)
    return low - room, high + room


def place_names(
    x: np.ndarray, y: np.ndarray, names: Sequence[str], ranges: tuple[tuple[float, float], tuple[float, float]],
    size: tuple[float, float],
) -> dict[int, str]:  # fmt: skip
    """On which side of its point each name stands; a name that has no room is left out.

    Args:
        x, y: The points, in the units of the axes.
        names: One for each, the most important first.
        ranges: The ends of both axes.
        size: Width and height of what they span, in pixels.

    Returns:
        Index of a point -> plotly's ``textposition``.
    """
    across, up = (
        (values - low) / (high - low) * pixels for values, (low, high), pixels in zip((x, y), ranges, size, strict=True)
    )
    half = 4.0  # of a point
    taken: list[Box] = [(a - half, b - half, a + half, b + half) for a, b in zip(across, up, strict=True)]
    placed: dict[int, str] = {}
    for i, name in enumerate(names):
        for side, box in _boxes(across[i], up[i], CHARACTER * len(name)).items():
            inside = box[0] >= 0 and box[1] >= 0 and box[2] <= size[0] and box[3] <= size[1]
            if inside and not any(_overlap(box, other) for k, other in enumerate(taken) if k != i):
                placed[i] = side
                taken.append(box)
                break
    return placed


def _boxes(x: float, y: float, wide: float) -> dict[str, Box]:
    """What a name covers on each side of its point, the side that reads best first."""
    left, middle, right = x - GAP - wide, x - wide / 2, x + GAP
    low, level, high = y - GAP - LINE, y - LINE / 2, y + GAP
    corners = {
        "middle right": (right, level), "middle left": (left, level), "top center": (middle, high),
        "bottom center": (middle, low), "top right": (right - GAP, high), "top left": (left + GAP, high),
        "bottom right": (right - GAP, low), "bottom left": (left + GAP, low),
    }  # fmt: skip
    return {side: (a, b, a + wide, b + LINE) for side, (a, b) in corners.items()}


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
