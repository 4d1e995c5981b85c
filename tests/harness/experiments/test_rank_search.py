"""TPE's rank search replayed on stored curves."""

from itertools import permutations, product

import numpy as np
import pytest
from scipy.stats import friedmanchisquare

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.plan import Searched, Trial
from floe_bench.harness.experiments import rank_search
from floe_bench.harness.floe.rank_search import exhaustive, search
from floe_bench.harness.spec import profiles

from ..records import history

CURVE = {2: 1.5, 3: 1.2, 4: 1.0, 5: 1.1, 6: 1.4}


def cell(seed: int = 0) -> Cell:
    return Cell(method="grid_rank:step=1", mix="dolly", seed=seed)


def add(made, curve, seed=0):
    made.add(
        cell(seed),
        [0],
        searched=history(curve),
    )


def test_cells_search_every_rank():
    assert rank_search.cells(profiles.load("tiny", {"mixes": "dolly", "seeds": 2})) == [cell(0), cell(1)]


@pytest.mark.parametrize("u", [1, 2, 3, 5])
def test_random_search_has_the_regret_of_all_orders_of_the_ranks(u):
    orders = list(permutations(CURVE.values()))
    values, chances = rank_search.random_regrets(CURVE, u)
    best = [min(order[:u]) - 1.0 for order in orders]
    assert values @ chances == pytest.approx(np.mean(best))
    for value, chance in zip(values, chances, strict=True):
        assert chance == pytest.approx(np.mean(np.isclose(best, value)))


def test_random_draws_find_a_rank_as_often_as_counting_says():
    draws = list(product(range(4), repeat=3))
    assert rank_search.random_found(4, 3) == pytest.approx(np.mean([0 in drawn for drawn in draws]))
    assert 4 * rank_search.random_found(4, 3) == pytest.approx(np.mean([len(set(drawn)) for drawn in draws]))


def test_a_search_cut_short_is_the_whole_one_as_far_as_ranks_go():
    settings = profiles.load("tiny", {"search.trials": 70, "study.repeated_searches": 3})
    curve = {r: 2 + 0.01 * (r - 9) ** 2 for r in range(2, 17)}
    for seed, found in enumerate(rank_search.replayed(curve, settings)):
        whole = search(curve.__getitem__, 2, 16, 70, seed)
        assert (found.ranks, found.r) == (whole.ranks, whole.r)


def test_regret_is_that_of_the_best_so_far_and_stays_where_a_search_stops():
    found = exhaustive(CURVE.__getitem__, [6, 3, 5])
    assert rank_search.regrets(CURVE, found).tolist() == pytest.approx([0.4, 0.2, 0.1, 0.1, 0.1])


def test_searches_of_all_trials_find_the_optimum_and_of_one_as_often_as_it_comes_first(made):
    many = made(rank_search, mixes="dolly", search__trials=60, study__repeated_searches=6)
    one = made(rank_search, mixes="dolly", search__trials=1, study__repeated_searches=20)
    for results in (many, one):
        add(results, CURVE)
    (row,) = rank_search.tables(many)[0].frame.to_dict("records")
    assert (row["best_r"], row["found"], row["regret_max"], row["at_edge"]) == (4, 1.0, 0.0, False)
    assert row["random_unique_to_best"] == 3.0 and row["range"] == pytest.approx(0.5)
    first = [search(CURVE.__getitem__, 2, 6, 1, seed).r for seed in range(20)]
    (row,) = rank_search.tables(one)[0].frame.to_dict("records")
    assert row["found"] == first.count(4) / 20 and row["unique_mean"] == 1.0
    assert row["regret_mean"] == pytest.approx(np.mean([CURVE[r] - 1.0 for r in first]))


def test_a_rank_that_diverged_is_not_on_the_curve_and_no_search_prefers_it(made):
    trials = (*history(CURVE).trials, Trial(number=5, r=7, value=None, reused=False))
    hole = (*trials[:2], Trial(number=2, r=4, value=None, reused=False), *trials[3:])
    for searched, best in ((trials, 4), (hole, 5)):
        results = made(rank_search, mixes="dolly", search__trials=60, study__repeated_searches=4)
        found = Searched(trials=searched, unique_trainings=6, optimum_at_edge=False)
        results.add(cell(), [0], searched=found)
        outcome, progress, curve, _ = (table.frame for table in rank_search.tables(results))
        assert outcome["best_r"].tolist() == [best] and outcome["found"].tolist() == [1.0]
        assert set(curve["r"]) == {trial.r for trial in searched if trial.value is not None}
        assert np.isfinite(progress[["tpe_mean", "random_mean"]].to_numpy()).all()


def test_progress_ends_without_regret_where_every_rank_was_tried(made):
    results = made(rank_search, mixes="dolly", search__trials=60, study__repeated_searches=4)
    add(results, CURVE)
    frame = rank_search.tables(results)[1].frame
    assert frame["unique_trainings"].tolist() == [1, 2, 3, 4, 5]
    assert frame[["tpe_mean", "random_mean"]].iloc[-1].tolist() == [0.0, 0.0]
    assert frame["tpe_mean"].is_monotonic_decreasing and frame["random_mean"].is_monotonic_decreasing
    assert frame["random_q10"].iloc[0] == 0.0 and frame["random_q90"].iloc[0] == pytest.approx(0.5)


def test_noise_between_two_seeds_is_that_of_their_difference(made):
    results = made(rank_search, mixes="dolly", seeds=2, study__repeated_searches=1)
    noise = np.random.default_rng(0).normal(scale=0.01, size=5)
    second = {r: value + 0.3 + shift for (r, value), shift in zip(CURVE.items(), noise, strict=True)}
    add(results, CURVE, 0)
    add(results, second, 1)
    (row,) = rank_search.tables(results)[3].frame.to_dict("records")
    assert row["noise_sd"] == pytest.approx(np.std(noise, ddof=1) / np.sqrt(2))
    expected = friedmanchisquare(*zip(CURVE.values(), second.values(), strict=True)).pvalue
    assert row["friedman_p"] == pytest.approx(expected)


@pytest.mark.slow
def test_runs_for_real(ran_experiment, tmp_path):
    results, made_tables = ran_experiment(rank_search, tmp_path, mixes="dolly", study__repeated_searches=5)
    outcome, progress, curve, flatness = (table.frame for table in made_tables)
    assert curve["r"].tolist() == [2, 3, 4] and len(progress) == 3 and len(flatness) == 1
    assert outcome["best_r"].tolist() == [results.records[0].plan.r]
