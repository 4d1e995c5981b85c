"""Rank correlation and overlap of layer scores."""

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from floe_bench.harness.stats.resampling import pair, vector


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Return Spearman's ρ (scipy). NaN where a or b is constant.

    Raises:
        ValueError: unequal lengths, or fewer than 2 values.
    """
    return _correlation(stats.spearmanr, a, b)


def kendall(a: ArrayLike, b: ArrayLike) -> float:
    """Return Kendall's τ-b (scipy). NaN where a or b is constant.

    Raises:
        ValueError: unequal lengths, or fewer than 2 values.
    """
    return _correlation(stats.kendalltau, a, b)


def jaccard(a: Collection[int], b: Collection[int]) -> float:
    """Return |a ∩ b| / |a ∪ b| of two sets of layers. Raises ValueError where both are empty."""
    union = set(a) | set(b)
    if not union:
        raise ValueError("jaccard needs at least one element, got two empty sets.")
    return len(set(a) & set(b)) / len(union)


def top_k(scores: ArrayLike, k: int) -> tuple[int, ...]:
    """Return the indices of the k highest scores, ascending. Ties go to the lower index.

    Raises:
        ValueError: empty or non-finite scores, or k outside 1..len(scores).
    """
    values = vector(scores, "scores")
    if not 1 <= k <= len(values):
        raise ValueError(f"k must be from 1 to {len(values)}, got {k}.")
    return tuple(sorted(np.argsort(-values, kind="stable")[:k].tolist()))


def _correlation(function: Callable[..., Any], a: ArrayLike, b: ArrayLike) -> float:
    first, second = pair(vector(a, "a"), vector(b, "b"))
    if len(first) < 2:
        raise ValueError("a rank correlation needs at least two values, got one.")
    constant = not np.ptp(first) or not np.ptp(second)
    return np.nan if constant else float(function(first, second).statistic)
