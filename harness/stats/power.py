"""The smallest difference that a paired comparison of a given size can detect."""

from functools import cache
from typing import cast

import numpy as np
from scipy import optimize, stats
from statsmodels.stats.power import TTestPower


def minimum_detectable_right(n: int, discordant_share: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the least difference in share right that McNemar's exact test finds with this power. NaN where none does.

    The power is exact and unconditional (Duffy 1984, Biometrics 40:1007). ψ is the discordant share.
    The discordant count is D ~ Bin(n, ψ), and X ~ Bin(D, (ψ+δ)/2ψ) of them lie on one side.
    Solves Σ_d P(D=d) P(test rejects | d) = power for δ ≤ ψ.
    Asymptotically n = (z_{1-α/2} √ψ + z_power √(ψ-δ²))² / δ² (Connor 1987, Biometrics 43:207).

    Raises:
        ValueError: n below 1; discordant_share outside 0..1; alpha or power outside (0, 1), or power ≤ alpha.
    """
    _check(alpha, power)
    if n < 1 or not 0 <= discordant_share <= 1:
        raise ValueError(f"n must be at least 1 and discordant_share in 0..1, got {n} and {discordant_share}.")
    discordant = np.arange(n + 1)
    weight = stats.binom.pmf(discordant, n, discordant_share)
    at_alpha = stats.binom.ppf(alpha / 2, discordant, 0.5)
    critical = at_alpha - (stats.binom.cdf(at_alpha, discordant, 0.5) > alpha / 2)

    def missing_power(difference: float) -> float:
        share = (1 + difference / discordant_share) / 2
        rejects = stats.binom.cdf(critical, discordant, share) + stats.binom.sf(
            discordant - critical - 1, discordant, share
        )
        return float(power - weight @ rejects)

    if not discordant_share or missing_power(discordant_share) > 0:
        return np.nan
    return cast(float, optimize.brentq(missing_power, 0, discordant_share))


def minimum_detectable_mean(n: int, sd: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """Return the least mean of n paired differences of this sd that a two-sided t-test finds with this power.

    Uses the noncentral t (statsmodels' TTestPower); about (z_{1-α/2} + z_power) sd / √n for large n.
    NaN where sd is 0: a sample without spread does not tell.

    Raises:
        ValueError: n below 2; sd negative or not finite; alpha or power outside (0, 1), or power ≤ alpha.
    """
    _check(alpha, power)
    if n < 2 or not 0 <= sd < np.inf:
        raise ValueError(f"n must be at least 2 and sd finite and not negative, got {n} and {sd}.")
    return float(sd * _detectable_effect(n, alpha, power)) if sd else np.nan


@cache  # a report asks for a few sizes, many times each
def _detectable_effect(n: int, alpha: float, power: float) -> float:
    """The least mean in units of the sd."""
    return TTestPower().solve_power(nobs=n, alpha=alpha, power=power)


def _check(alpha: float, power: float) -> None:
    if not 0 < alpha < power < 1:
        raise ValueError(f"alpha and power must lie between 0 and 1, alpha below power, got {alpha} and {power}.")
