"""Performance cliff: planted in the items along the layer counts."""

import pandas as pd
import pytest

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.report.checks import cliff

from .healthy import Run, add, fired, rows_nll

FRACTIONS = (0.125, 0.25, 0.5, 0.75, 1.0)


def curve(accuracies=(0.5,) * 5, nlls=(2.0,) * 5, fractions=FRACTIONS) -> Run:
    run = Run([], [])
    for count, (fraction, accuracy, nll) in enumerate(zip(fractions, accuracies, nlls, strict=True), 1):
        cell = Cell(method="floe", mix="dolly", seed=0, varied=(("selection.layer_fraction", fraction),))
        add(run, cell, accuracy, nll, layers=count)
    return run


def test_fires_on_accuracy_and_says_where():
    (finding,) = fired(cliff, curve(accuracies=(0.30, 0.31, 0.48, 0.49, 0.5)))
    assert "accuracy falls off between 3 and 2 adapted layers" in finding.message
    assert "worse by 0.17, 85% of all that the curve loses" in finding.message
    assert [label[-4:] for label in finding.cells] == ["0.25", "=0.5"]


def test_fires_on_nll():
    (finding,) = fired(cliff, curve(nlls=(3.0, 2.1, 2.05, 2.02, 2.0)))
    assert "validation NLL falls off between 2 and 1 adapted layers" in finding.message


@pytest.mark.parametrize(
    "changes",
    [
        {"accuracies": (0.3, 0.35, 0.4, 0.45, 0.5)},  # steady
        {"accuracies": (0.5, 0.48, 0.3, 0.3, 0.3)},  # better with fewer layers
        {"accuracies": (0.49, 0.5, 0.5, 0.5, 0.5)},  # one big share of next to nothing
        {"nlls": (2.01, 2.0, 2.0, 2.0, 2.0)},
    ],
)
def test_is_silent_on_a_steady_and_on_an_insignificant_fall(changes):
    assert fired(cliff, curve(**changes)) == []


def test_is_silent_on_a_curve_of_three_counts():
    run = curve(accuracies=(0.2, 0.6, 0.61), nlls=(3, 2, 1.9), fractions=FRACTIONS[:3])
    assert fired(cliff, run) == []


def test_curves_of_two_seeds_are_not_mixed():
    run = Run([], [])
    for seed, fractions in enumerate((FRACTIONS[:3], FRACTIONS[3:])):
        for fraction in fractions:
            cell = Cell(method="floe", mix="dolly", seed=seed, varied=(("selection.layer_fraction", fraction),))
            add(run, cell, accuracy=0.3 + 0.4 * seed, layers=FRACTIONS.index(fraction) + 1)
    assert fired(cliff, run) == []


def test_only_the_mixs_own_rows_count():
    run = curve()
    for i, record in enumerate(run.records):
        other = rows_nll(3.0 if i == 0 else 2.0).assign(mix="code")
        run.tables[record.cell.label, "validation_nll"] = pd.concat([other, rows_nll(2.0)])
    assert fired(cliff, run) == []
