"""Clustered bootstrap intervals and sign-flip tests, by scipy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
ClusterTest = Literal["sign flip", "paired t"]

SIGN_FLIPS = 9999
T_TEST_CLUSTERS = 200
# Numbers in one batch of resamples. It limits 14,000 items to tens of megabytes instead of gigabytes.
BATCH_SIZE = 2_000_000
# Differences or residuals below this share of the largest value are rounding.
NOISE_RTOL = 1e-12


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Clusters:
    """Per cluster (G): the sum of its values and their number."""

    sums: Floats
    sizes: Floats

    @property
    def mean(self) -> float:
        """Return the mean over all values."""
        return float(self.sums.sum() / self.sizes.sum())

    @property
    def sd(self) -> float:
        """Return the spread of the clusters' shares in the mean.

        sd / √G is the mean's cluster-robust standard error (CR1). With one value per cluster it is the sd of the
        values. It is 0 where all values agree.
        """
        shares = (self.sums - self.mean * self.sizes) / self.sizes.mean()
        return spread(shares, scale=np.abs(self.sums / self.sizes).max())


def bootstrap(clusters: Clusters, seed: int, confidence: float, resamples: int) -> Interval:
    """Return the percentile interval of Σ sums / Σ sizes over resampled clusters."""
    groups = _check_bootstrap(clusters, confidence, resamples)
    if not clusters.sd:
        return Interval(clusters.mean, clusters.mean)
    result = stats.bootstrap(
        (clusters.sums, clusters.sizes),
        lambda sums, sizes, axis: sums.sum(axis) / sizes.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=_batch(groups),
        confidence_level=_widened_level(confidence, groups),
        method="percentile",
        rng=seed,
    )
    return Interval(*map(float, result.confidence_interval))


def crossed_bootstrap(seeds: Sequence[Clusters], seed: int, confidence: float, resamples: int) -> Interval:
    """Return the percentile interval of the mean over resampled seeds, crossed with resampled clusters."""
    sums, sizes = np.array([row.sums for row in seeds]), seeds[0].sizes
    groups = _check_bootstrap(seeds[0], confidence, resamples)
    means = sums / sizes
    if not spread(means, scale=np.abs(means).max()):
        return Interval(float(means[0, 0]), float(means[0, 0]))

    def mean(drawn_seeds: NDArray[np.int_], drawn: NDArray[np.int_], axis: int) -> Floats:
        weights = (drawn_seeds[..., None] == np.arange(len(seeds))).mean(-2)
        return np.take_along_axis(weights @ sums, drawn, -1).sum(axis) / sizes[drawn].sum(axis)

    result = stats.bootstrap(
        (np.arange(len(seeds)), np.arange(groups)),
        mean,
        vectorized=True,
        n_resamples=resamples,
        batch=_batch(groups),
        confidence_level=_widened_level(confidence, groups),
        method="percentile",
        rng=seed,
    )
    return Interval(*map(float, result.confidence_interval))


def interval_over_seeds(seeds: Sequence[Clusters], seed: int, confidence: float, resamples: int) -> Interval:
    """Return, at each end, the wider of the crossed bootstrap and of Student's t interval of the seeds' means (scipy).

    No percentile reaches beyond the seeds' own means, at any level. These means enclose the true one in 50 % of
    cases with 2 seeds and in 75 % with 3. The t interval reaches further. One seed gives `bootstrap`. Where all
    means are equal there is no spread between seeds, so the crossed bootstrap stands alone.
    """
    if len(seeds) == 1:
        return bootstrap(seeds[0], seed, confidence, resamples)
    resampled = crossed_bootstrap(seeds, seed, confidence, resamples)
    means = np.array([row.mean for row in seeds])
    if not spread(means, scale=np.abs(means).max()):
        return resampled
    t_test: Any = stats.ttest_1samp(means, 0.0)
    t = t_test.confidence_interval(confidence)
    return Interval(min(resampled.low, float(t.low)), max(resampled.high, float(t.high)))


def _widened_level(confidence: float, groups: int) -> float:
    """Return the level that makes a percentile interval over few groups as wide as Student's t.

    A bootstrap distribution is too narrow by √((G-1)/G) and has normal tails. So use
    1 - 2 Φ(-√(G/(G-1)) t_{G-1}) (Hesterberg 2015, "What Teachers Should Know About the Bootstrap",
    American Statistician 69:371).
    """
    t = stats.t.isf((1 - confidence) / 2, groups - 1)
    return float(1 - 2 * stats.norm.sf(np.sqrt(groups / (groups - 1)) * t))


def cluster_test(clusters: Clusters, seed: int) -> tuple[ClusterTest, float]:
    """Test whether the clusters' sums are symmetric about 0. Return the test's name and p.

    Uses all sign flips, or 9999 random ones (then p ≥ 0.0002). From 200 non-zero sums on it uses the t-test of
    the sums. It agrees with sign flips there and takes a fraction of the time.
    """
    nonzero = clusters.sums[clusters.sums != 0]  # flipping a zero changes nothing
    if len(nonzero) < 2:
        return "sign flip", 1.0
    if len(nonzero) >= T_TEST_CLUSTERS and spread(nonzero, scale=np.abs(nonzero).max()):
        t_test: Any = stats.ttest_1samp(nonzero, 0.0)
        return "paired t", float(t_test.pvalue)
    result = stats.permutation_test(
        (nonzero,),
        lambda sums, axis: sums.sum(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=SIGN_FLIPS,
        batch=_batch(len(nonzero)),
        rng=seed,
    )
    return "sign flip", float(result.pvalue)


def spread(values: Floats, scale: float) -> float:
    """Return the sample sd, or 0 where it is rounding beside `scale`."""
    sd = float(np.std(values, ddof=1))
    return sd if sd > NOISE_RTOL * scale else 0.0


def _batch(width: int) -> int:
    """Return how many resamples of `width` numbers go into one batch."""
    return max(1, BATCH_SIZE // width)


def group(values: Floats, labels: ArrayLike | None) -> Clusters:
    """Sum the values by label, labels in ascending order. Without labels each value is its own cluster.

    Raises:
        ValueError: labels of another length, or missing labels.
    """
    if labels is None:
        return Clusters(values, np.ones_like(values))
    names = np.asarray(labels)
    if names.shape != values.shape:
        raise ValueError(f"clusters needs one label per value, got {names.shape} for {values.shape}.")
    if any(name is None or name != name for name in names.tolist()):
        raise ValueError("clusters holds missing labels; every value needs one.")
    _, index = np.unique(names, return_inverse=True)
    return Clusters(np.bincount(index, values).astype(float), np.bincount(index).astype(float))


def vector(values: ArrayLike, name: str) -> Floats:
    """Return the values as float64. Raises ValueError unless they are a non-empty vector of finite numbers."""
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"{name} must be a non-empty vector of finite numbers, got {array}.")
    return array


def pair(first: Floats, second: Floats, names: str = "a and b") -> tuple[Floats, Floats]:
    """Return both vectors. Raises ValueError unless their lengths are equal."""
    if len(first) != len(second):
        raise ValueError(f"{names} must be of the same items, got {len(first)} and {len(second)}.")
    return first, second


def check_share(value: float, name: str) -> None:
    """Raise ValueError unless 0 < value < 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {value}.")


def _check_bootstrap(clusters: Clusters, confidence: float, resamples: int) -> int:
    """Return the number of clusters. Raises ValueError where they allow no interval."""
    check_share(confidence, "confidence")
    if len(clusters.sizes) < 2 or resamples < 2:
        raise ValueError(
            f"a bootstrap needs two clusters and two resamples, got {len(clusters.sizes)} and {resamples}."
        )
    return len(clusters.sizes)
