"""Benchmark items in the training data

What: items of an evaluation share 13 words in a row with the rows that the cell trained on (GPT-3's protocol,
arXiv 2005.14165, appendix C). The message gives the score on the clean items beside that on all.

Why: a model may remember an answer that it was trained on. The score then says nothing about other questions.

What to do: report the clean score, or drop the rows. Overlap need not be contamination: a passage that both quote
is common. Where the score on all items and on the clean ones agree, nothing was gained by it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd

from floe_bench.harness.contracts.judgement import Finding
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results
from floe_bench.harness.stats.paired import wilson

NUMBER = 9


def find(results: Results) -> list[Finding]:
    groups: dict[tuple[str, str, int, tuple[int, ...]], list[Record]] = defaultdict(list)
    for record in results.records:
        for evaluation, overlap in record.data.overlap.items():
            if overlap.items:
                groups[evaluation, record.cell.mix, overlap.n, overlap.items].append(record)
    return [_finding(results, *group, records) for group, records in groups.items()]


def _finding(
    results: Results, evaluation: str, mix: str, n: int, overlapping: tuple[int, ...], records: list[Record]
) -> Finding:
    of = records[0].data.overlap[evaluation].of
    chance = records[0].scores[evaluation].chance
    guessing = "" if chance is None else f", guessing gives {chance:.0%}"
    confidence = results.settings.study.confidence
    scores = "; ".join(
        f"{record.cell.label} {_scores(results.items(record, evaluation), overlapping, confidence)}"
        for record in records
    )
    message = (
        f"{evaluation}: {len(overlapping)} of {of} items share {n} words in a row with the training rows of {mix}"
        f"{guessing}; score on all, the clean and the overlapping items ({confidence:.0%} intervals): {scores}"
    )
    return Finding(message, tuple(record.cell.label for record in records))


def _scores(items: pd.DataFrame, overlapping: Sequence[int], confidence: float) -> str:
    clean = np.ones(len(items), dtype=bool)
    clean[list(overlapping)] = False
    parts = (items, items.loc[clean], items.loc[~clean])
    return ", ".join(_score(part, confidence) if len(part) else "none left" for part in parts)


def _score(items: pd.DataFrame, confidence: float) -> str:
    """Write the accuracy with its Wilson interval; where items are not right or wrong, the NLL in nats per token."""
    if "predicted" not in items:
        return f"NLL {items['nll'].sum() / items['tokens'].sum():.3f}"
    right = int(np.sum(items["answer"].to_numpy() == items["predicted"].to_numpy()))
    interval = wilson(right, len(items), confidence)
    return f"{right / len(items):.1%} ({interval.low:.1%} to {interval.high:.1%})"
