"""Reduce a run to what the regression gate compares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from floe_bench.harness.contracts.record import PlanFacts, Record
from floe_bench.harness.contracts.tables import Results
from floe_bench.harness.spec.base import Data
from floe_bench.harness.store.keys import result_settings

if TYPE_CHECKING:
    import pandas as pd

EXPECTATION_VERSION = 1


class Answers(Data):
    """One evaluation's answers, in the order of its items.

    They are right or wrong as "1" and "0", or nats per token.
    """

    items: str = Field(description="digest of what was scored")
    right: str | None = None
    nll: list[float] | None = None

    @property
    def pairs(self) -> bool:
        """Return whether a paired test has anything to work on."""
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


# --- a run as an expectation -------------------------------------------------------------------------


def observe(profile: str, results: Results) -> Expectation:
    """Reduce the finished cells of a run to an expectation. It is empty where every cell failed."""
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
        trainable_parameters=record.plan.trainable_parameters,
        layers=list(record.plan.layers),
        r=record.plan.r,
        data=record.data.digest,
        scores=_scores(record.plan),
        answers=answers,
        seconds=round(
            spent.seconds
            + (training.seconds if training else 0.0)
            + sum(score.seconds for score in record.scores.values()),
            3,
        ),
        tokens=spent.tokens + (training.tokens if training else 0) + sum(s.tokens for s in record.scores.values()),
    )


def _scores(plan: PlanFacts) -> dict[str, list[float]]:
    """Return what planning measured: scores of layers, and the numbers of the selection."""
    selected = {name: [value] for name, value in plan.selected or ()}
    return plan.scores | selected


def _answers(frame: pd.DataFrame, items: str) -> Answers:
    if "predicted" in frame and "answer" in frame:
        right = frame["predicted"].to_numpy() == frame["answer"].to_numpy()
        return Answers(items=items, right="".join("01"[int(hit)] for hit in right))
    if "nll" in frame and "tokens" in frame:
        per_token = frame["nll"].to_numpy() / frame["tokens"].to_numpy()
        return Answers(items=items, nll=[round(float(nll), 6) for nll in per_token])
    return Answers(items=items)
