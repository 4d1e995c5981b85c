"""Compare a method's accuracy with a rival's by their ratio and its interval."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from floe_bench.harness.contracts.judgement import Verdict
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results
from floe_bench.harness.report import pairing
from floe_bench.harness.stats.paired import wilson


def pairs_of(results: Results, mix: str, method: str, other: str) -> list[tuple[Record, Record]]:
    """Return both methods' records on the mix, seed by seed."""
    by_cell = {(r.cell.method, r.cell.seed): r for r in results.records if r.cell.mix == mix and not r.cell.varied}
    return [
        (record, by_cell[other, seed])
        for (name, seed), record in sorted(by_cell.items())
        if name == method and (other, seed) in by_cell
    ]


def relative_accuracy(
    results: Results, mix: str, rivals: Sequence[str], of: str, offset: float, figure: float, tolerance: float
) -> Verdict:
    """Judge accuracy(FLoE) / accuracy(best rival) - offset on the mix against `figure` less `tolerance`.

    The interval is that of the contrast hits(FLoE) - ratio · hits(rival), divided by the rival's accuracy. It is paired
    by question and clustered by subject. The rival's own accuracy is taken as measured, without an error.

    Args:
        results: the records to judge by.
        mix: mix that the methods were trained on.
        rivals: methods of which the most accurate one is the rival.
        of: word between the figure and the rival in the verdict's text.
        offset: 0 for a share of the rival's accuracy, 1 for a gain over it.
        figure: the paper's figure.
        tolerance: how far below the figure still counts as reproduced.
    """
    pairs = {rival: pairs_of(results, mix, "floe", rival) for rival in rivals}
    if not all(pairs.values()):
        missing = [rival for rival, found in pairs.items() if not found]
        return Verdict("not run", "–", f"FLoE and {', '.join(missing)} are not both finished on {mix}")
    records = [record for found in pairs.values() for pair in found for record in pair]
    if any("acc" not in record.scores[record.settings.eval.primary].metrics for record in records):
        return Verdict("not run", "–", "the primary evaluation has no accuracy")
    rival = max(rivals, key=lambda name: fmean(_accuracy(other) for _, other in pairs[name]))
    ours, theirs = (fmean(_accuracy(pair[side]) for pair in pairs[rival]) for side in (0, 1))
    if not theirs:
        return Verdict("underpowered", "–", f"{rival} has no answer right")
    confidence, ratio = results.settings.study.confidence, ours / theirs
    found = pairing.accuracy_difference(results, results, pairs[rival], confidence, ratio)
    if found is None:
        return Verdict("not run", "–", "the primary evaluation keeps no answers")
    value, low, high = (ratio - offset + error / theirs for error in (0.0, found.low, found.high))
    seeds = f"{found.seeds} seed{'s' if found.seeds > 1 else ''}"
    text = f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}] {of} {rival}, {seeds}"
    if not all(_above_chance(record, confidence) for _, record in pairs[rival]):
        return Verdict("underpowered", text, f"{rival} itself is not above chance: a share of it means nothing")
    return _against(text, low, high, figure, tolerance)


def _against(ours: str, low: float, high: float, figure: float, tolerance: float) -> Verdict:
    """Judge whether the interval lies above the claim's figure less its tolerance, or below the figure."""
    if low >= figure - tolerance:
        return Verdict("reproduced", ours, f"the interval lies above {100 * (figure - tolerance):.1f} %")
    if high < figure:
        return Verdict("not reproduced", ours, f"the interval lies below {100 * figure:.1f} %")
    return Verdict("underpowered", ours, f"the interval covers {100 * figure:.1f} % and less")


def _accuracy(record: Record) -> float:
    return record.scores[record.settings.eval.primary].metrics["acc"]


def _above_chance(record: Record, confidence: float) -> bool:
    score = record.scores[record.settings.eval.primary]
    right = round(score.metrics["acc"] * score.n_items)
    return score.chance is None or wilson(right, score.n_items, confidence).low > score.chance
