"""Paired tests of two cells, or of two methods over their seeds, and the columns that show them in a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results
from floe_bench.harness.report.format import MISSING, number
from floe_bench.harness.stats.paired import SeedComparison, compare_over_seeds, compare_right, holm

Pairs = Sequence[tuple[Record, Record]]
"""The records of two sides, one pair per seed."""

Columns = dict[str, float | None]
"""A comparison as columns of a frame."""


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


def compared(a: Results, b: Results, rows: Sequence[Pairs], confidence: float = 0.95) -> list[tuple[Columns, Columns]]:
    """Compare each row's accuracy and NLL, a - b, with Holm's correction over both measures of all rows.

    Return each row's columns of accuracy and of NLL. Raises ValueError where the sides answered other items.
    """
    accuracies = [accuracy_difference(a, b, pairs, confidence) for pairs in rows]
    nlls = [nll_difference(a, b, pairs, confidence) for pairs in rows]
    adjusted = holm([found.p if found else None for found in (*accuracies, *nlls)])
    p_accuracies, p_nlls = adjusted[: len(rows)], adjusted[len(rows) :]
    return [
        (columns("accuracy", accuracy, p_accuracy), columns("nll", nll, p_nll))
        for accuracy, p_accuracy, nll, p_nll in zip(accuracies, p_accuracies, nlls, p_nlls, strict=True)
    ]


def columns(name: str, found: SeedComparison | None, p: float | None) -> Columns:
    """Return a comparison as columns of a frame. `p` is the p value after Holm."""
    keys = ("difference", "low", "high", "minimum_detectable")
    values = {f"{name}_{key}": getattr(found, key) if found else None for key in keys}
    return values | {f"{name}_p": p if found else None}


UNTESTED = columns("accuracy", None, None), columns("nll", None, None)
"""The columns of a row that is not compared."""


def trainable(pairs: Pairs) -> Columns:
    """Return both sides' trainable parameters, means over seeds."""
    return {
        f"trainable_{name}": fmean(record.plan.trainable_parameters for record in side)
        for name, side in zip("ab", zip(*pairs, strict=True), strict=True)
    }


@dataclass(frozen=True)
class Measure:
    """How a view shows the columns of one measure.

    name: what its columns in a frame begin with. difference, verdict: headers in the view. higher, lower: the words
    for a significant difference. mark: ends the other headers, as those of two measures must differ.
    """

    name: str
    difference: str
    verdict: str
    higher: str
    lower: str
    scale: float = 1
    digits: int = 4
    mark: str = ""

    def view(self, alpha: float) -> dict[str, Any]:
        """Return a `View` of difference, p, least difference that would be seen, and verdict."""
        return {
            self.difference: lambda frame: differences_text(frame, self.name, self.scale, self.digits),
            f"p{self.mark}": (f"{self.name}_p", p_text),
            f"Sees{self.mark}": (f"{self.name}_minimum_detectable", self._scaled),
            self.verdict: lambda frame: verdicts(frame, self.name, alpha, self.higher, self.lower),
        }

    def _scaled(self, value: float | None) -> str:
        return number(None if value is None else self.scale * value, self.digits)


ACCURACY = Measure("accuracy", "Accuracy, points", "Accuracy is", "higher", "lower", scale=100, digits=1)
NLL = Measure("nll", "NLL, nats", "NLL is", "higher (worse)", "lower (better)", mark=" ")


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
    """Return per row `higher` or `lower` where the difference is significant, else a tie.

    Where the frame has a column `is`, a row that was not compared says that instead.
    """
    found = [
        MISSING if pd.isna(p) else "tie" if p >= alpha else higher if difference > 0 else lower
        for difference, p in zip(frame[f"{name}_difference"], frame[f"{name}_p"], strict=True)
    ]
    if "is" not in frame:
        return found
    return [verdict if kind == "compared" else kind for verdict, kind in zip(found, frame["is"], strict=True)]


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
