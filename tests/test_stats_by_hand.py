"""Intervals of so few prompts that every resample can be counted."""

from __future__ import annotations

import numpy as np
import pytest

from patchlib import stats
from tests.test_stats import NAN, made


def test_two_prompts_have_an_interval_from_the_one_s_ratio_to_the_other_s():
    """Each of the two alone is a quarter of all resamples, which is more than the tails of the interval."""
    clean, corrupted = [4.0, 4.2, 4.1], [0.0, 0.0, 0.0]
    interval = stats.effect_interval(made([[1, 3, NAN], [1, NAN, NAN]], clean, corrupted))
    assert (float(interval.low[0]), float(interval.high[0])) == pytest.approx((1 / 4, 3 / 4.2))
    assert np.isnan(interval.low[1])
    low, high = stats.ratio_interval(np.array([1.0, 3.0]), np.array([4.0, 4.2]))
    assert (low, high) == pytest.approx((1 / 4, 3 / 4.2))
    low, high = stats.mean_interval(np.array([[1.0, 3.0], [5.0, 7.0]]))
    assert (low.tolist(), high.tolist()) == ([1, 5], [3, 7])


def test_a_contrast_is_usable_from_one_standard_deviation_on():
    """Of the difference over prompts, not of its mean: clean minus corrupted is 1, 2 and 3, then 0, 2 and 4."""
    for difference, usable in (([1.0, 2, 3], True), ([0.0, 2, 4], True), ([-0.1, 2, 4.1], False)):
        table = stats.contrast(made([[0.0, 0, 0]], difference, [0.0, 0, 0]))
        assert table.difference.item() == pytest.approx(2) and table.usable.item() == usable
