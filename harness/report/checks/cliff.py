"""Performance cliff

What: among the cells that vary selection.layer_fraction, one step to fewer adapted layers costs most of what
the whole curve loses. The loss is in accuracy or in the mix's own validation NLL. The step is significant by a
paired test, corrected by Holm over the curve's steps.

Why: the paper says that accuracy falls off below some number of layers. A setting next to this edge is fragile.
A mean over the curve hides the edge.

What to do: choose a layer fraction above the cliff, and measure between the two layer counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from floe_bench.harness.contracts.judgement import Finding
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results
from floe_bench.harness.report import pairing
from floe_bench.harness.stats.paired import holm

NUMBER = 3

VARIED = "selection.layer_fraction"

SHARE = 2 / 3
"""A cliff has this share of the fall from best to worst in one step. With 4 layer counts, equal steps have a third."""

MIN_COUNTS = 4
"""A curve needs this many layer counts. With 3, one of the two steps always has half of a steady fall."""


@dataclass(frozen=True)
class _Step:
    """Hold a step from a layer count to the next lower one. `loss` is positive where the score gets worse."""

    fewer: Record
    more: Record
    loss: float
    p: float


def find(results: Results) -> list[Finding]:
    findings = []
    for curve in _curves(results):
        findings += _cliffs(results, curve, "accuracy", _accuracy_step)
        findings += _cliffs(results, curve, "validation NLL", _nll_step)
    return findings


def _curves(results: Results) -> list[list[Record]]:
    """Return curves: the records of one mix, method and seed, ordered by number of adapted layers.

    Where several have the same number, the first counts.
    """
    curves: dict[tuple[object, ...], dict[int, Record]] = defaultdict(dict)
    for record in results.records:
        cell = record.cell
        if VARIED in dict(cell.varied):
            others = tuple((key, value) for key, value in cell.varied if key != VARIED)
            curves[cell.mix, cell.method, cell.seed, others].setdefault(len(record.plan.layers), record)
    return [[curve[count] for count in sorted(curve)] for curve in curves.values() if len(curve) >= MIN_COUNTS]


def _cliffs(
    results: Results, curve: list[Record], name: str, compare: Callable[[Results, Record, Record], _Step | None]
) -> list[Finding]:
    steps = [step for fewer, more in pairwise(curve) if (step := compare(results, fewer, more))]
    if len(steps) < len(curve) - 1:
        return []
    # The fall is from the curve's top to its bottom. The sum of all falls would grow with the noise.
    scores = [0.0]
    for step in steps:
        scores.append(scores[-1] + step.loss)
    fall = max(scores) - min(scores)
    findings = []
    for step, p in zip(steps, holm([step.p for step in steps]), strict=True):
        significant = p is not None and p < 1 - results.settings.study.confidence
        if significant and step.loss >= SHARE * fall:
            counts = len(step.more.plan.layers), len(step.fewer.plan.layers)
            message = (
                f"{name} falls off between {counts[0]} and {counts[1]} adapted layers: it is worse by {step.loss:.3g}, "
                f"{step.loss / fall:.0%} of all that the curve loses (Holm-adjusted p {p:.2g})"
            )
            findings.append(Finding(message, (step.fewer.cell.label, step.more.cell.label)))
    return findings


def _accuracy_step(results: Results, fewer: Record, more: Record) -> _Step | None:
    """Return the step in accuracy on the primary evaluation; None where there is no accuracy."""
    found = pairing.accuracy_difference(results, results, [(more, fewer)], results.settings.study.confidence)
    return _Step(fewer, more, found.difference, found.p) if found else None


def _nll_step(results: Results, fewer: Record, more: Record) -> _Step | None:
    """Return the step in validation NLL (nats per token) on the cells' own mix; None where there is no NLL."""
    found = pairing.nll_difference(results, results, [(fewer, more)], results.settings.study.confidence)
    return _Step(fewer, more, found.difference, found.p) if found else None
