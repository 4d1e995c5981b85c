"""Rows against a reference: numbers by hand, one test per comparison made, ties as ties."""

import numpy as np
import pytest

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.experiments import cross_domain
from floe_bench.harness.experiments._contrasts import contrast, contrast_frame, contrast_notes, contrast_view
from floe_bench.harness.report.tables import view

RISE = np.array([0.1, 0.2, 0.1, 0.2, 0.1, 0.2, 0.1, 0.2])


def cell(method: str, seed: int = 0) -> Cell:
    return Cell(method=method, mix="dolly", seed=seed)


def rows(results, *methods: str, seeds: int = 1):
    reference = [cell("floe_layers", seed) for seed in range(seeds)]
    return [contrast(results, [cell(m, seed) for seed in range(seeds)], reference, name=m) for m in methods]


def test_differences_p_values_and_verdicts(made):
    results = made(cross_domain)
    results.add(cell("floe_layers"), [0, 1], nll=np.full(8, 2.0), right=[True] * 4 + [False] * 4)
    results.add(cell("worse"), [2, 3], nll=2.0 + RISE, right=[False] * 8)
    results.add(cell("also_worse"), [2, 3], nll=2.0 + RISE, right=[False] * 8)
    results.add(cell("alike"), [0, 1], nll=np.full(8, 2.0), right=[True] * 4 + [False] * 4)
    results.add(cell("hardly"), [3], nll=2.0 + RISE * np.tile([1, -1], 4), right=[True] * 4 + [False] * 4)
    frame = contrast_frame(results, rows(results, "floe_layers", "worse", "also_worse", "alike", "hardly", "missing"))
    assert list(frame["name"]) == ["floe_layers", "worse", "also_worse", "alike", "hardly"]
    assert list(frame["is"]) == ["reference", "compared", "compared", "same training", "compared"]
    worse = frame.iloc[1]
    assert worse["nll_difference"] == pytest.approx(0.15) and worse["accuracy_difference"] == pytest.approx(-0.5)
    # Sign flips of eight rows that all rise: p = 2/2^8. Four discordant questions: McNemar's p = 2/2^4. "worse" and
    # "also_worse" are one comparison, so Holm sees four tests: 2/2^8 is times 4, 2/2^4 times 3.
    assert worse["nll_p"] == pytest.approx(4 * 2 / 2**8) and worse["accuracy_p"] == pytest.approx(3 * 2 / 2**4)
    assert frame.iloc[2]["nll_p"] == worse["nll_p"]
    shown = view(frame, contrast_view(0.05))
    assert shown["NLL is"].tolist() == ["reference", "higher (worse)", "higher (worse)", "same training", "tie"]
    assert shown["Accuracy is"].tolist() == ["reference", "tie", "tie", "same training", "tie"]
    assert list(shown["Layers"]) == ["0 1", "2 3", "2 3", "0 1", "3"]


def test_a_row_without_its_reference_keeps_its_score_and_says_nothing_more(made):
    results = made(cross_domain)
    results.add(cell("alone"), [1], nll=[1.0, 3.0])
    frame = contrast_frame(results, rows(results, "alone"))
    assert frame["nll"].iloc[0] == pytest.approx(2.0) and np.isnan(float(frame["nll_p"].iloc[0] or "nan"))
    assert view(frame, contrast_view(0.05))["NLL is"].tolist() == ["–"]


def test_seeds_are_averaged_and_their_number_is_said(made):
    results = made(cross_domain, seeds=2)
    for seed, nll in enumerate((1.0, 3.0)):
        results.add(cell("floe_layers", seed), [0], nll=[1.0] * 4)
        results.add(cell("other", seed), [seed + 1], nll=[nll] * 4)
    frame = contrast_frame(results, rows(results, "other", seeds=2))
    assert frame["nll"].iloc[0] == pytest.approx(2.0) and frame["nll_difference"].iloc[0] == pytest.approx(1.0)
    assert frame["seeds"].iloc[0] == 2 and frame["layers"].iloc[0] == "1 | 2"
    assert any(note.startswith("2 seeds") for note in contrast_notes(results, "x"))
