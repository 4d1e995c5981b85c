"""What scoring costs over depth."""

import pytest

from floe_bench.harness.contracts.record import Cost, Stage
from floe_bench.harness.errors import UsageError
from floe_bench.harness.experiments import scoring_cost
from floe_bench.harness.report.format import MISSING
from floe_bench.harness.spec import profiles


def timed(made, cost, repeats=(1.0, 1.2, 1.1)):
    """Results whose scorers took `cost(L)` seconds for 100 tokens, times the repeat's factor."""

    class Timed(type(made)):
        def stages(self, record):
            depth, factor = record.plan.n_layers, repeats[record.cell.seed]
            return [
                Stage(
                    kind="measure", key=scorer, identity={"scorer": f"floe_bench.harness.floe.importance.{scorer}"},
                    cost=Cost(seconds=factor * cost(depth), tokens=100),
                )
                for scorer in scoring_cost.SCORERS
            ]  # fmt: skip

    results = Timed(made.settings, made.cells)
    for cell in made.cells:
        depth = dict(cell.varied)["model.config.num_hidden_layers"]
        results.add(cell, n_layers=depth, base_parameters=5000 + 300 * depth)
    return results


def test_cells_are_random_models_of_each_depth_repeated_and_scored_by_nothing_else():
    settings = profiles.load("tiny", {"study.depths": [2, 4]})
    cells = scoring_cost.cells(settings)
    assert [(c.seed, c.varied[0][1]) for c in cells] == [(s, d) for s in (0, 1, 2) for d in (2, 4)]
    varied = profiles.vary(settings, dict(cells[0].varied))
    assert varied.model.config["num_hidden_layers"] == 2 and varied.model.source == "random"
    assert varied.eval.evals == ("validation_nll",) and varied.eval.primary == "validation_nll"
    assert varied.data.train_rows == 16 and varied.data.calibration_rows == 8  # the profile's own are fewer


def test_a_model_path_is_refused():
    with pytest.raises(UsageError, match="leave --model-path out"):
        scoring_cost.cells(profiles.load("tiny", {"model.path": "weights"}))


@pytest.mark.parametrize("power", [1, 2])
def test_the_planted_power_of_l_is_found_from_the_least_of_the_repeats(made, power):
    results = timed(made(scoring_cost, study__depths=[2, 4, 8, 16]), lambda depth: 3.0 * depth**power)
    cost, trend = (table.frame for table in scoring_cost.tables(results))
    fisher = cost[cost["scorer"] == "fisher_gradients"]
    assert fisher["seconds_per_token"].tolist() == pytest.approx([0.03 * depth**power for depth in (2, 4, 8, 16)])
    assert fisher["ratio"].tolist() == pytest.approx(fisher[{1: "ratio_linear", 2: "ratio_quadratic"}[power]].tolist())
    assert fisher["full_fisher_bytes"].tolist()[-1] == 4 * (16 * 300) ** 2
    assert trend["exponent"].tolist() == pytest.approx([power] * 3)
    assert (trend["line_quadratic_p"] < 0.05).all() == (power == 2)


def test_two_depths_give_costs_and_no_exponent(made):
    cost, trend = scoring_cost.tables(timed(made(scoring_cost, study__depths=[2, 4]), float))
    assert len(cost.frame) == 6 and trend.frame.empty


def test_one_depth_gives_its_cost_and_no_size_of_a_layer(made):
    cost, trend = scoring_cost.tables(timed(made(scoring_cost, study__depths=[2]), float))
    assert cost.view["Full parameter Fisher GB"].tolist() == [MISSING] * 3 and trend.frame.empty


@pytest.mark.slow
def test_runs_for_real(ran_experiment, tmp_path):
    _, (cost, trend) = ran_experiment(scoring_cost, tmp_path, study__depths=[1, 2, 3])
    fisher = cost.frame[cost.frame["scorer"] == "fisher_gradients"]
    assert fisher["depth"].tolist() == [1, 2, 3] and fisher["timings"].eq(3).all()
    assert len(trend.frame) == 3
