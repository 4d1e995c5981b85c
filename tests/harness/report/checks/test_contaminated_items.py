"""Contaminated items: planted overlap, scores counted by hand."""

import pandas as pd

from floe_bench.harness.contracts.record import DataFacts, Overlap
from floe_bench.harness.report.checks import contaminated_items

from .healthy import fired

LABEL = "dolly / floe / seed 0"


def plant(run, label, indices, right, n=10):
    """`n` questions of which those at `right` are answered right, and those at `indices` overlap."""
    record = run.record(label)
    overlap = {"mmlu_0shot": Overlap(n=13, items=tuple(indices), of=n)}
    run.change(label, data=record.data.model_copy(update={"overlap": overlap}))
    predicted = [0 if i in right else 1 for i in range(n)]
    run.tables[label, "mmlu_0shot"] = pd.DataFrame({"answer": 0, "predicted": predicted})


def test_fires_with_the_clean_score_beside_the_full_one(run):
    plant(run, LABEL, [1, 2], right={1, 2, 3, 4})
    (finding,) = fired(contaminated_items, run)
    assert "2 of 10 items share 13 words in a row with the training rows of dolly" in finding.message
    assert "guessing gives 25%" in finding.message and finding.cells == (LABEL,)
    # Wilson at 95 %, published tables: 4/10 -> 16.8 to 68.7; 2/8 -> 7.1 to 59.1; 2/2 -> 34.2 to 100
    assert "40.0% (16.8% to 68.7%), 25.0% (7.1% to 59.1%), 100.0% (34.2% to 100.0%)" in finding.message


def test_cells_of_one_mix_are_told_together(run):
    for label in (LABEL, "dolly / lora / seed 0"):
        plant(run, label, [0], right={0})
    (finding,) = fired(contaminated_items, run)
    assert finding.cells == ("dolly / lora / seed 0", LABEL) and finding.message.count("10.0%") == 2


def test_all_items_overlapping_leaves_no_clean_score(run):
    plant(run, LABEL, list(range(10)), right={0})
    (finding,) = fired(contaminated_items, run)
    assert "none left" in finding.message


def test_rows_without_right_or_wrong_have_their_nll(run):
    run.change(LABEL, data=DataFacts(overlap={"validation_nll": Overlap(n=13, items=(0,), of=3)}))
    run.tables[LABEL, "validation_nll"] = pd.DataFrame({"nll": [1.0, 30.0, 60.0], "tokens": [10, 10, 20]})
    (finding,) = fired(contaminated_items, run)
    assert "NLL 2.275, NLL 3.000, NLL 0.100" in finding.message


def test_is_silent_on_records_that_did_not_measure_it(run):
    run.change(LABEL, data=DataFacts(digest="d"))
    assert fired(contaminated_items, run) == []
