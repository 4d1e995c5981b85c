"""The gate's paired tests: the same items answered before and after a change, in one cell and in all cells together.

A change that shows a little in every cell, or in an evaluation of few items, is too weak for one cell's test after the
correction for as many tests as there are cells. So each evaluation is also tested over all cells at once. What repeats
from cell to cell is not independent, and the clusters are chosen after what does:

- NLL by model. The items are the same on both sides and no others are spoken of, while rounding in one training moves
  all rows of its model together; trainings are what repeats independently. A part of the noise that all cells share,
  as they start from the same weights, is what NLL_TOLERANCE is for.
- Right and wrong by subject, or by question where subjects hold one each. A question on which the base model is near a
  tie flips in every cell at once, which one point of tolerance does not cover: cells would count it many times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from floe_bench.harness.gate.expectation import Answers, ExpectedCell
from floe_bench.harness.stats.paired import Comparison, compare_means, compare_right
from floe_bench.harness.stats.resampling import SIGN_FLIPS, T_TEST_CLUSTERS

# A difference counts only where it is both significant and larger than this: between two machines rounding moves
# every row a little in the same direction, which a paired test alone would find significant.
NLL_TOLERANCE = 0.005
"""Nats per token, of the mean over rows and, apart from its sign, of single rows: a fault that helps one row and
hurts another leaves the mean alone. Measured on `tiny`: weights changed by 1e-6 of themselves move the mean by up to
0.0014 and rows by up to 0.0033, the planted faults rows by 0.004 to 0.015."""
ACCURACY_TOLERANCE = 0.01
"""As a fraction: one point."""

Kind = Literal["accuracy", "NLL", "rows"]
"""Right and wrong, nats per token, or how far single rows' nats per token are apart."""


@dataclass(frozen=True)
class Pairs:
    """The answers of one paired test: (n,) found and expected, 0 or 1 for an accuracy, else nats per token.

    cells: labels of the cells that they come from. items: how many there are in each cell.
    clusters: (n,) labels of what is independent, None where every item is.
    """

    evaluation: str
    kind: Kind
    cells: tuple[str, ...]
    items: int
    found: Sequence[float]
    expected: Sequence[float]
    clusters: Sequence[str] | None

    @property
    def pooled(self) -> bool:
        return len(self.cells) > 1

    def compare(self) -> Comparison:
        """Found against expected; of rows, how far they are apart against what is allowed."""
        if self.kind == "accuracy":
            return compare_right(self.found, self.expected, self.clusters)
        if self.kind == "NLL":
            return compare_means(self.found, self.expected, self.clusters)
        return compare_means(self.apart(), [NLL_TOLERANCE] * len(self.found), self.clusters)

    def apart(self) -> list[float]:
        """|found - expected| of each item."""
        return [abs(after - before) for after, before in zip(self.found, self.expected, strict=True)]

    def least_p(self) -> float:
        """The least p that the test can reach: every cluster changes, of accuracies every right answer is lost.

        All n clusters on one side have p = 2^(1-n) by sign flips and by McNemar; where flips are drawn at random no
        less than one draw allows.
        """
        labels = self.clusters or range(len(self.expected))
        pairs = zip(labels, self.expected, strict=True)
        n = len({label for label, before in pairs if before or self.kind != "accuracy"})
        exact = min(1.0, 2.0 ** (1 - n))
        if self.kind == "accuracy" and self.clusters is None:
            return exact
        return 0.0 if n >= T_TEST_CLUSTERS else max(exact, 2 / (SIGN_FLIPS + 1))


def of_cell(
    cell: str, expected: Mapping[str, Answers], found: Mapping[str, Answers], subjects: Mapping[str, Sequence[str]]
) -> Iterator[Pairs]:
    """The tests of one cell: of every evaluation whose answers on both sides are of the same items."""
    for name in sorted(expected.keys() & found.keys()):
        before, after = expected[name], found[name]
        if before.items != after.items or not before.pairs:
            continue
        if before.right and after.right:
            clusters = subjects.get(before.items)
            clusters = clusters if clusters and len(set(clusters)) > 1 else None
            a, b = ([int(hit) for hit in right] for right in (after.right, before.right))
            yield Pairs(name, "accuracy", (cell,), len(a), a, b, clusters)
        elif before.nll and after.nll:
            for kind in ("NLL", "rows"):
                yield Pairs(name, kind, (cell,), len(after.nll), after.nll, before.nll, None)


def over_cells(tests: Sequence[Pairs], models: Mapping[str, str]) -> list[Pairs]:
    """One test per quantity over all the cells that have it, where several do.

    models: the label of a cell -> that of the model it scored; cells that share one count as one cluster.
    """
    groups: dict[tuple[str, Kind], list[Pairs]] = {}
    for test in tests:
        groups.setdefault((test.evaluation, test.kind), []).append(test)
    pooled = []
    for (evaluation, kind), group in groups.items():
        clusters = [label for test in group for label in _shared(test, models)]
        if len(group) > 1 and len(set(clusters)) > 1:
            found = [value for test in group for value in test.found]
            expected = [value for test in group for value in test.expected]
            cells = tuple(cell for test in group for cell in test.cells)
            pooled.append(Pairs(evaluation, kind, cells, max(t.items for t in group), found, expected, clusters))
    return pooled


def models(cells: Mapping[str, tuple[ExpectedCell, ExpectedCell]]) -> dict[str, str]:
    """Label -> label of the first cell with the same answers before and after: both scored one model.

    So does `base` on every mix, and two methods that come to the same adapter.
    """
    first: dict[str, str] = {}
    answers = {label: repr([sorted(side.answers.items()) for side in sides]) for label, sides in cells.items()}
    return {label: first.setdefault(given, label) for label, given in answers.items()}


def _shared(test: Pairs, models: Mapping[str, str]) -> Sequence[str]:
    """What each of a cell's answers shares with other answers in the run."""
    if test.kind != "accuracy":
        return [models[test.cells[0]]] * test.items
    return test.clusters or [f"item {i}" for i in range(test.items)]
