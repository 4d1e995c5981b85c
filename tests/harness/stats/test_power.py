"""Power against sums over all outcomes, the noncentral t and the published approximation."""

import math

import pytest
from scipy import stats

from floe_bench.harness.stats.power import minimum_detectable_mean, minimum_detectable_right

ALPHA = 0.05


def test_minimum_detectable_right_has_that_power_over_all_outcomes():
    n, discordant, power = 40, 0.4, 0.7
    least = minimum_detectable_right(n, discordant, power=power)
    shares = [(discordant + least) / 2, (discordant - least) / 2, 1 - discordant]
    total = sum(
        stats.multinomial.pmf([x, y, n - x - y], n, shares)
        for x in range(n + 1)
        for y in range(n + 1 - x)
        if x + y and 2 * sum(math.comb(x + y, k) for k in range(min(x, y) + 1)) / 2 ** (x + y) <= ALPHA
    )
    assert total == pytest.approx(power, abs=1e-6)


def test_minimum_detectable_right_is_connors_for_many_items():
    n, discordant = 14_042, 0.15
    least = minimum_detectable_right(n, discordant)
    z_alpha, z_power = stats.norm.ppf([0.975, 0.8])
    needed = ((z_alpha * math.sqrt(discordant) + z_power * math.sqrt(discordant - least**2)) / least) ** 2
    assert needed == pytest.approx(n, rel=0.04)


def test_five_discordant_items_show_nothing_however_they_fall():
    assert math.isnan(minimum_detectable_right(5, 1.0))
    assert math.isnan(minimum_detectable_right(100, 0.0))
    assert minimum_detectable_right(6, 1.0) < 1


def test_minimum_detectable_mean_has_that_power_by_the_noncentral_t():
    n, sd = 9, 2.5
    shift = minimum_detectable_mean(n, sd) * math.sqrt(n) / sd
    critical = stats.t.ppf(0.975, n - 1)
    power = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
    assert power == pytest.approx(0.8, abs=1e-6)
    assert minimum_detectable_mean(10_000, sd) == pytest.approx(2.8016 * sd / 100, rel=1e-3)
    assert math.isnan(minimum_detectable_mean(9, 0.0))


@pytest.mark.parametrize(
    "call",
    [
        lambda: minimum_detectable_right(0, 0.2),
        lambda: minimum_detectable_right(10, 1.2),
        lambda: minimum_detectable_right(10, 0.2, alpha=0),
        lambda: minimum_detectable_mean(1, 1.0),
        lambda: minimum_detectable_mean(5, -1.0),
        lambda: minimum_detectable_mean(5, math.nan),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(ValueError, match=r"^[a-zA-Z].*\.$"):
        call()
