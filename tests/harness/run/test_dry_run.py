"""Estimates against arithmetic by hand."""

import pytest

from floe_bench.baselines._stages import moe_lora
from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.data.sources import open_source
from floe_bench.harness.errors import UsageError
from floe_bench.harness.floe.importance import fisher_gradients
from floe_bench.harness.run.dry_run import DryInputs, dry_plan, plan_cell
from floe_bench.harness.run.method_inputs import probe_rows
from floe_bench.harness.run.resolved import resolve_cell
from floe_bench.harness.run.session import Session
from floe_bench.harness.spec import profiles
from floe_bench.harness.store.folder import Store

BASE = 16_112


def planned(tmp_path, method: str, **overrides):
    settings = profiles.load("tiny", overrides)
    session = Session(settings, Store(tmp_path, "tiny"))
    assert session.base_parameters == BASE
    return session, plan_cell(resolve_cell(session, Cell(method=method, mix="dolly", seed=0)))


def estimated_tokens(session) -> int:
    rows = session.mix("dolly").train
    return sum(min(256, len(row.prompt + row.completion) // 4 + 40) for row in rows)


def test_full_fine_tuning_costs_six_flops_per_weight_and_token(tmp_path):
    session, plan = planned(tmp_path, "full")
    assert plan.training_tokens == estimated_tokens(session)
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


def asked(tmp_path, method: str, **overrides):
    _, plan = planned(tmp_path, method, **overrides)
    return plan.stages_asked


def test_every_sample_and_every_parameter_has_measures_of_its_own(tmp_path):
    everything = "fisher+true_fisher+parameter_diagonal+gradient_norm+taylor"
    assert asked(tmp_path, f"layer_scores:scores={everything}") == {"pilot": 1, "measure": 5}
    assert asked(tmp_path, "floe_layers:fisher=true:part=1:parts=2") == {"pilot": 1, "measure": 3, "training": 1}


def test_measures_under_pilots_of_different_shapes_are_told_apart(tmp_path):
    session, _ = planned(tmp_path, "base")
    inputs = DryInputs(resolve_cell(session, Cell(method="base", mix="dolly", seed=0)))
    for r in (2, 3, 2):
        inputs.measure(fisher_gradients, on="task", pilot=moe_lora(inputs, r=r))
    assert inputs.asked == {"pilot": 2, "measure": 2}


def test_the_pilot_of_a_part_costs_its_part(tmp_path):
    """Half of the rows in memory, and half of the published number where nothing is read."""
    hub = {"data.source": "hub", "data.train_rows": None, "data.calibration_rows": 1, "data.pretrain_rows": 1}
    whole, half = (
        planned(tmp_path, f"layer_scores:scores=fisher{part}", **hub)[1].planning_tokens for part in ("", ":parts=2")
    )
    assert half == pytest.approx(whole / 2, rel=0.01)


@pytest.mark.parametrize(
    ("method", "overrides", "message"),
    [
        ("floe_layers:parts=17", {}, "too few for 17 disjoint parts"),
        ("floe", {"search.probe_rows": 1000}, "search.probe_rows"),
        ("lora:match=floe", {"search.probe_rows": 1000}, "search.probe_rows"),
    ],
)
def test_too_few_rows_are_known_before_anything_is_spent(method, overrides, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        planned(tmp_path, method, **overrides)


def test_rows_of_the_hub_are_counted_once_they_are_read(tmp_path):
    """A plan reads nothing from the hub; a run has read all that it needs, and checks it as it does a folder's."""
    settings = profiles.load("tiny", {"data.source": "hub"})
    session = Session(settings, Store(tmp_path, "tiny"))
    cell = Cell(method="floe_layers:parts=17", mix="dolly", seed=0)
    dry_plan(resolve_cell(session, cell))
    session.source = open_source(profiles.load("tiny").data)
    assert (len(session.mix("dolly").train), len(session.text[0])) == (16, 4)
    with pytest.raises(UsageError, match="too few for 17 disjoint parts"):
        dry_plan(resolve_cell(session, cell))


def test_a_search_at_every_rank_has_a_probe_for_each(tmp_path):
    ranks = {"search.r_min": 2, "search.r_max": 8}
    assert asked(tmp_path, "grid_rank:step=1", **ranks)["probe"] == 7
    _, by_three = planned(tmp_path, "grid_rank:step=3", **ranks)
    assert by_three.stages_asked["probe"] == 3 and by_three.ranks == (2, 8)


def test_probes_on_shares_of_the_rows_are_planned_one_by_one(tmp_path):
    """At most: what a search that has not run would prune is not known. Each share is judged on the same rows."""
    session, _ = planned(tmp_path, "base", **{"search.probe_rows": 8})
    tokens = []
    for shares in ([1.0], [0.25, 1.0], [0.25, 0.5, 1.0, 0.5]):
        inputs = DryInputs(resolve_cell(session, Cell(method="floe", mix="dolly", seed=0)))
        for share in shares:
            inputs.probe(moe_lora(inputs, [1]), share)
        assert inputs.asked == {"probe": len(set(shares))}
        tokens.append(inputs.tokens)
    train, judge = probe_rows(session, Cell(method="floe", mix="dolly", seed=0))

    def estimate(rows):
        return sum(min(256, len(row.prompt + row.completion) // 4 + 40) for row in rows)

    assert tokens[0] == estimate(train) + estimate(judge)
    assert tokens[1] - tokens[0] == estimate(train[:2]) + estimate(judge)
    assert tokens[2] - tokens[1] == estimate(train[:4]) + estimate(judge)


def test_floe_on_shares_plans_every_share_of_every_rank_it_could_reach(tmp_path):
    literal, on_shares = (asked(tmp_path, name)["probe"] for name in ("floe", "floe:shares=0.5+1"))
    assert on_shares == 2 * literal > 0


def test_a_share_of_rows_that_are_not_read_is_a_share_of_their_tokens(tmp_path):
    hub = {"data.source": "hub", "search.probe_rows": 512, "search.probe_validation_rows": 4}
    session, _ = planned(tmp_path, "base", **hub)
    tokens = []
    for share in (0.5, 1.0):
        inputs = DryInputs(resolve_cell(session, Cell(method="floe", mix="dolly", seed=0)))
        inputs.probe(moe_lora(inputs, [1]), share)
        tokens.append(inputs.tokens)
    assert tokens == [260 * 190, 516 * 190]
