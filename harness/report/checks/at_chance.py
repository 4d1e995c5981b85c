"""Score at or below chance

What: the Wilson interval of a cell's accuracy does not lie above the accuracy of guessing.

Why: two models that both guess differ by luck alone. Neither can be called better.

What to do: evaluate more questions, use a form that the model can answer (the continuation form for small
models) or a larger model, and compare by NLL meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from floe_bench.harness.contracts.judgement import Finding
from floe_bench.harness.contracts.tables import Results
from floe_bench.harness.stats.paired import Interval, wilson

NUMBER = 6


@dataclass(frozen=True)
class _Accuracy:
    cell: str
    interval: Interval
    chance: float


def find(results: Results) -> list[Finding]:
    by_evaluation: dict[str, list[_Accuracy]] = defaultdict(list)
    for record in results.records:
        for evaluation, score in record.scores.items():
            if score.chance is not None and "acc" in score.metrics:
                right = round(score.metrics["acc"] * score.n_items)
                interval = wilson(right, score.n_items, results.settings.study.confidence)
                by_evaluation[evaluation].append(_Accuracy(record.cell.label, interval, score.chance))
    findings = []
    for evaluation, accuracies in by_evaluation.items():
        at_chance = [accuracy for accuracy in accuracies if accuracy.interval.low <= accuracy.chance]
        below = [accuracy for accuracy in at_chance if accuracy.interval.high < accuracy.chance]
        if at_chance:
            message = (
                f"{evaluation}: {len(at_chance)} of {len(accuracies)} cells are not above chance "
                f"({at_chance[0].chance:.0%}; intervals from {min(a.interval.low for a in at_chance):.1%} to "
                f"{max(a.interval.high for a in at_chance):.1%}), {len(below)} of them significantly below it"
            )
            cells = tuple(accuracy.cell for accuracy in at_chance)
            findings.append(Finding(message, cells))
    return findings
