"""Straight lines by hand, and the x² term against the partial F test."""

import math

import numpy as np
import pytest
from scipy import stats

from floe_bench.harness.stats.trend import linear_trend


def test_linear_trend_by_hand():
    trend = linear_trend([1, 2, 3, 4, 5], [2, 4, 5, 4, 5])
    half = 3.182446 * math.sqrt(2.4 / 3 / 10)  # t(0.975; 3), residual sum of squares 2.4, Σ (x - 3)² = 10
    assert (trend.slope, trend.r_squared) == pytest.approx((0.6, 0.6))
    assert (trend.low, trend.high) == pytest.approx((0.6 - half, 0.6 + half), rel=1e-6)


def test_quadratic_p_is_the_partial_f_test():
    rng = np.random.default_rng(14)
    x = np.arange(1.0, 13)
    y = 3 * x + 0.05 * x**2 + rng.normal(0, 1, 12)
    residual = [((np.polyval(np.polyfit(x, y, degree), x) - y) ** 2).sum() for degree in (1, 2)]
    f = (residual[0] - residual[1]) / (residual[1] / 9)
    assert linear_trend(x, y).quadratic_p == pytest.approx(stats.f.sf(f, 1, 9))


def test_a_bend_in_memory_is_found_and_a_line_is_not_called_bent():
    layers, rng = np.arange(1, 31), np.random.default_rng(15)
    lines = 4e9 + 3e7 * layers + rng.normal(0, 2e6, (400, 30))
    found = sum(linear_trend(layers, line).quadratic_p < 0.05 for line in lines)
    low, high = stats.binom.interval(0.999, len(lines), 0.05)
    assert low <= found <= high
    assert linear_trend(layers, lines[0] + 2e5 * layers**2).quadratic_p < 1e-6


def test_trends_without_residual():
    exact = linear_trend([1, 2, 3, 4], [1e9, 2e9, 3e9, 4e9])
    assert (exact.slope, exact.r_squared, exact.quadratic_p) == pytest.approx((1e9, 1, 1))
    flat = linear_trend([1, 2, 3, 4], [7e9] * 4)
    assert (flat.slope, flat.low, flat.high) == (0, 0, 0) and math.isnan(flat.r_squared)
    assert math.isnan(linear_trend([1, 2, 3], [1, 2, 4]).quadratic_p)


@pytest.mark.parametrize(
    "call",
    [
        lambda: linear_trend([1, 2], [1, 2]),
        lambda: linear_trend([1, 1, 1], [1, 2, 3]),
        lambda: linear_trend([1, 2, 3], [1, 2]),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(ValueError, match=r"^[a-zA-Z].*\.$"):
        call()
