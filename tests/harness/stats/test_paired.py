"""Statistics against sums by hand, brute force, published numbers, and their own promises in simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from floe_bench.harness.stats import paired, ranks

ALPHA = 0.05


def band(repetitions: int, share: float) -> tuple[float, float]:
    """Where a simulated share lies with 99.9 % probability if the true one is `share`."""
    low, high = stats.binom.interval(0.999, repetitions, share)
    return low / repetitions, high / repetitions


def coverage(intervals, truth: float) -> float:
    return float(np.mean([interval.low <= truth <= interval.high for interval in intervals]))


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
    wilson = paired.wilson(right, n)
    assert (wilson.low, wilson.high) == pytest.approx(score, abs=6e-5)
    share, interval = paired.proportion_at_most([1.0] * right + [3.0] * (n - right), 2.0)
    assert share == right / n
    assert (interval.low, interval.high) == pytest.approx(exact, abs=6e-5)


def test_a_value_equal_to_a_null_value_counts_as_at_most():
    assert paired.proportion_at_most([1, 2, 3, 4], 2)[0] == 0.5


def test_wilson_covers_its_level_on_average_over_true_shares():
    n, shares = 57, np.linspace(0.05, 0.95, 181)
    intervals = [paired.wilson(right, n) for right in range(n + 1)]
    covers = np.array([[i.low <= share <= i.high for share in shares] for i in intervals])
    exact = (stats.binom.pmf(np.arange(n + 1)[:, None], n, shares) * covers).sum(axis=0)
    assert exact.mean() == pytest.approx(0.95, abs=0.005)


def test_mean_counts_items_and_not_clusters():
    estimate = paired.mean_interval([1, 1, 1, 0], ["x", "x", "x", "y"])
    assert (estimate.mean, estimate.n) == (0.75, 4)
    assert (estimate.low, estimate.high) == (0, 1)  # x twice, y twice


def test_same_seed_same_interval_in_any_order_of_the_items():
    rng = np.random.default_rng(0)
    values, labels = rng.random(80), rng.integers(0, 12, 80)
    order = rng.permutation(len(values))
    one, other = (
        paired.mean_interval(values, labels, seed=3),
        paired.mean_interval(values[order], labels[order], seed=3),
    )
    # Sums of seven values or so in another order: their last bits may differ.
    assert (other.mean, other.low, other.high) == pytest.approx((one.mean, one.low, one.high), rel=1e-12)
    assert one.n == other.n and one != paired.mean_interval(values, labels, seed=4)


# --- comparisons --------------------------------------------------------------------------------


def test_mcnemar_is_the_binomial_sum_over_discordant_items():
    a = [1] * 9 + [0] * 2 + [1] * 20 + [0] * 6
    b = [0] * 9 + [1] * 2 + [1] * 20 + [0] * 6
    result = paired.compare_right(np.array(a, bool), np.array(b, bool))
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
    result = (paired.compare_right if binary else paired.compare_means)(a, b, labels)
    assert result.p == pytest.approx(np.mean(np.array(flipped) >= abs(sum(sums)) - 1e-9))
    assert result.test == "sign flip"
    assert result.difference == pytest.approx(difference.mean())


def test_many_clusters_are_compared_by_the_paired_t_test():
    a, b = np.random.default_rng(5).normal(size=(2, 300))
    result = paired.compare_means(a, b)
    assert result.test == "paired t"
    t = (a - b).mean() / np.std(a - b, ddof=1) * math.sqrt(300)
    assert result.p == pytest.approx(2 * stats.t.sf(abs(t), 299))
    assert result.minimum_detectable == pytest.approx(2.81 * np.std(a - b, ddof=1) / math.sqrt(300), rel=0.01)


def test_swapping_a_and_b_turns_the_sign_and_nothing_else():
    a, b, labels = answer_pairs(np.random.default_rng(6), 9, 12, 0.1, 0.05)
    one, other = paired.compare_right(a, b, labels), paired.compare_right(b, a, labels)
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low))
    assert (one.p, one.only_a, one.only_b) == (other.p, other.only_b, other.only_a)


def test_equal_results_are_a_tie_of_no_width():
    right = np.array([True, False, True, True])
    for tie in (
        paired.compare_right(right, right),
        paired.compare_right(right, right, [0, 0, 1, 1]),
        paired.compare_means([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]),
        paired.compare_over_seeds([np.zeros(5)] * 4),
    ):
        assert (tie.difference, tie.low, tie.high, tie.p) == (0, 0, 0, 1)
        assert math.isnan(tie.minimum_detectable)


def test_a_constant_difference_has_no_width_and_the_least_p_of_its_clusters():
    result = paired.compare_means(np.full(8, 0.3), np.full(8, 0.2))
    assert (result.low, result.high, result.difference) == pytest.approx((0.1, 0.1, 0.1))
    assert result.low == result.high
    assert result.p == 2 / 2**8
    over_seeds = paired.compare_over_seeds([np.full(8, 0.1)] * 3)
    assert over_seeds.low == over_seeds.high == pytest.approx(0.1)
    assert over_seeds.p == over_seeds.item_p == 2 / 2**8
    assert math.isnan(over_seeds.seed_p)


def test_from_three_seeds_on_p_is_the_larger_of_items_and_seeds():
    rng = np.random.default_rng(7)
    apart_by_seed = rng.normal(0.1, 0.1, (4, 1)) + rng.normal(0, 0.01, (4, 10))
    apart_by_item = rng.normal(0.1, 0.1, (1, 10)) + rng.normal(0, 0.01, (4, 10))
    for rows, decides in ((apart_by_seed, "seed_p"), (apart_by_item, "item_p")):
        result = paired.compare_over_seeds(list(rows))
        t = rows.mean() / np.std(rows.mean(axis=1), ddof=1) * 2
        assert result.seed_p == pytest.approx(2 * stats.t.sf(abs(t), 3))
        assert result.item_p == paired.compare_means(rows.mean(axis=0), np.zeros(10)).p
        assert result.p == max(result.seed_p, result.item_p) == getattr(result, decides)
        assert result.speaks_of == "training again"
    for few in (1, 2):
        result = paired.compare_over_seeds(list(apart_by_seed[:few]))
        assert result.p == result.item_p and result.test == "sign flip"
        assert math.isnan(result.seed_p) and result.seeds == few
        assert result.speaks_of == "these models"


def test_two_seeds_apart_bound_by_student_t_while_p_speaks_of_these_models():
    """Means 0.2 and 0.4: 0.3 ± t₀.₉₇₅(1 df) · 0.2 / 2, where t is the Cauchy quantile tan(0.475 π) = 12.706."""
    items = np.linspace(-0.01, 0.01, 10)
    result = paired.compare_over_seeds([0.2 + items, 0.4 + items])
    reach = math.tan(0.475 * math.pi) * 0.1
    assert (result.low, result.high) == pytest.approx((0.3 - reach, 0.3 + reach))
    assert result.low < 0 and result.p == 2 / 2**10 and result.speaks_of == "these models"


def test_an_interval_that_excludes_no_difference_has_a_small_seed_p():
    rng, excluded = np.random.default_rng(14), 0
    for by_seed in np.repeat([0.02, 0.1, 0.3], 20):
        rows = rng.normal(0.2, by_seed, (3, 1)) + rng.normal(0, 0.1, 8) + rng.normal(0, 0.05, (3, 8))
        result = paired.compare_over_seeds(list(rows), resamples=200)
        if not result.low <= 0 <= result.high:
            excluded += 1
            assert result.seed_p < ALPHA
    assert 5 < excluded < 55


def test_one_seed_is_the_plain_comparison():
    a, b = np.random.default_rng(8).normal(size=(2, 11))
    plain, seeds = paired.compare_means(a, b, seed=2), paired.compare_over_seeds([a - b], seed=2)
    for name in ("difference", "low", "high", "p", "minimum_detectable"):
        assert getattr(seeds, name) == getattr(plain, name)


@pytest.mark.slow
def test_false_positives_of_the_clustered_test_are_nominal_where_mcnemar_has_too_many():
    rng, repetitions = np.random.default_rng(9), 500
    results = [
        paired.compare_right(*answer_pairs(rng, 10, 60, 0, 0.1), resamples=2)  # cluster differences of ± 0.1, mean 0
        for _ in range(repetitions)
    ]
    low, high = band(repetitions, ALPHA)
    assert low <= np.mean([result.p < ALPHA for result in results]) <= high
    assert np.mean([result.mcnemar_p < ALPHA for result in results]) > 3 * ALPHA


@pytest.mark.slow
@pytest.mark.usefixtures("without_collections")
def test_false_positives_of_a_family_after_holm_are_nominal():
    rng, families, members = np.random.default_rng(10), 400, 4
    wrong = wrong_without = 0
    for _ in range(families):
        a, b = rng.exponential(size=(2, members, 8))
        p = [paired.compare_means(x, y, resamples=2).p for x, y in zip(a, b, strict=True)]
        wrong_without += min(p) < ALPHA
        wrong += min(adjusted for adjusted in paired.holm(p) if adjusted is not None) < ALPHA
    low, high = band(families, ALPHA)
    assert low <= wrong / families <= high
    assert wrong_without / families > high


@pytest.mark.slow
@pytest.mark.parametrize("binary", [True, False])
def test_power_rises_with_the_effect_to_its_promise_at_the_minimum_detectable_difference(binary):
    rng, repetitions, groups, size = np.random.default_rng(11), 200, 10, 60
    # Var(cluster mean) = (ψ - E shift²) / size + Var(shift), to first order in the effect.
    sd = math.sqrt((0.3 - 0.05**2) / size + 0.05**2) if binary else 1.0
    least = paired.minimum_detectable_mean(groups, sd)

    def rejects(effect: float) -> bool:
        if binary:
            return paired.compare_right(*answer_pairs(rng, groups, size, effect, 0.05), resamples=2).p < ALPHA
        return paired.compare_means(rng.normal(effect, sd, groups), np.zeros(groups), resamples=2).p < ALPHA

    rates = [np.mean([rejects(factor * least) for _ in range(repetitions)]) for factor in (0, 0.5, 1, 1.5)]
    assert rates == sorted(rates)
    assert rates[0] <= band(repetitions, ALPHA)[1]
    # Sign flips of ten clusters have a little less power than the t-test of the formula.
    assert band(repetitions, 0.75)[0] <= rates[2] <= band(repetitions, 0.8)[1]
    assert rates[3] > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("spread", [(0.02, 0.3), (0.2, 0.02)], ids=["items", "seeds"])
def test_over_seeds_neither_source_is_left_out(spread):
    """Eight seeds, nine items: the mean difference is 0 over both, whichever of them differs more."""
    rng, repetitions = np.random.default_rng(12), 300
    by_seed, by_item = spread
    results = [
        paired.compare_over_seeds(
            list(rng.normal(0, by_seed, (8, 1)) + rng.normal(0, by_item, 9) + rng.normal(0, 0.1, (8, 9))),
            resamples=300,
        )
        for _ in range(repetitions)
    ]
    assert coverage(results, 0) >= band(repetitions, 0.93)[0]
    assert np.mean([result.p < ALPHA for result in results]) <= band(repetitions, 0.06)[1]
    one_source = "seed_p" if by_item > by_seed else "item_p"
    assert np.mean([getattr(result, one_source) < ALPHA for result in results]) > 0.2


@pytest.fixture
def without_collections(monkeypatch):
    """statsmodels' Holm collects garbage at every call: 0.1 s each."""
    monkeypatch.setattr("gc.collect", lambda *_: 0)


@pytest.mark.usefixtures("without_collections")
@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_holm_is_the_closed_test_by_bonferroni(n):
    """An adjusted p is the largest Bonferroni p of all sets of hypotheses that hold its own."""
    sets = [list(chosen) for size in range(1, n + 1) for chosen in itertools.combinations(range(n), size)]
    for seed in range(20):
        p = np.random.default_rng([n, seed]).uniform(0, 1 if seed % 2 else 0.02, n).round(2 + seed % 3)
        bonferroni = [min(1.0, len(chosen) * p[chosen].min()) for chosen in sets]
        expected = [max(b for b, chosen in zip(bonferroni, sets, strict=True) if i in chosen) for i in range(n)]
        assert paired.holm(p.tolist()) == pytest.approx(expected, rel=1e-12)


def test_holm_by_hand_and_without_the_missing():
    assert paired.holm([0.01, None, 0.04, 0.03, 0.005]) == pytest.approx([0.03, None, 0.06, 0.06, 0.02])
    adjusted = paired.holm([math.nan, 0.4, 0.9])
    assert np.isnan(np.array(adjusted, float)).tolist() == [True, False, False]
    assert adjusted[1:] == pytest.approx([0.8, 0.9])
    assert paired.holm([]) == [] and paired.holm([None]) == [None]


def test_minimum_detectable_of_clusters_comes_from_their_own_spread():
    """Clusters of equal size: as if each cluster's mean were one value."""
    a, b, labels = answer_pairs(np.random.default_rng(13), 9, 12, 0.1, 0.1)
    means = (a.astype(float) - b).reshape(9, 12).mean(axis=1)
    expected = paired.minimum_detectable_mean(9, float(means.std(ddof=1)))
    assert paired.compare_right(a, b, labels).minimum_detectable == pytest.approx(expected)


def test_rank_statistics_by_hand():
    a, b = [1, 2, 3, 4, 5], [2, 1, 4, 3, 5]
    assert ranks.spearman(a, b) == pytest.approx(1 - 6 * 4 / (5 * 24))
    assert ranks.kendall(a, b) == pytest.approx((8 - 2) / 10)
    assert math.isnan(ranks.spearman(a, [1] * 5)) and math.isnan(ranks.kendall([1] * 5, b))
    assert ranks.jaccard((1, 2, 3), (2, 3, 4)) == 0.5
    assert ranks.jaccard((), (1,)) == 0
    assert ranks.top_k([3, 9, 9, 1, 9], 2) == (1, 2)
    assert ranks.top_k([3, 9, 5, 1], 3) == (0, 1, 2)
    assert ranks.top_k([1, 2] * 50, 3) == (1, 3, 5)


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda: paired.wilson(5, 4),
        lambda: paired.wilson(0, 0),
        lambda: paired.wilson(1, 4, confidence=95),
        lambda: paired.proportion_at_most([], 1),
        lambda: paired.proportion_at_most([1, 2], math.nan),
        lambda: paired.mean_interval([]),
        lambda: paired.mean_interval([0.5]),
        lambda: paired.mean_interval([[0.5, 1.0]]),
        lambda: paired.mean_interval([0.5, math.nan]),
        lambda: paired.mean_interval([0.5, math.inf]),
        lambda: paired.mean_interval([0.5, 1.0], ["x", "x"]),
        lambda: paired.mean_interval([0.5, 1.0], ["x"]),
        lambda: paired.mean_interval([0.5, 1.0], np.array(["x", None])),
        lambda: paired.mean_interval([0.5, 1.0], [1.0, math.nan]),
        lambda: paired.mean_interval([0.5, 1.0], resamples=1),
        lambda: paired.compare_right([1, 0, 1], [1, 0]),
        lambda: paired.compare_right([1, 0.5], [1, 0]),
        lambda: paired.compare_means([1, 0, 1], [1, 0]),
        lambda: paired.compare_means([1, 2], [1, 2], power=0.01),
        lambda: paired.compare_over_seeds([]),
        lambda: paired.compare_over_seeds([[1, 2], [1, 2, 3]]),
        lambda: paired.holm([0.5, 1.5]),
        lambda: paired.holm([-0.1]),
        lambda: ranks.spearman([1], [1]),
        lambda: ranks.kendall([1, 2], [1, 2, 3]),
        lambda: ranks.jaccard([], []),
        lambda: ranks.top_k([1, 2], 3),
        lambda: ranks.top_k([1, 2], 0),
    ],
)
def test_bad_input_is_refused(call):
    with pytest.raises(ValueError, match=r"^(?!Sample)[a-zA-Z].*\.$"):
        call()
