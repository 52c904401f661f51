"""Intervals of so few prompts that they can be worked out on paper."""

from __future__ import annotations

import numpy as np
import pytest

from patchlib import stats
from tests.test_stats import NAN, made

T = 12.706204736  # the .975 quantile of Student's t with one degree of freedom


def test_two_prompts_have_the_interval_of_one_degree_of_freedom():
    """Of 1 and 3: mean 2, standard error 1; of two there is no skewness."""
    low, high = stats.mean_interval(np.array([[1.0, 3.0], [5.0, 7.0]]))
    assert low.tolist() == pytest.approx([2 - T, 6 - T]) and high.tolist() == pytest.approx([2 + T, 6 + T])
    clean, corrupted = [4.0, 4.0, 4.1], [0.0, 0.0, 0.0]
    interval = stats.effect_interval(made([[1, 3, NAN], [1, NAN, NAN]], clean, corrupted))
    assert (float(interval.low[0]), float(interval.high[0])) == pytest.approx(((2 - T) / 4, (2 + T) / 4))
    assert np.isnan(interval.low[1]) and np.isnan(interval.high[1])


def test_the_ratio_of_two_prompts_solves_fieller_s_equation():
    """Above 1 and 3, below 100 and 102: (2 - 101 x)^2 = T^2 (1 - x)^2, as each has a standard error of 1."""
    low, high = stats.ratio_interval(np.array([1.0, 3.0]), np.array([100.0, 102.0]))
    assert (low, high) == pytest.approx(((2 - T) / (101 - T), (2 + T) / (101 + T)))


def test_three_prompts_reach_further_toward_their_longer_tail():
    """Of 0, 0 and 3: mean 1, standard error 1, skewness (unbiased) the root of 3."""
    t = 4.302652730
    low, high = stats.mean_interval(np.array([[0.0, 0.0, 3.0], [0.0, 0.0, -3.0]]))
    arm = t * (1 + 2 * (2 * t**2 + 1) / (6 * t))
    assert low.tolist() == pytest.approx([1 - t, -1 - arm]) and high.tolist() == pytest.approx([1 + arm, -1 + t])


def test_four_wordings_of_two_prompts_are_four_independent_numbers():
    """Means of wordings -3, -1, 1 and 3, as if each were one prompt: mean 0, standard error the root of 5 / 3."""
    values = np.array([[-4.0, -2.0, 0.0, -2.0, 1.0, 1.0, 0.0, 6.0]])
    low, high = stats.mean_interval(values, clusters=list("aabbccdd"))
    arm = 3.182446305 * (5 / 3) ** 0.5
    assert (low.item(), high.item()) == pytest.approx((-arm, arm))
