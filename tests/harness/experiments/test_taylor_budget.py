"""The sweep of the Taylor budget."""

from itertools import combinations

import numpy as np
import pytest

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.experiments import taylor_budget
from floe_bench.harness.floe import selection
from floe_bench.harness.spec import profiles

FISHER, TAYLOR = [4.0, 1.0, 3.0, 2.0], [0.4, 0.1, 0.3, 0.2]


def cell(c: float | None = None, seed: int = 0) -> Cell:
    varied = () if c is None else (("selection.taylor_budget", c),)
    return Cell(method="floe_layers", mix="dolly", seed=seed, varied=varied)


def add(made, c, layers, **answers):
    reached = selection.objective(FISHER, layers)
    selected = {
        "taylor_budget": c or 0.5, "taylor_spent": sum(TAYLOR[k] for k in layers), "objective": reached,
        "greedy_objective": reached,
    }  # fmt: skip
    scores = {"fisher": FISHER, "taylor": TAYLOR}
    return made.add(cell(c), layers, **answers, k=2, scores=scores, selected=selected)


def test_cells_are_the_profiles_own_budget_and_the_grid_from_one_layers_share_on():
    settings = profiles.load(
        "tiny",
        {
            "mixes": "dolly,code", "seeds": 2, "study.taylor_budgets": [0.1, 0.2, 0.5, 0.7],
            "selection.taylor_budget": 0.5,
        },
    )  # fmt: skip
    cells = taylor_budget.cells(settings)
    assert len(cells) == 2 * 2 * 3
    assert cells[:3] == [cell(), cell(0.25), cell(0.7)]


@pytest.mark.parametrize("n_layers", [3, 4, 26, 30, 32, 49])
def test_at_the_least_budget_a_layer_always_fits(n_layers):
    settings = profiles.load("tiny", {"study.taylor_budgets": [0.0], "model.config.num_hidden_layers": n_layers})
    (least,) = taylor_budget.budgets(settings)
    generator = np.random.default_rng(0)
    for taylor in (np.ones(n_layers), *generator.lognormal(size=(50, n_layers))):
        assert taylor.min() <= least * taylor.sum()


@pytest.mark.parametrize(("n_layers", "k"), [(1, 1), (5, 2), (8, 3), (9, 9)])
def test_feasible_sets_are_those_that_counting_finds(n_layers, k):
    taylor = tuple(np.random.default_rng(n_layers).exponential(size=n_layers).tolist())
    budgets = tuple(share * sum(taylor) for share in (0.05, 0.2, 0.4, 0.7, 1.0))
    sums = [sum(subset) for subset in combinations(taylor, k)]
    expected = [sum(total <= budget * (1 + 1e-9) for total in sums) / len(sums) for budget in budgets]
    assert taylor_budget.feasible_shares(taylor, budgets, k) == pytest.approx(expected)


def test_sets_of_too_many_layers_are_not_counted():
    assert taylor_budget.feasible_shares((1.0,) * 41, (3.0, 5.0), 4) == (None, None)


def test_the_finer_sweep_reaches_the_exact_optimum_of_every_budget(made):
    results = made(taylor_budget, mixes="dolly")
    add(results, None, [1, 2])
    rows = taylor_budget.sweep_frame(results).to_dict("records")
    assert [row["k"] for row in rows] == [2] * 20
    for row in rows:
        feasible = [
            subset
            for size in (1, 2)
            for subset in combinations(range(4), size)
            if sum(TAYLOR[k] for k in subset) <= row["c"] + 1e-9
        ]
        if not feasible:
            assert row["n_layers"] == 0 and row["binds"]
            continue
        best = min(sum(FISHER[k] for k in range(4) if k not in subset) for subset in feasible)
        assert row["fisher_left_out"] == pytest.approx(best / sum(FISHER))
    assert next(row["c"] for row in rows if not row["binds"]) == 0.7  # what layers 0 and 2 hold of all Taylor


def test_rows_are_compared_with_the_profiles_own_budget(made):
    results = made(taylor_budget, mixes="dolly")
    rows = np.linspace(1, 3, 12)
    add(results, None, [1, 2], nll=rows)
    add(results, 0.3, [2], nll=rows + 0.1)
    add(results, 0.6, [1, 2], nll=rows)
    frame = taylor_budget.trained_frame(results).set_index("c")
    assert frame["is"].to_dict() == {0.3: "compared", 0.5: "reference", 0.6: "same training"}
    assert frame.loc[0.3, "nll_difference"] == pytest.approx(0.1)
    assert frame["nll_p"].lt(0.05).tolist() == [True, False, False]
    assert frame["nll_p"].isna().tolist() == [False, True, True]
    assert frame.loc[0.3, "taylor_spent"] == pytest.approx(0.3)
    assert frame.loc[0.3, "fisher_left_out"] == pytest.approx(0.7)
    assert frame.loc[0.5, "n_layers"] == 2


def test_without_its_reference_a_row_has_scores_and_no_difference(made):
    results = made(taylor_budget, mixes="dolly")
    add(results, 0.3, [2], nll=[2.0, 3.0])
    (trained, _) = taylor_budget.tables(results)
    assert trained.frame["nll"].tolist() == [2.5] and trained.frame["nll_difference"].isna().tolist() == [True]


@pytest.mark.slow
def test_runs_for_real(ran_experiment, tmp_path):
    budgets = {"selection__taylor_budget": 0.5, "study__taylor_budgets": [0.1, 1.0]}
    _, (trained, sweep) = ran_experiment(taylor_budget, tmp_path, mixes="dolly", **budgets)
    assert trained.frame["c"].tolist() == pytest.approx([0.25, 0.5, 1.0])
    assert trained.frame["taylor_spent"].is_monotonic_increasing
    assert not trained.frame["taylor_spent"].gt(trained.frame["c"] + 1e-9).any()
    assert sweep.frame["feasible_share"].is_monotonic_increasing
