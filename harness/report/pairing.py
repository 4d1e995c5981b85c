"""Compare two finished cells, or two methods over their seeds, answer by answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results
from floe_bench.harness.report.format import MISSING
from floe_bench.harness.stats.paired import SeedComparison, compare_over_seeds, compare_right

Pairs = Sequence[tuple[Record, Record]]
"""The records of two sides, one pair per seed."""


def accuracy_difference(
    a: Results, b: Results, pairs: Pairs, confidence: float = 0.95, ratio: float = 1.0
) -> SeedComparison | None:
    """Compare accuracy on the primary evaluation, a - ratio · b, over seeds and items, clustered by subject.

    None where a side has no such answers. Raises ValueError where the sides answered different items.
    """
    differences, clusters = [], None
    for first, second in pairs:
        frames = _same_items(a, b, first, second, first.settings.eval.primary)
        if frames is None or not all({"predicted", "answer"} <= set(frame) for frame in frames):
            return None
        hits = [(frame["predicted"] == frame["answer"]).to_numpy(dtype=float) for frame in frames]
        differences.append(hits[0] - ratio * hits[1])
        clusters = frames[0]["subject"].tolist() if "subject" in frames[0] else None
    return _over_seeds(differences, clusters, confidence)


def mcnemar_p(results: Results, pairs: Pairs) -> float | None:
    """Return McNemar's exact p of one seed's answers. It takes the questions for independent.

    None for several seeds, or without such answers. Raises ValueError where the sides answered different items.
    """
    if len(pairs) != 1:
        return None
    first, second = pairs[0]
    frames = _same_items(results, results, first, second, first.settings.eval.primary)
    if frames is None or not all({"predicted", "answer"} <= set(frame) for frame in frames):
        return None
    a, b = ((frame["predicted"] == frame["answer"]).to_numpy() for frame in frames)
    return compare_right(a, b).mcnemar_p


def nll_difference(a: Results, b: Results, pairs: Pairs, confidence: float = 0.95) -> SeedComparison | None:
    """Compare validation NLL (nats per token) on the cells' own mix, a - b, over seeds and rows.

    Rows count by their tokens. A mix without validation rows of its own takes the mean over all mixes.
    Returns None and raises ValueError as `accuracy_difference` does.
    """
    differences = []
    for first, second in pairs:
        frames = _same_items(a, b, first, second, "validation_nll")
        if frames is None:
            return None
        own = (frames[0]["mix"] == first.cell.mix).to_numpy()
        own = own if own.any() else np.ones_like(own)
        scored = frames[0][own].groupby("mix")["tokens"]
        # So scaled, the mean over rows is the mean over mixes of the difference in NLL per token.
        scale = own.sum() / (scored.ngroups * scored.transform("sum").to_numpy())
        summed = [frame["nll"].to_numpy()[own] for frame in frames]
        differences.append((summed[0] - summed[1]) * scale)
    return _over_seeds(differences, None, confidence)


def columns(name: str, found: SeedComparison | None, p: float | None) -> dict[str, float | None]:
    """Return a comparison as columns of a frame. `p` is the p value after Holm."""
    keys = ("difference", "low", "high", "minimum_detectable")
    values = {f"{name}_{key}": getattr(found, key) if found else None for key in keys}
    return values | {f"{name}_p": p if found else None}


def differences_text(frame: pd.DataFrame, name: str, scale: float, digits: int) -> list[str]:
    """Write the differences of `name` with their intervals, both multiplied by `scale`."""
    parts = (frame[f"{name}_{part}"] for part in ("difference", "low", "high"))
    return [
        MISSING
        if pd.isna(mean)
        else f"{scale * mean:+.{digits}f} [{scale * low:+.{digits}f}, {scale * high:+.{digits}f}]"
        for mean, low, high in zip(*parts, strict=True)
    ]


def verdicts(frame: pd.DataFrame, name: str, alpha: float, higher: str, lower: str) -> list[str]:
    """Return per row `higher` or `lower` where the difference is significant, else a tie."""
    return [
        MISSING if pd.isna(p) else "tie" if p >= alpha else higher if difference > 0 else lower
        for difference, p in zip(frame[f"{name}_difference"], frame[f"{name}_p"], strict=True)
    ]


def p_text(value: float | None) -> str:
    """Write a p value with two significant digits."""
    return MISSING if value is None or pd.isna(value) else f"{value:.2g}"


def _over_seeds(differences: Sequence[np.ndarray], clusters: list[str] | None, confidence: float) -> SeedComparison:
    clusters = clusters if clusters and len(set(clusters)) > 1 else None
    return compare_over_seeds(differences, clusters, confidence=confidence)


def _same_items(
    a: Results, b: Results, first: Record, second: Record, evaluation: str
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    if evaluation not in first.scores or evaluation not in second.scores:
        return None
    if first.identity["items"][evaluation] != second.identity["items"][evaluation]:
        raise ValueError(f"{first.cell.label}: the two sides scored other items of {evaluation}, which do not pair")
    return a.items(first, evaluation), b.items(second, evaluation)
