"""What the gate's paired tests can reach, against the tests themselves."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from floe_bench.harness.gate import pairs
from floe_bench.harness.gate.expectation import Answers
from floe_bench.harness.gate.pairs import Pairs


def nlls(n: int, clusters=None) -> Pairs:
    before = np.linspace(2, 3, n)
    after = before + np.linspace(4, 6, n)
    return Pairs("v", "NLL", ("a",), n, after.tolist(), before.tolist(), clusters)


def lost(right: int, n: int, clusters=None) -> Pairs:
    return Pairs("m", "accuracy", ("a",), n, [0] * n, [1] * right + [0] * (n - right), clusters)


@pytest.mark.parametrize("n", [2, 4, 8, 13])
def test_the_least_p_is_that_of_a_change_in_all(n):
    assert nlls(n).least_p() == pytest.approx(nlls(n).compare().p)
    assert lost(n, n + 5).least_p() == pytest.approx(lost(n, n + 5).compare().p)
    pairs = [str(i // 2) for i in range(2 * n)]
    assert nlls(2 * n, pairs).least_p() == pytest.approx(nlls(2 * n, pairs).compare().p)


@pytest.mark.parametrize("n", [14, 40, 199])
def test_flips_at_random_have_a_floor_that_the_test_comes_near_to(n):
    assert nlls(n).least_p() <= nlls(n).compare().p <= 10 * nlls(n).least_p()


def test_the_t_test_of_many_and_mcnemar_have_none():
    assert nlls(200).compare().p < 1e-12 and nlls(200).least_p() == 0
    assert lost(40, 60).least_p() == pytest.approx(lost(40, 60).compare().p, rel=1e-6)


def test_nothing_that_could_be_lost_is_nothing_that_could_be_seen():
    assert lost(0, 57).least_p() == 1


def test_pooled_answers_keep_their_order_and_cluster_by_model_or_subject():
    answers = {"v": Answers(items="v", nll=[1.0, 2.0]), "m": Answers(items="m", right="011")}
    tests = [
        test for cell in ("a", "b", "c") for test in pairs.of_cell(cell, answers, answers, {"m": ["law", "law", "art"]})
    ]
    pooled = {test.kind: test for test in pairs.over_cells(tests, {"a": "a", "b": "a", "c": "c"})}
    assert pooled["NLL"].clusters == ["a", "a", "a", "a", "c", "c"] == pooled["rows"].clusters
    assert pooled["accuracy"].clusters == ["law", "law", "art"] * 3
    assert pooled["NLL"].found == [1.0, 2.0] * 3 and pooled["accuracy"].expected == [0, 1, 1] * 3
    assert {test.cells for test in pooled.values()} == {("a", "b", "c")}


def test_one_cell_is_not_pooled():
    answers = {"v": Answers(items="v", nll=[1.0, 2.0])}
    assert pairs.over_cells(list(pairs.of_cell("a", answers, answers, {})), {"a": "a"}) == []


@pytest.mark.slow
def test_noise_that_a_models_rows_share_stays_at_the_nominal_rate():
    """As rounding in a training makes it. Rows taken for independent would be flagged several times as often."""
    rng = np.random.default_rng(3)
    clustered, independent = [], []
    for _ in range(200):
        tests = [
            Pairs("v", "NLL", (f"m{i}",), 4, (2 + shift + rng.normal(0, 0.02, 4)).tolist(), [2.0] * 4, None)
            for i, shift in enumerate(rng.normal(0, 0.1, 16))
        ]
        (pooled,) = pairs.over_cells(tests, {f"m{i}": f"m{i}" for i in range(16)})
        clustered.append(pooled.compare().p < 0.05)
        independent.append(replace(pooled, clusters=None).compare().p < 0.05)
    assert sum(clustered) <= stats.binom.ppf(0.999, 200, 0.05) < sum(independent)
