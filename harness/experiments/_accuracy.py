"""Compute the accuracy of a group of cells with its interval, and mark it where that covers guessing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import pandas as pd

from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results
from floe_bench.harness.experiments._shared import accuracy_of
from floe_bench.harness.report.format import MISSING
from floe_bench.harness.stats.paired import compare_over_seeds, wilson

CHANCE_NOTE = "† marks an accuracy whose interval covers guessing."


def accuracy_columns(results: Results, records: Sequence[Record]) -> dict[str, Any]:
    """Return the accuracy of a group of cells as columns of a frame.

    `accuracy` is the mean, as a fraction, and `accuracy_sd` its spread over cells. The interval runs from
    `accuracy_from` to `accuracy_to`. `at_chance` says whether it covers guessing. All are None where the primary
    evaluation has no accuracy.

    One cell has Wilson's interval. Several have that over seeds and questions, clustered by subject.
    """
    values = [value for record in records if (value := accuracy_of(record)) is not None]
    names = ("accuracy", "accuracy_sd", "accuracy_from", "accuracy_to", "at_chance")
    if not values or len(values) < len(records):
        return dict.fromkeys(names)
    score = records[0].scores[records[0].settings.eval.primary]
    confidence = results.settings.study.confidence
    if len(records) == 1:
        interval = wilson(round(values[0] * score.n_items), score.n_items, confidence)
    else:
        interval = _over_cells(results, records, confidence)
    covers = None if score.chance is None else interval.low <= score.chance <= interval.high
    sd = statistics.stdev(values) if len(values) > 1 else None
    ends = max(interval.low, 0.0), min(interval.high, 1.0)  # the interval of two seeds can pass them
    return dict(zip(names, (statistics.fmean(values), sd, *ends, covers), strict=True))


def _over_cells(results: Results, records: Sequence[Record], confidence: float) -> Any:
    answers = [results.items(record, record.settings.eval.primary) for record in records]
    hits = [(frame["predicted"] == frame["answer"]).to_numpy(dtype=float) for frame in answers]
    subjects = answers[0]["subject"].tolist() if "subject" in answers[0] else []
    return compare_over_seeds(hits, subjects if len(set(subjects)) > 1 else None, confidence=confidence)


def accuracy_text(frame: pd.DataFrame) -> list[str]:
    """Write the accuracy in per cent with its interval, and a dagger where guessing lies inside."""
    columns = (frame[name] for name in ("accuracy", "accuracy_from", "accuracy_to", "at_chance"))
    return [
        MISSING if pd.isna(mean) else f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]{'†' if chance else ''}"
        for mean, low, high, chance in zip(*columns, strict=True)
    ]
