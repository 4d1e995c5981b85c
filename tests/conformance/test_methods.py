"""What every method must do, whoever wrote it."""

import json

import pytest
import torch

from floe_bench.harness import registry
from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.run.dry_run import plan_cell
from floe_bench.harness.run.grid import run_grid
from floe_bench.harness.run.progress import Progress
from floe_bench.harness.run.resolved import resolve_cell

METHODS = sorted(registry.plugins("method"))


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


def test_describes_itself_in_one_line(method):
    description = registry.find("method", method).description
    assert 10 <= len(description) <= 120 and "\n" not in description


def test_default_options_leave_the_name_bare(method):
    assert registry.parse_method(method).name == method


@pytest.mark.slow
def test_ends_in_a_valid_record(method, ran):
    run = ran(method)
    assert run.record.status == "ok", run.record.error
    assert run.session.store.record(run.cell, run.record.key) == run.record
    json.dumps(run.record.plan.model_dump(mode="json"), allow_nan=False)
    for name in run.session.settings.eval.evals:
        assert all(value == value for value in run.record.scores[name].metrics.values())


@pytest.mark.slow
def test_leaves_the_base_model_bit_for_bit_unchanged(method, ran):
    run = ran(method)
    after = run.session.base.state_dict()
    assert after.keys() == run.base_before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in run.base_before.items())


@pytest.mark.slow
def test_trains_exactly_what_was_planned_without_weights(method, ran, tmp_path):
    run = ran(method)
    planned = plan_cell(resolve_cell(run.session, Cell(method=method, mix="dolly", seed=0)))
    low, high = min(planned.trainable_parameters), max(planned.trainable_parameters)
    found = run.record.plan.trainable_parameters
    assert low <= found <= high
    if run.record.training:
        assert run.record.training.trainable_parameters == found
        assert run.record.training.total_parameters >= run.record.plan.base_parameters
    assert planned.status == "done"
    assert planned.stages_done == planned.stages_asked


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers(method, ran, ran_again):
    first, second = ran(method).record, ran_again(method).record
    assert first.key == second.key
    for name, score in first.scores.items():
        assert score.metrics == second.scores[name].metrics
    assert first.plan.model_copy(update={"cost_by_kind": {}}) == second.plan.model_copy(update={"cost_by_kind": {}})
    if first.training and second.training:
        assert first.training.loss_curve == second.training.loss_curve


@pytest.mark.slow
def test_is_charged_for_all_that_it_asked_for(method, ran):
    record = ran(method).record
    kinds = record.plan.cost_by_kind.values()
    assert record.planning_cost.tokens == sum(kind.tokens for kind in kinds)
    assert record.planning_cost.seconds == pytest.approx(sum(kind.seconds for kind in kinds))


@pytest.mark.slow
def test_is_not_run_twice(method, ran):
    run = ran(method)
    assert resolve_cell(run.session, run.cell).key == run.record.key
    outcome = run_grid(run.session, [run.cell], Progress())
    assert (outcome.ran, outcome.skipped) == (0, 1)
