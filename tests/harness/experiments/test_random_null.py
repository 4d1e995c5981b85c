"""FLoE's layers among random ones."""

from itertools import combinations

import pytest
from scipy.stats import binomtest

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.experiments import random_null
from floe_bench.harness.spec import profiles

FISHER = [4.0, 1.0, 3.0, 2.0, 7.0]


def cell(method: str) -> Cell:
    return Cell(method=method, mix="dolly", seed=0)


def draw(i: int) -> Cell:
    return cell(f"random_layers:draw={i}" if i else "random_layers")


def test_cells_are_the_judged_methods_and_every_draw():
    settings = profiles.load("tiny", {"mixes": "dolly,code", "seeds": 2, "study.random_draws": 3})
    cells = random_null.cells(settings)
    assert len(cells) == 2 * 2 * 5
    assert cells[:5] == [cell("floe_layers"), cell("topk_layers"), draw(0), draw(1), draw(2)]


def test_a_method_is_placed_by_the_draws_at_least_as_good(made):
    results = made(random_null, mixes="dolly", study__random_draws=10)
    results.add(cell("floe_layers"), [0], nll=[2.5, 2.5], right=[True, True, False, False], scores={"fisher": FISHER})
    for i in range(10):
        hits = [True, True, True, True] if i == 0 else [True, True, False, False] if i == 1 else [False] * 4
        results.add(draw(i), [i % 4, 4], nll=[i + 1.0, i + 1.0], right=hits)
    frame = random_null.places_frame(results).set_index("score")
    assert frame.loc["nll", "at_least_as_good"] == 0.2  # 1 and 2 are below 2.5
    assert frame.loc["accuracy", "at_least_as_good"] == 0.2  # one above, one tie
    exact = binomtest(2, 10).proportion_ci(method="exact")
    for score in ("nll", "accuracy"):
        assert (frame.loc[score, "low"], frame.loc[score, "high"]) == pytest.approx((exact.low, exact.high))
    assert frame.loc["nll", ["n_layers", "k", "draws", "distinct_sets"]].tolist() == [1, 2, 10, 4]
    assert frame.loc["nll", ["null_q0", "null_q50", "null_q100"]].tolist() == [1.0, 5.5, 10.0]


@pytest.mark.parametrize(("sign", "expected"), [(1, 1.0), (-1, -1.0)])
def test_an_objective_that_orders_the_scores_correlates_with_them(made, sign, expected):
    results = made(random_null, mixes="dolly")
    results.add(cell("floe_layers"), [0, 4], scores={"fisher": FISHER})
    sets = list(combinations(range(5), 3))
    left_out = [sum(FISHER[k] for k in range(5) if k not in subset) for subset in sets]
    for i, (subset, cost) in enumerate(zip(sets, left_out, strict=True)):
        results.add(draw(i), subset, nll=[5 + sign * cost / 100] * 2)
    (row,) = random_null.objective_frame(results).to_dict("records")  # accuracy is constant: no row
    assert row["spearman"] == pytest.approx(expected) and row["distinct_sets"] == 10


def test_draws_without_the_judged_method_are_listed_and_nothing_is_placed(made):
    results = made(random_null, mixes="dolly")
    results.add(draw(0), [0, 1])
    places, order, draws = random_null.tables(results)
    assert places.frame.empty and order.frame.empty and draws.frame["layers"].tolist() == ["0 1"]


def test_the_note_speaks_of_the_draws_that_are_finished(made):
    results = made(random_null, mixes="dolly", study__random_draws=50)
    results.add(cell("floe_layers"), [0, 1], scores={"fisher": FISHER})
    for i in range(3):
        results.add(draw(i), [i, 4])
    note = random_null.tables(results)[0].notes[0]
    assert note.startswith("With 3 finished draws, ") and "at most 71% of all sets" in note  # 1 - 0.025^(1/3)


@pytest.mark.slow
def test_runs_for_real(ran_experiment, tmp_path):
    _, (places, _, draws) = ran_experiment(random_null, tmp_path, mixes="dolly", study__random_draws=3)
    assert len(draws.frame) == 3 and places.frame["method"].unique().tolist() == ["floe_layers", "topk_layers"]
    assert places.frame["at_least_as_good"].between(places.frame["low"], places.frame["high"]).all()
