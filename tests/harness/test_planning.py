"""Estimates against arithmetic by hand."""

import pytest

from harness import profiles
from harness.contracts import Cell
from harness.planning import plan_cell
from harness.store import Store
from harness.workbench import Workbench

BASE = 16_112


def planned(tmp_path, method: str, **overrides):
    settings = profiles.load("tiny", overrides)
    bench = Workbench(settings, Store(tmp_path, "tiny"), progress=lambda text: None)
    assert bench.base_parameters == BASE
    return bench, plan_cell(bench, Cell(method=method, mix="dolly", seed=0))


def estimated_tokens(bench) -> int:
    rows = bench.mix("dolly").train
    return sum(min(256, len(row.prompt + row.completion) // 4 + 40) for row in rows)


def test_full_fine_tuning_costs_six_flops_per_weight_and_token(tmp_path):
    bench, plan = planned(tmp_path, "full")
    assert plan.training_tokens == estimated_tokens(bench)
    assert plan.flops == 6 * BASE * plan.training_tokens
    assert plan.trainable_parameters == (BASE,)


def test_the_backward_pass_stops_at_the_lowest_adapted_layer(tmp_path):
    """The last two of four layers: forward 2 P, backward 2 P / 2, and 6 p for the adapter's own weights."""
    _, plan = planned(tmp_path, "topk_layers:score=last")
    (p,) = plan.trainable_parameters
    assert plan.layers == 2
    assert plan.flops == pytest.approx(plan.training_tokens * (2 * BASE + 2 * BASE * 2 / 4 + 6 * p))


def test_memory_is_weights_optimiser_activations_and_logits(tmp_path):
    _, plan = planned(tmp_path, "full")
    tokens = 8 * 256
    assert plan.memory_bytes == 4 * BASE + 16 * BASE + 34 * tokens * 16 * 4 + 10 * tokens * 259


def test_epochs_multiply_training(tmp_path):
    _, once = planned(tmp_path / "a", "lora")
    _, thrice = planned(tmp_path / "b", "lora", **{"train.epochs": 3})
    assert thrice.training_tokens == 3 * once.training_tokens
    assert thrice.flops == pytest.approx(3 * once.flops)


def test_a_search_is_planned_stage_by_stage(tmp_path):
    _, plan = planned(tmp_path, "grid_rank", **{"search.r_min": 2, "search.r_max": 8})
    assert plan.stages_asked == {"pilot": 1, "measure": 2, "probe": 4, "training": 1}
    assert plan.stages_done == {"pilot": 0, "measure": 0, "probe": 0, "training": 0}
    assert plan.ranks == (2, 8) and plan.trainable_parameters[0] < plan.trainable_parameters[1]
    assert plan.status == "to do" and plan.planning_tokens > 0


def test_planning_needs_no_data_and_writes_nothing(tmp_path):
    """From the hub nothing is read: sizes are the published ones."""
    _, plan = planned(tmp_path, "floe", **{"data.source": "hub", "data.train_rows": None, "data.max_length": 1024})
    assert plan.status == "unknown"
    assert plan.training_tokens == int(15_011 * 0.8) * 190
    assert not list(tmp_path.iterdir())
