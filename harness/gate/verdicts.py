"""Hold a run against the expectation that was committed for it.

What a run decides is compared exactly: trainable parameters, picked layers, rank, data. Layer scores are compared
within a relative tolerance, NLL and right answers by paired tests over the same items. Costs only warn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from floe_bench.harness.gate import pairs as paired_tests
from floe_bench.harness.gate.expectation import Answers, Expectation, ExpectedCell
from floe_bench.harness.gate.pairs import ACCURACY_TOLERANCE, NLL_TOLERANCE, Pairs
from floe_bench.harness.stats.paired import Comparison, holm

SCORE_RTOL = 0.01
"""Allowed change of a layer's score, relative to the larger of the two. On `tiny`, weights changed by 1e-6 move it
by up to 0.0006, the planted faults by 0.3 and more."""
COST_RATIO = 2.0
"""Above it, or below its inverse, a cell's seconds or tokens draw a warning."""
MIN_SECONDS = 10.0
"""A shorter duration says more of the machine's other work than of the code."""

Verdict = Literal["ok", "regression", "warning", "note"]


@dataclass(frozen=True)
class Difference:
    """One quantity of one cell: what was expected, what was found, and what that means.

    cell: empty where all are meant. comparison: that of a paired test.
    """

    cell: str
    quantity: str
    verdict: Verdict
    expected: str = ""
    found: str = ""
    detail: str = ""
    comparison: Comparison | None = None


def differing_settings(expected: Expectation, found: Expectation) -> list[str]:
    """Return each setting in which the two runs differ, as "train.epochs 1.0 -> 2.0", and the model."""
    before, after = _flat(expected.settings), _flat(found.settings)
    changed = [
        f"{key} {before.get(key)} -> {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    other_model = found.model is not None and found.model != expected.model
    return changed + ([f"model {expected.model} -> {found.model}"] if other_model else [])


def compare(
    expected: Expectation, found: Expectation, missing: Mapping[str, str] | None = None, confidence: float = 0.95
) -> list[Difference]:
    """Compare every quantity of every cell, and give its verdict. Both must be of the same settings.

    The paired tests are two families: of single cells, and over all cells. Each has half of the level 1 - confidence
    (Bonferroni) and Holm's correction over its own tests (Holm 1979). So the few tests over all cells do not pay for
    the many of single ones.

    missing: label -> why the run has no finished record of that cell.
    """
    findings: list[Difference] = []
    both = {label: (cell, found.cells[label]) for label, cell in expected.cells.items() if label in found.cells}
    for label in expected.cells:
        if label in both:
            findings += _compare_cell(label, *both[label])
        else:
            detail = (missing or {}).get(label, "the grid that was asked for does not hold it")
            findings.append(Difference(label, "cell", "regression", "finished", "missing", detail))
    for label in sorted(found.cells.keys() - expected.cells.keys()):
        findings.append(Difference(label, "cell", "note", "none", "finished", "nothing is expected of it yet"))
    single = [
        pairs
        for label, (before, after) in both.items()
        for pairs in paired_tests.of_cell(label, before.answers, after.answers, expected.subjects)
    ]
    pooled = paired_tests.over_cells(single, paired_tests.models(both))
    level = (1 - confidence) / 2
    findings += [*_tested(single, level), *_tested(pooled, level), *_unseen(single, pooled, level)]
    unpaired = {name for cell in expected.cells.values() for name, answers in cell.answers.items() if not answers.pairs}
    for name in sorted(unpaired):
        findings.append(
            Difference("", name, "note", detail="holds no answers or NLLs to pair: only its items are compared")
        )
    if changed := [
        f"{name} {version} -> {found.versions.get(name)}"
        for name, version in expected.versions.items()
        if found.cells and found.versions.get(name) != version
    ]:
        findings.append(Difference("", "versions", "note", detail=", ".join(changed)))
    return findings


def regressions(findings: Sequence[Difference]) -> list[Difference]:
    """Return the findings that fail the gate."""
    return [finding for finding in findings if finding.verdict == "regression"]


def _compare_cell(label: str, expected: ExpectedCell, found: ExpectedCell) -> Iterator[Difference]:
    for quantity in ("data", "trainable_parameters", "layers", "r"):
        before, after = getattr(expected, quantity), getattr(found, quantity)
        yield Difference(label, quantity, "ok" if before == after else "regression", _text(before), _text(after))
    for name in sorted(expected.scores.keys() | found.scores.keys()):
        yield _compare_scores(label, name, expected.scores.get(name, []), found.scores.get(name, []))
    for name in sorted(expected.answers.keys() | found.answers.keys()):
        yield from _unpairable(label, name, expected.answers.get(name), found.answers.get(name))
    yield from _compare_costs(label, expected, found)


def _compare_scores(label: str, name: str, expected: list[float], found: list[float]) -> Difference:
    if len(expected) != len(found):
        return Difference(label, name, "regression", f"{len(expected)} numbers", f"{len(found)} numbers")
    deviations = [abs(a - b) / max(abs(a), abs(b)) if a != b else 0.0 for a, b in zip(expected, found, strict=True)]
    worst = max(range(len(deviations)), key=deviations.__getitem__)
    which = f"layer {worst} differs most," if len(deviations) > 1 else "differs"
    return Difference(
        label,
        name,
        "ok" if deviations[worst] <= SCORE_RTOL else "regression",
        f"{expected[worst]:.4g}",
        f"{found[worst]:.4g}",
        f"{which} by {deviations[worst]:.2g} of it; {SCORE_RTOL:.0%} is allowed",
    )


def _unpairable(label: str, name: str, expected: Answers | None, found: Answers | None) -> Iterator[Difference]:
    """Yield why an evaluation's answers cannot be paired, where they cannot."""
    if expected is None or found is None:
        yield Difference(label, name, "regression", _there(expected), _there(found), "it is scored on one side only")
    elif expected.items != found.items:
        yield Difference(label, name, "regression", expected.items, found.items, "other items were scored")
    elif expected.pairs and (bool(expected.right), bool(expected.nll)) != (bool(found.right), bool(found.nll)):
        yield Difference(label, name, "regression", detail="one side holds right and wrong, the other NLLs")


def _compare_costs(label: str, expected: ExpectedCell, found: ExpectedCell) -> Iterator[Difference]:
    for quantity, least in (("seconds", MIN_SECONDS), ("tokens", 1.0)):
        before, after = getattr(expected, quantity), getattr(found, quantity)
        ratio = max(after, least) / max(before, least)
        odd = not 1 / COST_RATIO <= ratio <= COST_RATIO
        detail = f"{ratio:.2f} times as many"
        yield Difference(label, quantity, "warning" if odd else "ok", f"{before:,.0f}", f"{after:,.0f}", detail)


def _tested(family: Sequence[Pairs], level: float) -> list[Difference]:
    """Return the verdicts of one family of paired tests, which need all of them at once."""
    comparisons = [pairs.compare() for pairs in family]
    adjusted = holm([comparison.p for comparison in comparisons])
    return [_verdict(*of_test, level) for of_test in zip(family, comparisons, adjusted, strict=True)]


def _verdict(pairs: Pairs, comparison: Comparison, p: float | None, level: float) -> Difference:
    assert p is not None
    significant = p < level
    if pairs.kind == "rows":
        before, after = 0.0, sum(pairs.apart()) / len(pairs.found)
        beyond = comparison.difference > 0
        detail = f"rows are {after:.5f} apart on average, {NLL_TOLERANCE:g} is allowed"
    else:
        before, after = (sum(side) / len(side) for side in (pairs.expected, pairs.found))
        tolerance = ACCURACY_TOLERANCE if pairs.kind == "accuracy" else NLL_TOLERANCE
        beyond = abs(comparison.difference) > tolerance
        interval = f"[{comparison.low:+.5f}, {comparison.high:+.5f}]"
        detail = f"{comparison.difference:+.5f} {interval}, {tolerance:g} is allowed"
    return Difference(
        "" if pairs.pooled else pairs.cells[0],
        f"{pairs.evaluation} {pairs.kind}" + (f" over {len(pairs.cells)} cells" if pairs.pooled else ""),
        "ok" if not beyond else "regression" if significant else "note",
        f"{before:.4f}",
        f"{after:.4f}",
        f"{detail}; p {p:.2g} after Holm" + ("" if significant else ", not significant"),
        comparison,
    )


def _unseen(single: Sequence[Pairs], pooled: Sequence[Pairs], level: float) -> Iterator[Difference]:
    """Yield a note on every evaluation where no test, or none of some single cells, can be significant."""
    together = {pairs.evaluation for pairs in pooled if pairs.least_p() * len(pooled) < level}
    for name in sorted({pairs.evaluation for pairs in single}):
        cells = {pairs.cells[0]: pairs for pairs in single if pairs.evaluation == name}
        blind = {label: pairs.least_p() for label, pairs in cells.items() if pairs.least_p() * len(single) >= level}
        if not blind:
            continue
        items = min(cells[label].items for label in blind)
        reach = f"{items} items, least p {max(blind.values()):.2g} before Holm over {len(single)} tests"
        if name in together:
            detail = f"a change in one cell alone cannot be seen in {len(blind)} of {len(cells)} cells: {reach}"
        elif len(blind) < len(cells):
            detail = f"cannot be seen in {len(blind)} of {len(cells)} cells: {reach}"
        else:
            detail = f"cannot be seen: {reach}, and {len(cells)} cells are too few to tell together"
        yield Difference("", name, "note", detail=detail)


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _there(answers: Answers | None) -> str:
    return "missing" if answers is None else "scored"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
