"""Statistics against sums by hand, brute force, published numbers, and their own promises in simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from harness.report import statistics as st

ALPHA = 0.05


def band(repetitions: int, share: float) -> tuple[float, float]:
    """Where a simulated share lies with 99.9 % probability if the true one is `share`."""
    low, high = stats.binom.interval(0.999, repetitions, share)
    return low / repetitions, high / repetitions


def coverage(intervals, truth: float) -> float:
    return float(np.mean([interval.low <= truth <= interval.high for interval in intervals]))


def accuracies(rng, n_clusters: int, size: tuple[int, int] = (5, 40), p: float = 0.4, rho: float = 0.1):
    """Right answers of mean p whose chance varies between clusters with intra-class correlation rho."""
    labels = np.repeat(np.arange(n_clusters), rng.integers(*size, n_clusters))
    chance = rng.beta(p * (1 - rho) / rho, (1 - p) * (1 - rho) / rho, n_clusters)
    return rng.random(len(labels)) < chance[labels], labels


def answer_pairs(rng, n_clusters: int, size: int, difference: float, sd: float, discordant: float = 0.3):
    """Answers of a and b whose share right differs by `difference`, and between clusters by sd around it."""
    labels = np.repeat(np.arange(n_clusters), size)
    shift = difference + sd * rng.choice([-1, 1], n_clusters)
    differ = rng.random(len(labels)) < discordant
    a_wins = rng.random(len(labels)) < (1 + shift[labels] / discordant) / 2
    both = rng.random(len(labels)) < 0.5
    return np.where(differ, a_wins, both), np.where(differ, ~a_wins, both), labels


# --- intervals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "n", "score", "exact"),
    [
        (81, 263, (0.2553, 0.3662), (0.2527, 0.3676)),
        (15, 148, (0.0624, 0.1605), (0.0578, 0.1617)),
        (0, 20, (0.0000, 0.1611), (0.0000, 0.1684)),
        (1, 29, (0.0061, 0.1718), (0.0009, 0.1776)),
    ],
)
def test_proportion_intervals_are_the_published_ones(right, n, score, exact):
    """Newcombe 1998, Statistics in Medicine 17:857, table I, methods 3 (score) and 5 (Clopper-Pearson)."""
    wilson = st.wilson(right, n)
    assert (wilson.low, wilson.high) == pytest.approx(score, abs=6e-5)
    share, interval = st.proportion_at_most([1.0] * right + [3.0] * (n - right), 2.0)
    assert share == right / n
    assert (interval.low, interval.high) == pytest.approx(exact, abs=6e-5)


def test_a_value_equal_to_a_null_value_counts_as_at_most():
    assert st.proportion_at_most([1, 2, 3, 4], 2)[0] == 0.5


def test_wilson_covers_its_level_on_average_over_true_shares():
    n, shares = 57, np.linspace(0.05, 0.95, 181)
    intervals = [st.wilson(right, n) for right in range(n + 1)]
    covers = np.array([[i.low <= share <= i.high for share in shares] for i in intervals])
    exact = (stats.binom.pmf(np.arange(n + 1)[:, None], n, shares) * covers).sum(axis=0)
    assert exact.mean() == pytest.approx(0.95, abs=0.005)


def test_mean_counts_items_and_not_clusters():
    estimate = st.mean_interval([1, 1, 1, 0], ["x", "x", "x", "y"])
    assert (estimate.mean, estimate.n) == (0.75, 4)
    assert (estimate.low, estimate.high) == (0, 1)  # x twice, y twice


def test_clustered_bootstrap_quantiles_are_those_of_all_resamples():
    values, labels = np.array([1.0, 4, 2, 8, 5, 7, 3]), np.array([0, 0, 1, 1, 1, 2, 3])
    groups = [values[labels == label] for label in range(4)]
    every = [np.concatenate(draw).mean() for draw in itertools.product(groups, repeat=4)]
    t = stats.t.ppf(0.75, 3) * math.sqrt(4 / 3)
    estimate = st.mean_interval(values, labels, confidence=0.5, resamples=40_000)
    for bound, level in ((estimate.low, stats.norm.cdf(-t)), (estimate.high, stats.norm.cdf(t))):
        assert np.mean(every < bound - 1e-9) - 0.01 <= level <= np.mean(every <= bound + 1e-9) + 0.01


def test_crossed_bootstrap_quantiles_are_those_of_all_resamples():
    rows = np.array([[1.0, 4, 2, 8], [0, 7, 1, 5], [3, 9, 9, 2]])
    every = [
        rows[np.ix_(seeds, items)].mean()
        for seeds in itertools.product(range(3), repeat=3)
        for items in itertools.product(range(4), repeat=4)
    ]
    t = stats.t.ppf(0.75, 3) * math.sqrt(4 / 3)
    result = st.compare_over_seeds(list(rows), confidence=0.5, resamples=40_000)
    for bound, level in ((result.low, stats.norm.cdf(-t)), (result.high, stats.norm.cdf(t))):
        assert np.mean(every < bound - 1e-9) - 0.01 <= level <= np.mean(every <= bound + 1e-9) + 0.01


def test_same_seed_same_interval_in_any_order_of_the_items():
    rng = np.random.default_rng(0)
    values, labels = accuracies(rng, 12)
    order = rng.permutation(len(values))
    assert st.mean_interval(values, labels, seed=3) == st.mean_interval(values[order], labels[order], seed=3)
    assert st.mean_interval(values, labels, seed=3) != st.mean_interval(values, labels, seed=4)


@pytest.mark.slow
@pytest.mark.parametrize("n_clusters", [15, 57])
def test_coverage_of_a_clustered_accuracy_is_nominal_and_needs_the_clusters(n_clusters):
    rng, repetitions = np.random.default_rng(1), 600
    data = [accuracies(rng, n_clusters) for _ in range(repetitions)]
    low, high = band(repetitions, 0.95)
    clustered = [st.mean_interval(values, labels, resamples=600) for values, labels in data]
    assert low <= coverage(clustered, 0.4) <= high
    assert coverage([st.wilson(int(values.sum()), len(values)) for values, _ in data], 0.4) < low


@pytest.mark.slow
@pytest.mark.parametrize("n", [16, 100])
def test_coverage_of_a_mean_difference_is_nominal(n):
    rng, repetitions = np.random.default_rng(2), 600
    samples = rng.normal(0.3, 1, (repetitions, n))
    low, high = band(repetitions, 0.95)
    assert low <= coverage([st.mean_interval(x, resamples=600) for x in samples], 0.3) <= high


def test_eight_clusters_are_covered_as_the_docstring_says():
    rng, repetitions = np.random.default_rng(3), 400
    low, high = band(repetitions, 0.93)
    samples = rng.normal(0, 1, (repetitions, 8))
    assert low <= coverage([st.mean_interval(x, resamples=400) for x in samples], 0) <= high


# --- comparisons --------------------------------------------------------------------------------


def test_mcnemar_is_the_binomial_sum_over_discordant_items():
    a = [1] * 9 + [0] * 2 + [1] * 20 + [0] * 6
    b = [0] * 9 + [1] * 2 + [1] * 20 + [0] * 6
    result = st.compare_right(np.array(a, bool), np.array(b, bool))
    assert (result.only_a, result.only_b, result.n, result.clusters) == (9, 2, 37, 37)
    assert result.p == result.mcnemar_p == pytest.approx(2 * sum(math.comb(11, k) for k in range(3)) / 2**11)
    assert result.difference == pytest.approx(7 / 37)
    assert result.test == "McNemar"


@pytest.mark.parametrize("binary", [True, False])
def test_sign_flip_p_is_that_of_all_flips_of_the_clusters(binary):
    rng = np.random.default_rng(4)
    labels = np.repeat(list("abcdefg"), [1, 2, 3, 4, 5, 6, 7])
    a, b = rng.random((2, len(labels)))
    if binary:
        a, b = a < 0.7, b < 0.3
    difference = a.astype(float) - b
    sums = [difference[labels == label].sum() for label in "abcdefg"]
    flipped = [abs(np.dot(signs, sums)) for signs in itertools.product([-1, 1], repeat=7)]
    result = (st.compare_right if binary else st.compare_means)(a, b, labels)
    assert result.p == pytest.approx(np.mean(np.array(flipped) >= abs(sum(sums)) - 1e-9))
    assert result.test == "sign flip"
    assert result.difference == pytest.approx(difference.mean())


def test_many_clusters_are_compared_by_the_paired_t_test():
    a, b = np.random.default_rng(5).normal(size=(2, 300))
    result = st.compare_means(a, b)
    assert result.test == "paired t"
    assert result.p == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert result.minimum_detectable == pytest.approx(2.81 * np.std(a - b, ddof=1) / math.sqrt(300), rel=0.01)


def test_swapping_a_and_b_turns_the_sign_and_nothing_else():
    a, b, labels = answer_pairs(np.random.default_rng(6), 9, 12, 0.1, 0.05)
    one, other = st.compare_right(a, b, labels), st.compare_right(b, a, labels)
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low))
    assert (one.p, one.only_a, one.only_b) == (other.p, other.only_b, other.only_a)


def test_equal_results_are_a_tie_of_no_width():
    right = np.array([True, False, True, True])
    for tie in (
        st.compare_right(right, right),
        st.compare_right(right, right, [0, 0, 1, 1]),
        st.compare_means([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]),
        st.compare_over_seeds(np.zeros((4, 5))),
    ):
        assert (tie.difference, tie.low, tie.high, tie.p) == (0, 0, 0, 1)
        assert math.isnan(tie.minimum_detectable)


def test_a_constant_difference_has_no_width_and_the_least_p_of_its_clusters():
    result = st.compare_means(np.full(8, 0.3), np.full(8, 0.2))
    assert result.low == result.high == result.difference == pytest.approx(0.1)
    assert result.p == 2 / 2**8
    over_seeds = st.compare_over_seeds(np.full((3, 8), 0.1))
    assert over_seeds.low == over_seeds.high == pytest.approx(0.1)
    assert over_seeds.p == over_seeds.item_p == 2 / 2**8
    assert math.isnan(over_seeds.seed_p)


def test_from_three_seeds_on_p_is_the_larger_of_items_and_seeds():
    rng = np.random.default_rng(7)
    apart_by_seed = rng.normal(0.1, 0.1, (4, 1)) + rng.normal(0, 0.01, (4, 10))
    apart_by_item = rng.normal(0.1, 0.1, (1, 10)) + rng.normal(0, 0.01, (4, 10))
    for rows, decides in ((apart_by_seed, "seed_p"), (apart_by_item, "item_p")):
        result = st.compare_over_seeds(list(rows))
        assert result.seed_p == pytest.approx(stats.ttest_1samp(rows.mean(axis=1), 0).pvalue)
        assert result.item_p == st.compare_means(rows.mean(axis=0), np.zeros(10)).p
        assert result.p == max(result.seed_p, result.item_p) == getattr(result, decides)
    for few in (1, 2):
        result = st.compare_over_seeds(list(apart_by_seed[:few]))
        assert result.p == result.item_p and result.test == "sign flip"
        assert math.isnan(result.seed_p) and result.seeds == few


def test_one_seed_is_the_plain_comparison():
    a, b = np.random.default_rng(8).normal(size=(2, 11))
    plain, seeds = st.compare_means(a, b, seed=2), st.compare_over_seeds([a - b], seed=2)
    for name in ("difference", "low", "high", "p", "minimum_detectable"):
        assert getattr(seeds, name) == getattr(plain, name)


@pytest.mark.slow
def test_false_positives_of_the_clustered_test_are_nominal_where_mcnemar_has_too_many():
    rng, repetitions = np.random.default_rng(9), 500
    results = [
        st.compare_right(*answer_pairs(rng, 12, 60, 0, 0.1), resamples=1)  # cluster differences of ± 0.1, mean 0
        for _ in range(repetitions)
    ]
    low, high = band(repetitions, ALPHA)
    assert low <= np.mean([result.p < ALPHA for result in results]) <= high
    assert np.mean([result.mcnemar_p < ALPHA for result in results]) > 3 * ALPHA


@pytest.mark.slow
def test_false_positives_of_a_family_after_holm_are_nominal():
    rng, families, members = np.random.default_rng(10), 500, 5
    wrong = wrong_without = 0
    for _ in range(families):
        a, b = rng.exponential(size=(2, members, 10))
        p = [st.compare_means(x, y, resamples=1).p for x, y in zip(a, b, strict=True)]
        wrong_without += min(p) < ALPHA
        wrong += min(adjusted for adjusted in st.holm(p) if adjusted is not None) < ALPHA
    low, high = band(families, ALPHA)
    assert low <= wrong / families <= high
    assert wrong_without / families > high


@pytest.mark.slow
@pytest.mark.parametrize("binary", [True, False])
def test_power_rises_with_the_effect_to_its_promise_at_the_minimum_detectable_difference(binary):
    rng, repetitions, groups, size = np.random.default_rng(11), 300, 12, 30
    # Var(cluster mean) = (ψ - E shift²) / size + Var(shift), to first order in the effect.
    sd = math.sqrt((0.3 - 0.05**2) / size + 0.05**2) if binary else 1.0
    least = st.minimum_detectable_mean(groups, sd)

    def rejects(effect: float) -> bool:
        if binary:
            return st.compare_right(*answer_pairs(rng, groups, size, effect, 0.05), resamples=1).p < ALPHA
        return st.compare_means(rng.normal(effect, sd, groups), np.zeros(groups), resamples=1).p < ALPHA

    rates = [np.mean([rejects(factor * least) for _ in range(repetitions)]) for factor in (0, 0.5, 1, 1.5)]
    assert rates == sorted(rates)
    assert rates[0] <= band(repetitions, ALPHA)[1]
    assert rates[2] == pytest.approx(0.8, abs=0.08)
    assert rates[3] > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("spread", [(0.02, 0.3), (0.2, 0.02)], ids=["items", "seeds"])
def test_over_seeds_neither_source_is_left_out(spread):
    """Eight seeds, twelve items: the mean difference is 0 over both, whichever of them differs more."""
    rng, repetitions = np.random.default_rng(12), 400
    by_seed, by_item = spread
    results = [
        st.compare_over_seeds(
            list(rng.normal(0, by_seed, (8, 1)) + rng.normal(0, by_item, 12) + rng.normal(0, 0.1, (8, 12))),
            resamples=400,
        )
        for _ in range(repetitions)
    ]
    assert coverage(results, 0) >= band(repetitions, 0.93)[0]
    assert np.mean([result.p < ALPHA for result in results]) <= band(repetitions, 0.06)[1]
    one_source = "seed_p" if by_item > by_seed else "item_p"
    assert np.mean([getattr(result, one_source) < ALPHA for result in results]) > 0.2


def test_holm_by_hand_and_without_the_missing():
    assert st.holm([0.01, None, 0.04, 0.03, 0.005]) == pytest.approx([0.03, None, 0.06, 0.06, 0.02])
    adjusted = st.holm([math.nan, 0.4, 0.9])
    assert math.isnan(adjusted[0]) and adjusted[1:] == pytest.approx([0.8, 0.9])
    assert st.holm([]) == [] and st.holm([None]) == [None]


# --- power --------------------------------------------------------------------------------------


def test_minimum_detectable_right_has_that_power_over_all_outcomes():
    n, discordant, power = 40, 0.4, 0.7
    least = st.minimum_detectable_right(n, discordant, power=power)
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
    least = st.minimum_detectable_right(n, discordant)
    z_alpha, z_power = stats.norm.ppf([0.975, 0.8])
    needed = ((z_alpha * math.sqrt(discordant) + z_power * math.sqrt(discordant - least**2)) / least) ** 2
    assert needed == pytest.approx(n, rel=0.04)


def test_five_discordant_items_show_nothing_however_they_fall():
    assert math.isnan(st.minimum_detectable_right(5, 1.0))
    assert math.isnan(st.minimum_detectable_right(100, 0.0))
    assert st.minimum_detectable_right(6, 1.0) < 1


def test_minimum_detectable_mean_has_that_power_by_the_noncentral_t():
    n, sd = 9, 2.5
    shift = st.minimum_detectable_mean(n, sd) * math.sqrt(n) / sd
    critical = stats.t.ppf(0.975, n - 1)
    power = stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)
    assert power == pytest.approx(0.8, abs=1e-6)
    assert st.minimum_detectable_mean(10_000, sd) == pytest.approx(2.8016 * sd / 100, rel=1e-3)
    assert math.isnan(st.minimum_detectable_mean(9, 0.0))


def test_minimum_detectable_of_clusters_comes_from_their_own_spread():
    """Clusters of equal size: as if each cluster's mean were one value."""
    a, b, labels = answer_pairs(np.random.default_rng(13), 9, 12, 0.1, 0.1)
    means = (a.astype(float) - b).reshape(9, 12).mean(axis=1)
    expected = st.minimum_detectable_mean(9, float(means.std(ddof=1)))
    assert st.compare_right(a, b, labels).minimum_detectable == pytest.approx(expected)


# --- trends and ranks ---------------------------------------------------------------------------


def test_linear_trend_by_hand():
    trend = st.linear_trend([1, 2, 3, 4, 5], [2, 4, 5, 4, 5])
    half = 3.182446 * math.sqrt(2.4 / 3 / 10)  # t(0.975; 3), residual sum of squares 2.4, Σ (x - 3)² = 10
    assert (trend.slope, trend.r_squared) == pytest.approx((0.6, 0.6))
    assert (trend.low, trend.high) == pytest.approx((0.6 - half, 0.6 + half), rel=1e-6)


def test_quadratic_p_is_the_partial_f_test():
    rng = np.random.default_rng(14)
    x = np.arange(1.0, 13)
    y = 3 * x + 0.05 * x**2 + rng.normal(0, 1, 12)
    residual = [((np.polyval(np.polyfit(x, y, degree), x) - y) ** 2).sum() for degree in (1, 2)]
    f = (residual[0] - residual[1]) / (residual[1] / 9)
    assert st.linear_trend(x, y).quadratic_p == pytest.approx(stats.f.sf(f, 1, 9))


def test_memory_in_bytes_that_grows_with_a_bend_is_told_from_a_line():
    layers = np.arange(1, 31)
    noise = np.random.default_rng(15).normal(0, 2e6, 30)
    assert st.linear_trend(layers, 4e9 + 3e7 * layers + noise).quadratic_p > ALPHA
    assert st.linear_trend(layers, 4e9 + 3e7 * layers + 2e5 * layers**2 + noise).quadratic_p < 1e-6


def test_trends_without_residual():
    exact = st.linear_trend([1, 2, 3, 4], [1e9, 2e9, 3e9, 4e9])
    assert (exact.slope, exact.r_squared, exact.quadratic_p) == pytest.approx((1e9, 1, 1))
    flat = st.linear_trend([1, 2, 3, 4], [7e9] * 4)
    assert (flat.slope, flat.low, flat.high) == (0, 0, 0) and math.isnan(flat.r_squared)
    assert math.isnan(st.linear_trend([1, 2, 3], [1, 2, 4]).quadratic_p)


def test_rank_statistics_by_hand():
    a, b = [1, 2, 3, 4, 5], [2, 1, 4, 3, 5]
    assert st.spearman(a, b) == pytest.approx(1 - 6 * 4 / (5 * 24))
    assert st.kendall(a, b) == pytest.approx((8 - 2) / 10)
    assert math.isnan(st.spearman(a, [1] * 5)) and math.isnan(st.kendall([1] * 5, b))
    assert st.jaccard((1, 2, 3), (2, 3, 4)) == 0.5
    assert st.jaccard((), (1,)) == 0
    assert st.top_k([3, 9, 9, 1, 9], 2) == (1, 2)
    assert st.top_k([3, 9, 5, 1], 3) == (0, 1, 2)


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda: st.wilson(5, 4),
        lambda: st.wilson(0, 0),
        lambda: st.wilson(1, 4, confidence=95),
        lambda: st.proportion_at_most([], 1),
        lambda: st.proportion_at_most([1, 2], math.nan),
        lambda: st.mean_interval([]),
        lambda: st.mean_interval([0.5]),
        lambda: st.mean_interval([[0.5, 1.0]]),
        lambda: st.mean_interval([0.5, math.nan]),
        lambda: st.mean_interval([0.5, math.inf]),
        lambda: st.mean_interval([0.5, 1.0], ["x", "x"]),
        lambda: st.mean_interval([0.5, 1.0], ["x"]),
        lambda: st.mean_interval([0.5, 1.0], ["x", None]),
        lambda: st.mean_interval([0.5, 1.0], [1.0, math.nan]),
        lambda: st.mean_interval([0.5, 1.0], resamples=0),
        lambda: st.compare_right([1, 0, 1], [1, 0]),
        lambda: st.compare_right([1, 0.5], [1, 0]),
        lambda: st.compare_means([1, 0, 1], [1, 0]),
        lambda: st.compare_means([1, 2], [1, 2], power=0.01),
        lambda: st.compare_over_seeds([]),
        lambda: st.compare_over_seeds([[1, 2], [1, 2, 3]]),
        lambda: st.holm([0.5, 1.5]),
        lambda: st.holm([-0.1]),
        lambda: st.minimum_detectable_right(0, 0.2),
        lambda: st.minimum_detectable_right(10, 1.2),
        lambda: st.minimum_detectable_right(10, 0.2, alpha=0),
        lambda: st.minimum_detectable_mean(1, 1.0),
        lambda: st.minimum_detectable_mean(5, -1.0),
        lambda: st.minimum_detectable_mean(5, math.nan),
        lambda: st.linear_trend([1, 2], [1, 2]),
        lambda: st.linear_trend([1, 1, 1], [1, 2, 3]),
        lambda: st.linear_trend([1, 2, 3], [1, 2]),
        lambda: st.spearman([1], [1]),
        lambda: st.kendall([1, 2], [1, 2, 3]),
        lambda: st.jaccard([], []),
        lambda: st.top_k([1, 2], 3),
        lambda: st.top_k([1, 2], 0),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(ValueError, match=r"^(?!Sample)[a-zA-Z].*\.$"):
        call()
