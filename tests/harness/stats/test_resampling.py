"""Bootstrap intervals against every possible resample, and their coverage in simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from floe_bench.harness.stats import paired, resampling


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


def test_clustered_bootstrap_quantiles_are_those_of_all_resamples():
    values, labels = np.array([1.0, 4, 2, 8, 5, 7, 3]), np.array([0, 0, 1, 1, 1, 2, 3])
    groups = [values[labels == label] for label in range(4)]
    every = np.array([np.concatenate(draw).mean() for draw in itertools.product(groups, repeat=4)])
    t = stats.t.ppf(0.75, 3) * math.sqrt(4 / 3)
    estimate = paired.mean_interval(values, labels, confidence=0.5, resamples=40_000)
    for bound, level in ((estimate.low, stats.norm.cdf(-t)), (estimate.high, stats.norm.cdf(t))):
        assert np.mean(every < bound - 1e-9) - 0.01 <= level <= np.mean(every <= bound + 1e-9) + 0.01


def test_crossed_bootstrap_quantiles_are_those_of_all_resamples():
    rows = np.array([[1.0, 4, 2, 8, 6], [0, 7, 1, 5, 5], [3, 9, 9, 2, 4]])
    labels = np.array([0, 1, 2, 3, 3])
    groups = [np.flatnonzero(labels == label) for label in range(4)]
    resamples = [
        rows[list(seeds)][:, np.concatenate(items)].mean()
        for seeds in itertools.product(range(3), repeat=3)
        for items in itertools.product(groups, repeat=4)
    ]
    every = np.array(resamples)
    t = stats.t.ppf(0.75, 3) * math.sqrt(4 / 3)
    result = resampling.crossed_bootstrap([resampling.group(row, labels) for row in rows], 0, 0.5, 40_000)
    for bound, level in ((result.low, stats.norm.cdf(-t)), (result.high, stats.norm.cdf(t))):
        assert np.mean(every < bound - 1e-9) - 0.01 <= level <= np.mean(every <= bound + 1e-9) + 0.01


@pytest.mark.slow
@pytest.mark.parametrize("n_clusters", [15, 57])
def test_coverage_of_a_clustered_accuracy_is_nominal_and_needs_the_clusters(n_clusters):
    rng, repetitions = np.random.default_rng(1), 600
    data = [accuracies(rng, n_clusters) for _ in range(repetitions)]
    low, high = band(repetitions, 0.95)
    clustered = [paired.mean_interval(values, labels, resamples=600) for values, labels in data]
    assert low <= coverage(clustered, 0.4) <= high
    assert coverage([paired.wilson(int(values.sum()), len(values)) for values, _ in data], 0.4) < low


@pytest.mark.slow
@pytest.mark.parametrize("n", [16, 100])
def test_coverage_of_a_mean_difference_is_nominal(n):
    rng, repetitions = np.random.default_rng(2), 600
    samples = rng.normal(0.3, 1, (repetitions, n))
    low, high = band(repetitions, 0.95)
    assert low <= coverage([paired.mean_interval(x, resamples=600) for x in samples], 0.3) <= high


def test_eight_clusters_are_covered_as_the_docstring_says():
    rng, repetitions = np.random.default_rng(3), 400
    low, high = band(repetitions, 0.93)
    samples = rng.normal(0, 1, (repetitions, 8))
    assert low <= coverage([paired.mean_interval(x, resamples=400) for x in samples], 0) <= high


@pytest.mark.slow
@pytest.mark.parametrize("n_seeds", [2, 3])
@pytest.mark.parametrize("seeds_share", [0.03, 0.5, 0.97], ids=["items", "balanced", "seeds"])
def test_few_seeds_are_covered_whatever_their_share_of_the_variance(n_seeds, seeds_share):
    rng, repetitions, n_items = np.random.default_rng(4), 500, 57
    by_seed, by_item = math.sqrt(seeds_share * n_seeds), math.sqrt((1 - seeds_share) * n_items)
    shape = (repetitions, n_seeds, n_items)
    data = rng.normal(0, by_seed, (*shape[:2], 1)) + rng.normal(0, by_item, (repetitions, 1, n_items))
    samples = [[resampling.group(row, None) for row in rows] for rows in data + rng.normal(0, 0.5, shape)]
    low, _ = band(repetitions, 0.95)
    assert coverage([resampling.interval_over_seeds(rows, 0, 0.95, 300) for rows in samples], 0) >= low
    if seeds_share > 0.9:
        bootstrap_alone = [resampling.crossed_bootstrap(rows, 0, 0.95, 300) for rows in samples]
        assert coverage(bootstrap_alone, 0) <= band(repetitions, {2: 0.6, 3: 0.75}[n_seeds])[1]


@pytest.mark.parametrize("n_seeds", [2, 3, 6])
def test_each_end_over_seeds_is_the_outer_of_bootstrap_and_t(n_seeds):
    """Skewed items and noise between the seeds, so that over the draws every end comes from either."""
    rng, wider = np.random.default_rng(5), set()
    for by_seed in (0.0, 0.1, 0.3, 1.0):
        data = rng.normal(0, by_seed, (n_seeds, 1)) + rng.exponential(size=12) + rng.normal(0, 0.3, (n_seeds, 12))
        rows, means = [resampling.group(row, None) for row in data], data.mean(axis=1)
        half = stats.t.ppf(0.975, n_seeds - 1) * means.std(ddof=1) / math.sqrt(n_seeds)
        found = resampling.interval_over_seeds(rows, 0, 0.95, 300)
        crossed = resampling.crossed_bootstrap(rows, 0, 0.95, 300)
        for name, end, by_t, by_bootstrap, sign in (
            ("low", found.low, means.mean() - half, crossed.low, -1),
            ("high", found.high, means.mean() + half, crossed.high, 1),
        ):
            assert sign * end == pytest.approx(max(sign * by_t, sign * by_bootstrap))
            wider.add((name, sign * by_t > sign * by_bootstrap))
    assert wider == set(itertools.product(("low", "high"), (True, False)))
