"""Paired differences: by hand over items, tokens, seeds and subjects; and what does not pair."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from floe_bench.harness.contracts.record import Record
from floe_bench.harness.report import pairing

from ..records import MadeResults, record


class Items(MadeResults):
    """Made-up records with the items given for each, by method, seed and evaluation."""

    def __init__(self, items: dict[tuple[str, int, str], pd.DataFrame]):
        methods = sorted({(method, seed) for method, seed, _ in items})
        super().__init__([record(method, seed, 0.5) for method, seed in methods])
        self.given = items

    def items(self, record: Record, evaluation: str) -> pd.DataFrame:
        return self.given[record.cell.method, record.cell.seed, evaluation]

    @property
    def pairs(self) -> list[tuple[Record, Record]]:
        """floe with full, seed by seed."""
        by_cell = {(r.cell.method, r.cell.seed): r for r in self.records}
        return [(by_cell["floe", s], by_cell["full", s]) for s in sorted({r.cell.seed for r in self.records})]


def answers(right: list[int], subjects: str | None = None) -> pd.DataFrame:
    frame = pd.DataFrame({"answer": 0, "predicted": [1 - hit for hit in right]})
    return frame if subjects is None else frame.assign(subject=list(subjects))


def rows(nll: list[float], tokens: list[int], mixes: str = "") -> pd.DataFrame:
    names = [{"d": "dolly", "c": "code", "m": "medical"}[letter] for letter in mixes or "d" * len(nll)]
    return pd.DataFrame({"mix": names, "tokens": tokens, "nll": nll})


def of(evaluation: str, floe: list[pd.DataFrame], full: list[pd.DataFrame]) -> Items:
    """One frame a seed and side."""
    sides = {"floe": floe, "full": full}
    return Items({(name, s, evaluation): f for name, frames in sides.items() for s, f in enumerate(frames)})


def accuracy(results: Items, **arguments: Any):
    found = pairing.accuracy_difference(results, results, results.pairs, **arguments)
    assert found is not None
    return found


def nll(results: Items, **arguments: Any):
    found = pairing.nll_difference(results, results, results.pairs, **arguments)
    assert found is not None
    return found


# --- accuracy ---------------------------------------------------------------------------------------


def test_accuracy_is_a_minus_b_over_items():
    results = of("mmlu_0shot", [answers([1, 1, 1, 0, 0])], [answers([1, 0, 0, 1, 0])])
    found = accuracy(results)
    assert found.difference == pytest.approx(1 / 5) and found.clusters == 5
    assert found.p == pytest.approx(1.0)  # of three answers that differ two fall one way: all ways are as extreme


def test_a_ratio_scales_the_second_side():
    results = of("mmlu_0shot", [answers([1, 1, 1, 0, 0])], [answers([1, 0, 0, 1, 0])])
    assert accuracy(results, ratio=1.5).difference == pytest.approx(3 / 5 - 1.5 * 2 / 5)


def test_subjects_are_the_clusters_unless_there_is_but_one():
    sides = [1, 1, 1, 1, 1, 1, 1, 1], [0] * 8
    by_subject = [answers(list(side), "aabbccdd") for side in sides]
    found = accuracy(of("mmlu_0shot", by_subject[:1], by_subject[1:]))
    assert (found.clusters, found.n) == (4, 8) and found.p == pytest.approx(2 / 2**4)
    alone = [answers(list(side), "a" * 8) for side in sides]
    found = accuracy(of("mmlu_0shot", alone[:1], alone[1:]))
    assert found.clusters == 8 and found.p == pytest.approx(2 / 2**8)


def test_accuracy_over_seeds_is_the_mean_of_each_seeds_difference():
    floe = [answers([1, 1, 0, 0]), answers([1, 1, 1, 0])]
    full = [answers([1, 0, 0, 0]), answers([0, 0, 0, 1])]
    found = accuracy(of("mmlu_0shot", floe, full))
    assert found.difference == pytest.approx(((2 - 1) / 4 + (3 - 1) / 4) / 2) and found.seeds == 2


# --- NLL --------------------------------------------------------------------------------------------


def test_nll_is_nats_per_token_of_the_mixs_own_rows():
    """A row of 30 tokens counts three times one of 10; rows of another mix do not count."""
    tokens, mixes = [10, 30, 20], "ddc"
    results = of("validation_nll", [rows([22.0, 63.0, 99.0], tokens, mixes)], [rows([20.0, 60.0, 1.0], tokens, mixes)])
    found = nll(results)
    assert found.difference == pytest.approx((22 + 63) / 40 - (20 + 60) / 40) and found.n == 2


def test_a_mix_without_rows_of_its_own_is_compared_on_the_mean_over_mixes():
    tokens, mixes = [10, 30, 20], "ccm"
    results = of("validation_nll", [rows([22.0, 63.0, 42.0], tokens, mixes)], [rows([20.0, 60.0, 40.0], tokens, mixes)])
    assert nll(results).difference == pytest.approx((5 / 40 + 2 / 20) / 2)


def test_the_interval_and_p_of_equal_rows_are_students_and_of_all_sign_flips():
    changes = np.random.default_rng(0).normal(0.05, 0.1, 12)
    tokens = [10] * 12
    other = np.full(12, 20.0)
    results = of("validation_nll", [rows((other + 10 * changes).tolist(), tokens)], [rows(other.tolist(), tokens)])
    found = nll(results, confidence=0.9)
    expected = stats.t.interval(0.9, 11, changes.mean(), stats.sem(changes))
    assert (found.low, found.high) == pytest.approx(expected, abs=0.1 * (expected[1] - expected[0]))
    signs = np.array(np.meshgrid(*[[-1, 1]] * 12)).reshape(12, -1)
    at_least = np.abs(changes @ signs) >= abs(changes.sum()) - 1e-12
    assert found.p == pytest.approx(at_least.mean())


# --- what does not pair -----------------------------------------------------------------------------


@pytest.mark.parametrize("compare", [pairing.accuracy_difference, pairing.nll_difference])
def test_other_items_do_not_pair(compare):
    results = of("mmlu_0shot", [answers([1, 0])], [answers([1, 0])])
    ((first, second),) = results.pairs
    items = dict.fromkeys(("mmlu_0shot", "validation_nll"), "others")
    other = second.model_copy(update={"identity": {"items": items}})
    with pytest.raises(ValueError, match="dolly / floe / seed 0: the two sides scored other items"):
        compare(results, results, [(first, other)])


@pytest.mark.parametrize("compare", [pairing.accuracy_difference, pairing.nll_difference])
def test_a_side_without_the_score_gives_nothing(compare):
    results = of("mmlu_0shot", [answers([1, 0])], [answers([1, 0])])
    ((first, second),) = results.pairs
    assert compare(results, results, [(first, second.model_copy(update={"scores": {}}))]) is None


def test_an_evaluation_without_answers_has_no_accuracy():
    results = of("mmlu_0shot", [rows([1.0], [1])], [rows([1.0], [1])])
    assert pairing.accuracy_difference(results, results, results.pairs) is None


# --- columns and text -------------------------------------------------------------------------------


def test_columns_and_their_text():
    results = of("mmlu_0shot", [answers([1, 1, 1, 0, 0])], [answers([1, 0, 0, 1, 0])])
    found = accuracy(results)
    columns = pairing.columns("accuracy", found, 0.04)
    assert columns["accuracy_difference"] == found.difference and columns["accuracy_p"] == 0.04
    assert set(pairing.columns("nll", None, None).values()) == {None}
    frame = pd.DataFrame(
        {
            "x_difference": [0.1, -0.1, 0.1, None], "x_low": [0.05, -0.2, -0.1, None],
            "x_high": [0.15, -0.05, 0.2, None], "x_p": [0.01, 0.01, 0.05, None],
        }
    )  # fmt: skip
    assert pairing.differences_text(frame, "x", 100, 1)[1:] == ["-10.0 [-20.0, -5.0]", "+10.0 [-10.0, +20.0]", "–"]
    assert pairing.verdicts(frame, "x", 0.05, "more", "less") == ["more", "less", "tie", "–"]
    assert [pairing.p_text(p) for p in (0.0123, 1.0, None, np.nan)] == ["0.012", "1", "–", "–"]
