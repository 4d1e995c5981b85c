"""The gate's verdicts, on expectations made by hand."""

from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from floe_bench.harness.gate import text, verdicts
from floe_bench.harness.gate.expectation import Answers, Expectation, ExpectedCell
from floe_bench.harness.gate.pairs import NLL_TOLERANCE
from floe_bench.harness.gate.verdicts import SCORE_RTOL, Difference

LABEL = "dolly / floe / seed 0"
RNG = np.random.default_rng(0)
NLL = (2 + RNG.normal(size=40)).tolist()
RIGHT = "01" * 60


def cell(**changes) -> ExpectedCell:
    content = {
        "trainable_parameters": 100, "layers": [1, 3], "r": 4, "data": "d", "scores": {"taylor": [1.0, 2.0, 3.0, 4.0]},
        "answers": {"validation_nll": Answers(items="v", nll=NLL), "mmlu": Answers(items="m", right=RIGHT)},
        "seconds": 100.0, "tokens": 1000,
    }  # fmt: skip
    return ExpectedCell.model_validate(content | changes)


def run(*, label: str = LABEL, versions: dict | None = None, settings: dict | None = None, **changes) -> Expectation:
    return Expectation(
        profile="tiny", settings=settings or {"train": {"epochs": 1.0}}, model="w", versions=versions or {"torch": "2"},
        subjects={"m": [f"subject {i // 2}" for i in range(len(RIGHT))]}, cells={label: cell(**changes)},
    )  # fmt: skip


def with_nll(nll) -> Expectation:
    return run(answers={**cell().answers, "validation_nll": Answers(items="v", nll=list(nll))})


def with_right(right: str) -> Expectation:
    return run(answers={**cell().answers, "mmlu": Answers(items="m", right=right)})


def odd_verdicts(found: Expectation, expected: Expectation | None = None, **arguments) -> dict[str, str]:
    findings = verdicts.compare(expected or run(), found, **arguments)
    return {finding.quantity: finding.verdict for finding in findings if finding.verdict != "ok"}


def finding(found: Expectation, quantity: str) -> Difference:
    return next(f for f in verdicts.compare(run(), found) if f.quantity == quantity)


def test_the_same_run_is_ok_in_every_quantity():
    findings = verdicts.compare(run(), run())
    assert {f.verdict for f in findings} == {"ok"}
    assert {f.quantity for f in findings} == {
        "data", "trainable_parameters", "layers", "r", "taylor", "validation_nll NLL", "validation_nll rows",
        "mmlu accuracy", "seconds", "tokens",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("quantity", "value"), [("trainable_parameters", 101), ("layers", [1, 2]), ("r", 5), ("r", None), ("data", "e")]
)
def test_what_a_run_decides_is_exact(quantity, value):
    assert odd_verdicts(run(**{quantity: value})) == {quantity: "regression"}


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1 + 0.9 * SCORE_RTOL, {}), (1 + 1.2 * SCORE_RTOL, {"taylor": "regression"})]
)
def test_scores_have_a_relative_tolerance_in_every_layer(factor, verdict):
    assert odd_verdicts(run(scores={"taylor": [1.0 * factor, 2.0, 3.0, 4.0]})) == verdict


def test_a_score_that_is_gone_or_new_or_zero_on_both_sides():
    assert odd_verdicts(run(scores={})) == {"taylor": "regression"}
    assert odd_verdicts(run(scores={"taylor": [1, 2, 3, 4], "fisher": [1.0]})) == {"fisher": "regression"}
    zero = run(scores={"even": [0.0, 1.0]})
    assert odd_verdicts(zero, zero) == {}


def test_a_small_drift_of_every_row_is_significant_and_yet_no_regression():
    found = with_nll(np.array(NLL) + 0.5 * NLL_TOLERANCE)
    shown = finding(found, "validation_nll NLL")
    assert shown.comparison is not None and shown.comparison.p < 0.001 and shown.verdict == "ok"


@pytest.mark.parametrize("sign", [1, -1])
def test_a_large_drift_is_a_regression_whichever_its_sign(sign):
    """An unexplained improvement is as much a change as a loss."""
    found = with_nll(np.array(NLL) + sign * 2 * NLL_TOLERANCE)
    assert odd_verdicts(found) == {"validation_nll NLL": "regression", "validation_nll rows": "regression"}


def test_rows_that_move_apart_without_moving_the_mean_are_a_regression():
    found = with_nll(np.array(NLL) + 4 * NLL_TOLERANCE * np.tile([1, -1], 20))
    assert odd_verdicts(found) == {"validation_nll rows": "regression"}


def test_a_large_difference_that_one_row_makes_is_noted_as_not_significant():
    nll = list(NLL)
    nll[0] += 1.0
    assert odd_verdicts(with_nll(nll)) == {"validation_nll NLL": "note", "validation_nll rows": "note"}


def test_accuracy_by_the_paired_test_not_by_the_difference():
    """Two answers of 120 lost are 1.7 points and could be luck; thirty could not."""
    assert odd_verdicts(with_right(RIGHT.replace("1", "0", 2))) == {"mmlu accuracy": "note"}
    assert odd_verdicts(with_right(RIGHT.replace("1", "0", 30))) == {"mmlu accuracy": "regression"}


@pytest.mark.slow
def test_holm_is_over_every_paired_test_of_the_run():
    """One cell's p of 0.03 counts alone, but not as one of a hundred cells that have none."""
    rng = np.random.default_rng(1)
    while True:
        moved = np.array(NLL) + rng.normal(0.02, 0.06, len(NLL))
        p = stats.ttest_rel(moved, NLL).pvalue
        if 0.005 < p < 0.01:
            break
    rest = {f"dolly / m{i} / seed 0": cell() for i in range(100)}
    expected, found = run(), with_nll(moved)
    assert odd_verdicts(found)["validation_nll NLL"] == "regression"
    many = [e.model_copy(update={"cells": e.cells | rest}) for e in (expected, found)]
    assert odd_verdicts(many[1], many[0])["validation_nll NLL"] == "note"


def test_other_items_are_a_regression_as_they_do_not_pair():
    answers = {**cell().answers, "mmlu": Answers(items="others", right=RIGHT)}
    assert odd_verdicts(run(answers=answers)) == {"mmlu": "regression"}
    assert odd_verdicts(run(answers={"mmlu": cell().answers["mmlu"]})) == {"validation_nll": "regression"}


def test_an_evaluation_without_answers_is_noted_once():
    answers = {**cell().answers, "router": Answers(items="r")}
    findings = verdicts.compare(run(answers=answers), run(answers=answers))
    assert [(f.cell, f.quantity) for f in findings if f.verdict != "ok"] == [("", "router")]


# --- over all cells -----------------------------------------------------------------------------------


def grid(n: int = 16, *, nll=(2.0, 3.0, 2.5, 2.2), right: str = "1" * 11 + "0" * 46) -> Expectation:
    """n cells of four rows and 57 questions, as on the tiny profile; every cell's NLLs are its own."""
    cells = {
        f"dolly / m{i} / seed 0": cell(
            answers={
                "pretrain_nll": Answers(items="p", nll=[value + 0.01 * i for value in nll]),
                "mmlu": Answers(items="q", right=right),
            }
        )
        for i in range(n)
    }
    return run().model_copy(update={"cells": cells})


def test_a_fault_in_every_cell_is_seen_where_no_cell_has_the_items_to_show_it():
    """Four rows can reach p = 1/8 at least, 11 lost answers 1/1024 before a correction for 48 tests."""
    wrong = grid(nll=(7.0, 8.0, 7.5, 7.2))
    assert {f.quantity for f in verdicts.regressions(verdicts.compare(grid(), wrong))} == {
        "pretrain_nll NLL over 16 cells", "pretrain_nll rows over 16 cells",
    }  # fmt: skip
    wrong = grid(right="0" * 57)
    assert {f.quantity for f in verdicts.regressions(verdicts.compare(grid(), wrong))} == {
        "mmlu accuracy over 16 cells"
    }


def test_one_question_that_flips_in_every_cell_is_one_question():
    """Cells start from the same weights: a tie among them breaks alike, on average 1.75 points and over the point."""
    findings = verdicts.compare(grid(), grid(right="1" * 10 + "0" * 47))
    (pooled,) = (f for f in findings if f.quantity == "mmlu accuracy over 16 cells")
    assert pooled.verdict == "note" and pooled.comparison is not None and pooled.comparison.p == 1


def test_cells_that_scored_one_model_are_one_piece_of_evidence():
    """Sixteen copies of a cell say no more than it does: by their number alone p would be 2^-15."""
    before, after = (
        e.model_copy(update={"cells": dict.fromkeys(grid().cells, next(iter(e.cells.values())))})
        for e in (grid(), grid(nll=(7.0, 8.0, 7.5, 7.2)))
    )
    assert not [f for f in verdicts.regressions(verdicts.compare(before, after)) if "pretrain" in f.quantity]


def test_what_no_test_can_see_is_said():
    notes = {f.quantity: f.detail for f in verdicts.compare(grid(), grid()) if f.verdict == "note"}
    assert notes.keys() == {"pretrain_nll", "mmlu"}
    assert notes["pretrain_nll"].startswith("a change in one cell alone cannot be seen in 16 of 16 cells: 4 items")
    assert notes["mmlu"].startswith("a change in one cell alone cannot be seen in 16 of 16 cells: 57 items")
    notes = {f.quantity: f.detail for f in verdicts.compare(grid(2), grid(2)) if f.verdict == "note"}
    assert notes.keys() == {"pretrain_nll"} and notes["pretrain_nll"].startswith("cannot be seen: 4 items")
    assert odd_verdicts(grid(2, nll=(7.0, 8.0, 7.5, 7.2)), grid(2))["pretrain_nll"] == "note"


def test_the_order_of_findings_is_that_of_names():
    """And not that of a set of strings, which Python hashes anew in every process."""
    names = [f"s{i}" for i in range(20)]
    many = run(scores={name: [1.0] for name in reversed(names)})
    assert [f.quantity for f in verdicts.compare(many, many) if f.quantity in names] == sorted(names)


# --- what is missing, costs, text ---------------------------------------------------------------------


def test_a_missing_cell_fails_with_its_error_and_an_extra_one_is_noted():
    found = run(label="dolly / new / seed 0")
    findings = verdicts.compare(run(), found, {LABEL: "ValueError: so it is"})
    assert [(f.cell, f.verdict) for f in findings] == [(LABEL, "regression"), ("dolly / new / seed 0", "note")]
    assert "ValueError: so it is" in findings[0].detail


def test_costs_warn_by_their_ratio_only_and_not_where_they_are_small():
    assert odd_verdicts(run(seconds=190.0, tokens=1900)) == {}
    assert odd_verdicts(run(seconds=210.0, tokens=400)) == {"seconds": "warning", "tokens": "warning"}
    assert odd_verdicts(run(seconds=9.0), run(seconds=0.1)) == {}
    assert not verdicts.regressions(verdicts.compare(run(), run(seconds=1000.0)))


def test_other_versions_are_noted_and_other_settings_are_named():
    assert odd_verdicts(run(versions={"torch": "3"})) == {"versions": "note"}
    other = run(settings={"train": {"epochs": 2.0}})
    assert verdicts.differing_settings(run(), other) == ["train.epochs 1.0 -> 2.0"]
    assert verdicts.differing_settings(run(), run()) == []


@pytest.mark.slow
def test_false_alarms_of_clean_noise_stay_at_the_nominal_rate():
    """Rows that move at random around no change, larger than the tolerance: the paired tests, not it, must hold."""
    rng = np.random.default_rng(2)
    runs = [with_nll(np.array(NLL) + rng.normal(0, 0.05, len(NLL))) for _ in range(40)]
    flagged = sum(odd_verdicts(found).get("validation_nll NLL") == "regression" for found in runs)
    assert flagged <= stats.binom.ppf(0.999, 40, 0.05)


def test_markdown_says_what_failed_first():
    markdown = text.to_markdown("check tiny", verdicts.compare(run(), run(r=5, seconds=1000.0)))
    assert markdown.startswith("## check tiny: REGRESSION\n\n10 quantities compared: 1 regression, 1 warning, 0 notes.")
    rows = [[part.strip() for part in line.split("|")[1:6]] for line in markdown.splitlines() if line.startswith("| ")]
    assert rows[1] == ["regression", LABEL, "r", "4", "5"] and rows[2][0] == "warning"
    assert text.to_markdown("check tiny", verdicts.compare(run(), run())).startswith("## check tiny: ok")


def test_junit_has_a_case_per_quantity_and_a_failure_per_regression():
    findings = verdicts.compare(run(), run(r=5, seconds=1000.0))
    suite = ElementTree.fromstring(text.to_junit("tiny", findings))
    assert suite.tag == "testsuite" and suite.get("tests") == "10" and suite.get("failures") == "1"
    (failed,) = (case for case in suite if case.find("failure") is not None)
    assert (failed.get("classname"), failed.get("name")) == (f"tiny.{LABEL}", "r")
    assert [case.get("name") for case in suite if case.find("system-out") is not None] == ["seconds"]
