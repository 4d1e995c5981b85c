"""Test the same items before and after a change, in one cell and in all cells together.

A change can be small in every cell, or show in an evaluation of few items. One cell's test is too weak for it after
the correction for as many tests as there are cells. So each evaluation is also tested over all cells at once. What
repeats from cell to cell is not independent, and the clusters follow from that:

- NLL by model. Both sides have the same items, and the test speaks of no others. Rounding in one training moves all
  rows of its model together, so trainings are what repeats independently. All cells start from the same weights, so
  they share a part of the noise. NLL_TOLERANCE is for that part.
- Right and wrong by subject, or by question where subjects hold one each. A question on which the base model is near
  a tie flips in every cell at once. One point of tolerance does not cover that: cells would count it many times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from floe_bench.harness.gate.expectation import Answers, ExpectedCell
from floe_bench.harness.stats.paired import Comparison, compare_means, compare_right
from floe_bench.harness.stats.resampling import SIGN_FLIPS, T_TEST_CLUSTERS

# A difference counts only where it is significant and also larger than this. Between two machines, rounding moves
# every row a little in the same direction. A paired test alone would find that significant.
NLL_TOLERANCE = 0.005
"""Nats per token, for the mean over rows and for the size of single rows' changes. A fault that helps one row and hurts
another leaves the mean alone. Measured on `tiny`: weights changed by 1e-6 of themselves move the mean by up to 0.0014
and rows by up to 0.0033. The planted faults move rows by 0.004 to 0.015."""
ACCURACY_TOLERANCE = 0.01
"""As a fraction: one point."""

Kind = Literal["accuracy", "NLL", "rows"]
"""Right and wrong, nats per token, or how far single rows' nats per token are apart."""


@dataclass(frozen=True)
class Pairs:
    """The answers of one paired test.

    found, expected: (n,), 0 or 1 for an accuracy, else nats per token. cells: labels of the cells that they come from.
    items: how many there are in each cell. clusters: (n,) labels of what is independent, None where every item is.
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
        """Compare found with expected. For rows, compare how far apart they are with what is allowed."""
        if self.kind == "accuracy":
            return compare_right(self.found, self.expected, self.clusters)
        if self.kind == "NLL":
            return compare_means(self.found, self.expected, self.clusters)
        return compare_means(self.apart(), [NLL_TOLERANCE] * len(self.found), self.clusters)

    def apart(self) -> list[float]:
        """Return |found - expected| of each item."""
        return [abs(after - before) for after, before in zip(self.found, self.expected, strict=True)]

    def least_p(self) -> float:
        """Return the least p that the test can reach.

        Then every cluster changes, and for accuracies every right answer is lost. All n clusters on one side have
        p = 2^(1-n) by sign flips and by McNemar. Where flips are drawn at random, p is no less than one draw allows.
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
    """Yield the tests of one cell: of every evaluation whose answers on both sides are of the same items."""
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
    """Return one test per quantity over all the cells that have it, where several do.

    models: the label of a cell -> that of the model it scored. Cells that share one count as one cluster.
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
    """Return label -> label of the first cell with the same answers before and after: both scored one model.

    So does `base` on every mix, and so do two methods that come to the same adapter.
    """
    first: dict[str, str] = {}
    answers = {label: repr([sorted(side.answers.items()) for side in sides]) for label, sides in cells.items()}
    return {label: first.setdefault(given, label) for label, given in answers.items()}


def _shared(test: Pairs, models: Mapping[str, str]) -> Sequence[str]:
    """Return what each of a cell's answers shares with other answers in the run."""
    if test.kind != "accuracy":
        return [models[test.cells[0]]] * test.items
    return test.clusters or [f"item {i}" for i in range(test.items)]
