"""The regression gate: a run held against the expectation that was committed for it.

What a run decides is compared exactly (trainable parameters, picked layers, rank, data), layer scores within a
relative tolerance, NLL and right answers by paired tests over the same items. Costs only warn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from harness.contracts import Data, Record, Results
from harness.identity import result_settings
from harness.report.statistics import Comparison, compare_means, compare_right, holm

if TYPE_CHECKING:
    import pandas as pd

EXPECTATION_VERSION = 1

# A difference counts only where it is both significant and larger than this: between two machines rounding moves
# every row a little in the same direction, which a paired test alone would find significant.
NLL_TOLERANCE = 0.005
"""Nats per token, of the mean over rows and, apart from its sign, of single rows: a fault that helps one row and
hurts another leaves the mean alone. Measured on `tiny`: weights changed by 1e-6 of themselves move the mean by up to
0.0014 and rows by up to 0.0033, the planted faults rows by 0.004 to 0.015."""
ACCURACY_TOLERANCE = 0.01
"""As a fraction: one point."""
SCORE_RTOL = 0.01
"""Of each layer's score, relative to the larger of the two. On `tiny` weights changed by 1e-6 move it by up to 0.0006,
the planted faults by 0.3 and more."""
COST_RATIO = 2.0
"""Above it, or below its inverse, a cell's seconds or tokens draw a warning."""
MIN_SECONDS = 10.0
"""Below it a duration says more of the machine's other work than of the code."""

Verdict = Literal["ok", "regression", "warning", "note"]


class Answers(Data):
    """One evaluation's answers, in the order of its items: right or wrong as "1" and "0", or nats per token."""

    items: str = Field(description="digest of what was scored")
    right: str | None = None
    nll: list[float] | None = None

    @property
    def pairs(self) -> bool:
        """Whether a paired test has anything to work on."""
        return max(len(self.right or ()), len(self.nll or ())) > 1


class ExpectedCell(Data):
    """What one finished cell decided, answered and cost."""

    trainable_parameters: int
    layers: list[int]
    r: int | None
    data: str = Field(description="digest of the mix's rows")
    scores: dict[str, list[float]] = Field(description="name -> one number per layer, or a single one")
    answers: dict[str, Answers]
    seconds: float
    tokens: int


class Expectation(Data):
    """A run, reduced to what the gate compares. Cells go by their label."""

    expectation_version: int = EXPECTATION_VERSION
    profile: str
    settings: dict[str, Any] = Field(description="those that can change a result")
    model: str | None = Field(description="identity of the weights")
    versions: dict[str, str]
    subjects: dict[str, list[str]] = Field(description="digest of items -> the subject of each, where they have one")
    cells: dict[str, ExpectedCell]


@dataclass(frozen=True)
class Finding:
    """One quantity of one cell: what was expected, what was found, and what that means.

    comparison: of a paired test; `beyond` says whether its difference exceeds what is allowed.
    """

    cell: str
    quantity: str
    verdict: Verdict
    expected: str = ""
    found: str = ""
    detail: str = ""
    comparison: Comparison | None = None
    beyond: bool = False


# --- a run as an expectation -------------------------------------------------------------------------


def observe(profile: str, results: Results) -> Expectation:
    """The finished cells of a run, as an expectation; where every cell failed it holds none."""
    subjects: dict[str, list[str]] = {}
    cells: dict[str, ExpectedCell] = {}
    for record in results.records:
        answers = {}
        for evaluation in record.scores:
            frame = results.items(record, evaluation)
            answers[evaluation] = _answers(frame, record.identity["items"][evaluation])
            if "subject" in frame:
                subjects[answers[evaluation].items] = frame["subject"].tolist()
        cells[record.cell.label] = _expected_cell(record, answers)
    newest = max(results.records, key=lambda record: record.provenance["time"], default=None)
    return Expectation(
        profile=profile,
        settings=result_settings(results.settings),
        model=newest.identity["model"] if newest else None,
        versions=newest.identity["versions"] if newest else {},
        subjects=subjects,
        cells=cells,
    )


def _expected_cell(record: Record, answers: dict[str, Answers]) -> ExpectedCell:
    spent = record.planning_cost
    training = record.training
    return ExpectedCell(
        trainable_parameters=record.plan["trainable_parameters"],
        layers=record.plan["layers"],
        r=record.plan["r"],
        data=record.data["digest"],
        scores=_scores(record.plan["details"]),
        answers=answers,
        seconds=round(
            spent.seconds
            + (training.seconds if training else 0.0)
            + sum(score.seconds for score in record.scores.values()),
            3,
        ),
        tokens=spent.tokens + (training.tokens if training else 0) + sum(s.tokens for s in record.scores.values()),
    )


def _scores(details: Mapping[str, Any]) -> dict[str, list[float]]:
    """What planning measured: scores of layers, and single numbers such as selection's objective."""
    lists = {name: [value] if isinstance(value, float) else value for name, value in details.items()}
    return {
        name: value
        for name, value in lists.items()
        if isinstance(value, list) and value and all(isinstance(number, (int, float)) for number in value)
    }


def _answers(frame: pd.DataFrame, items: str) -> Answers:
    if "predicted" in frame and "answer" in frame:
        right = frame["predicted"].to_numpy() == frame["answer"].to_numpy()
        return Answers(items=items, right="".join("01"[int(hit)] for hit in right))
    if "nll" in frame and "tokens" in frame:
        per_token = frame["nll"].to_numpy() / frame["tokens"].to_numpy()
        return Answers(items=items, nll=[round(float(nll), 6) for nll in per_token])
    return Answers(items=items)


# --- comparison ---------------------------------------------------------------------------------------


def differing_settings(expected: Expectation, found: Expectation) -> list[str]:
    """ "train.epochs 1.0 -> 2.0" of every setting, and of the model, in which the two were run differently."""
    before, after = _flat(expected.settings), _flat(found.settings)
    changed = [
        f"{key} {before.get(key)} -> {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    other_model = found.model is not None and found.model != expected.model
    return changed + ([f"model {expected.model} -> {found.model}"] if other_model else [])


def compare(
    expected: Expectation, found: Expectation, failures: Mapping[str, str] | None = None, confidence: float = 0.95
) -> list[Finding]:
    """Every quantity of every cell, with its verdict; both must be of the same settings.

    A paired test counts at the level 1 - confidence after Holm's correction over all of them (Holm 1979).
    failures: label -> error of the cells that failed.
    """
    findings: list[Finding] = []
    for label, cell in expected.cells.items():
        if label in found.cells:
            findings += _compare_cell(label, cell, found.cells[label], expected.subjects)
        else:
            error = (failures or {}).get(label)
            detail = f"it failed: {error}" if error else "the run has no finished record of it"
            findings.append(Finding(label, "cell", "regression", "finished", "missing", detail))
    for label in found.cells.keys() - expected.cells.keys():
        findings.append(Finding(label, "cell", "note", "none", "finished", "nothing is expected of it yet"))
    unpaired = {name for cell in expected.cells.values() for name, answers in cell.answers.items() if not answers.pairs}
    for name in sorted(unpaired):
        findings.append(
            Finding("", name, "note", detail="holds no answers or NLLs to pair: only its items are compared")
        )
    if changed := [
        f"{name} {version} -> {found.versions.get(name)}"
        for name, version in expected.versions.items()
        if found.cells and found.versions.get(name) != version
    ]:
        findings.append(Finding("", "versions", "note", detail=", ".join(changed)))
    return _judged(findings, 1 - confidence)


def regressions(findings: Sequence[Finding]) -> list[Finding]:
    """Those that fail the gate."""
    return [finding for finding in findings if finding.verdict == "regression"]


def _compare_cell(
    label: str, expected: ExpectedCell, found: ExpectedCell, subjects: Mapping[str, list[str]]
) -> Iterator[Finding]:
    for quantity in ("data", "trainable_parameters", "layers", "r"):
        before, after = getattr(expected, quantity), getattr(found, quantity)
        yield Finding(label, quantity, "ok" if before == after else "regression", _text(before), _text(after))
    for name in expected.scores.keys() | found.scores.keys():
        yield _compare_scores(label, name, expected.scores.get(name, []), found.scores.get(name, []))
    for name in expected.answers.keys() | found.answers.keys():
        yield from _compare_answers(label, name, expected.answers.get(name), found.answers.get(name), subjects)
    yield from _compare_costs(label, expected, found)


def _compare_scores(label: str, name: str, expected: list[float], found: list[float]) -> Finding:
    if len(expected) != len(found):
        return Finding(label, name, "regression", f"{len(expected)} numbers", f"{len(found)} numbers")
    deviations = [abs(a - b) / max(abs(a), abs(b)) if a != b else 0.0 for a, b in zip(expected, found, strict=True)]
    worst = max(range(len(deviations)), key=deviations.__getitem__)
    which = f"layer {worst} differs most," if len(deviations) > 1 else "differs"
    return Finding(
        label,
        name,
        "ok" if deviations[worst] <= SCORE_RTOL else "regression",
        f"{expected[worst]:.4g}",
        f"{found[worst]:.4g}",
        f"{which} by {deviations[worst]:.2g} of it; {SCORE_RTOL:.0%} is allowed",
    )


def _compare_answers(
    label: str, name: str, expected: Answers | None, found: Answers | None, subjects: Mapping[str, list[str]]
) -> Iterator[Finding]:
    if expected is None or found is None:
        yield Finding(label, name, "regression", _there(expected), _there(found), "it is scored on one side only")
    elif expected.items != found.items:
        yield Finding(label, name, "regression", expected.items, found.items, "other items were scored")
    elif not expected.pairs:
        return
    elif expected.right and found.right:
        clusters = subjects.get(expected.items)
        clusters = clusters if clusters and len(set(clusters)) > 1 else None
        a, b = ([int(hit) for hit in right] for right in (found.right, expected.right))
        yield _compare_means(label, f"{name} accuracy", a, b, compare_right(a, b, clusters), ACCURACY_TOLERANCE)
    elif expected.nll and found.nll:
        a, b = found.nll, expected.nll
        yield _compare_means(label, f"{name} NLL", a, b, compare_means(a, b), NLL_TOLERANCE)
        yield _compare_rows(label, f"{name} rows", a, b)
    else:
        yield Finding(label, name, "regression", detail="one side holds right and wrong, the other NLLs")


def _compare_means(
    label: str, quantity: str, a: Sequence[float], b: Sequence[float], comparison: Comparison, tolerance: float
) -> Finding:
    interval = f"{comparison.difference:+.5f} [{comparison.low:+.5f}, {comparison.high:+.5f}]"
    return Finding(
        label,
        quantity,
        "ok",
        f"{sum(b) / len(b):.4f}",
        f"{sum(a) / len(a):.4f}",
        f"{interval}, {tolerance:g} is allowed",
        comparison,
        beyond=abs(comparison.difference) > tolerance,
    )


def _compare_rows(label: str, quantity: str, a: Sequence[float], b: Sequence[float]) -> Finding:
    """How far apart single rows are, whatever the sign, against what is allowed."""
    apart = [abs(after - before) for after, before in zip(a, b, strict=True)]
    comparison = compare_means(apart, [NLL_TOLERANCE] * len(apart))
    mean = f"{sum(apart) / len(apart):.5f}"
    detail = f"rows are {mean} apart on average, {NLL_TOLERANCE:g} is allowed"
    return Finding(label, quantity, "ok", "0", mean, detail, comparison, beyond=comparison.difference > 0)


def _compare_costs(label: str, expected: ExpectedCell, found: ExpectedCell) -> Iterator[Finding]:
    for quantity, least in (("seconds", MIN_SECONDS), ("tokens", 1.0)):
        before, after = getattr(expected, quantity), getattr(found, quantity)
        ratio = max(after, least) / max(before, least)
        odd = not 1 / COST_RATIO <= ratio <= COST_RATIO
        detail = f"{ratio:.2f} times as many"
        yield Finding(label, quantity, "warning" if odd else "ok", f"{before:,.0f}", f"{after:,.0f}", detail)


def _judged(findings: Sequence[Finding], alpha: float) -> list[Finding]:
    """The paired tests' verdicts, which need all of them at once."""
    adjusted = iter(holm([f.comparison.p for f in findings if f.comparison]))
    return [_with_p(finding, next(adjusted), alpha) if finding.comparison else finding for finding in findings]


def _with_p(finding: Finding, p: float | None, alpha: float) -> Finding:
    assert p is not None
    significant = p < alpha
    return replace(
        finding,
        verdict="ok" if not finding.beyond else "regression" if significant else "note",
        detail=f"{finding.detail}; p {p:.2g} after Holm" + ("" if significant else ", not significant"),
    )


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _there(answers: Answers | None) -> str:
    return "missing" if answers is None else "scored"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
