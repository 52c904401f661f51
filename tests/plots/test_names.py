"""Names beside points: none covers another, none leaves the axes."""

from itertools import combinations

import numpy as np
import pytest

from patchlib.plots.names import CHARACTER, axis_range, place_names


@pytest.mark.parametrize("seed", range(5))
def test_names_neither_cover_one_another_nor_leave_the_axes(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 14)) * 0.3
    names = [f"L{i}H{i}" for i in range(14)]
    ends = (axis_range(x), axis_range(y))
    placed = place_names(x, y, names, ends, (700, 320))
    assert len(placed) >= 10
    across, up = ((v - low) / (high - low) * n for v, (low, high), n in zip((x, y), ends, (700, 320), strict=True))
    boxes = []
    for i, side in placed.items():
        level, where = side.split()
        wide = CHARACTER * len(names[i])
        left = across[i] + {"left": -wide, "center": -wide / 2, "right": 0}[where]
        low = up[i] + {"top": 7, "middle": -6.5, "bottom": -20}[level]
        boxes.append((left, low, left + wide, low + 13))
        assert left > -8 and left + wide < 708 and low > -1 and low + 13 < 321
    for one, other in combinations(boxes, 2):
        wide = min(one[2], other[2]) - max(one[0], other[0])
        high = min(one[3], other[3]) - max(one[1], other[1])
        assert wide <= 8 or high <= 1


def test_the_first_name_has_its_place_and_one_without_room_is_left_out():
    x = y = np.zeros(20)
    placed = place_names(x, y, ["name"] * 20, ((-1, 1), (-1, 1)), (400, 300))
    assert list(placed) == [0, 1, 2, 3] and len(set(placed.values())) == 4  # then no side is free
    x, y = np.linspace(0, 0.02, 20), np.zeros(20)
    placed = place_names(x, y, ["a long name"] * 20, ((-1, 1), (-1, 1)), (400, 300))
    assert 0 in placed and 2 <= len(placed) < 20


def test_axes_hold_one_value_and_none_at_all():
    assert axis_range(np.array([2.0, 2.0])) == (1.92, 2.08)
    assert axis_range(np.array([np.nan])) == (-0.08, 1.08)
