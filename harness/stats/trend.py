"""Linear trends: memory against adapted layers, latency against experts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from statsmodels.regression.linear_model import OLS

from floe_bench.harness.stats.resampling import check_share, pair, spread, vector


@dataclass(frozen=True)
class Trend:
    """A straight line: its slope with interval, R², and the p of an added x² term (NaN where undefined)."""

    slope: float
    low: float
    high: float
    r_squared: float
    quadratic_p: float


def linear_trend(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Trend:
    """Fit y = β₀ + β₁ x by least squares (statsmodels OLS). Return β₁ with its t interval, R², and p of an x² term.

    R² is NaN for constant y. quadratic_p is NaN below 4 points or 3 distinct x. It is 1 where the line leaves
    no residual but rounding.

    Raises:
        ValueError: different lengths, non-finite values, fewer than 3 points, or all x equal.
    """
    xs, ys = pair(vector(x, "x"), vector(y, "y"), "x and y")
    distinct = len(np.unique(xs))
    if len(xs) < 3 or distinct < 2:
        raise ValueError(f"a trend needs 3 points and 2 distinct x, got {len(xs)} and {distinct}.")
    check_share(confidence, "confidence")
    z = (xs - xs.mean()) / xs.std()  # centred and scaled, so that x² does not nearly repeat x
    line: Any = OLS(ys - ys.mean(), np.column_stack([np.ones_like(z), z])).fit()
    low, high = line.conf_int(1 - confidence)[1] / xs.std()
    moves = spread(ys, scale=np.abs(ys).max()) > 0
    quadratic_p = np.nan
    if len(xs) > 3 and distinct > 2:
        residual = spread(line.resid, scale=np.abs(ys).max())
        curve: Any = OLS(ys - ys.mean(), np.column_stack([np.ones_like(z), z, z**2])).fit()
        quadratic_p = float(curve.pvalues[2]) if residual else 1.0
    r_squared = float(line.rsquared) if moves else np.nan
    return Trend(float(line.params[1] / xs.std()), float(low), float(high), r_squared, quadratic_p)
