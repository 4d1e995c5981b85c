"""The layers of every form of the Fisher against the best of all sets of up to K layers."""

from itertools import combinations

import numpy as np
import pytest

from floe_bench.harness.contracts.plan import Sample
from floe_bench.harness.errors import UsageError
from floe_bench.harness.registry import parse_method

K, L = 3, 6


def best_set(fisher: np.ndarray) -> list[int]:
    """The at most K layers for which ½ (1-m)ᵀ I (1-m) is least, by trying all sets."""

    def objective(layers: tuple[int, ...]) -> float:
        left_out = [k for k in range(L) if k not in layers]
        return 0.5 * fisher[np.ix_(left_out, left_out)].sum()

    sets = [layers for size in range(K, 0, -1) for layers in combinations(range(L), size)]
    return list(min(sets, key=objective))


def fishers(arrays) -> dict[str, np.ndarray]:
    """Every form of the Fisher as an (L, L) matrix, sample by sample."""
    full = np.mean([np.outer(g, g) for g in arrays["fisher_gradients"]["G"]], axis=0)
    drawn = np.mean([np.outer(g, g) for g in arrays["true_fisher_gradients"]["G"]], axis=0)
    blocks = {b: np.kron(np.eye(L // b), np.ones((b, b))) for b in (2, 3)}
    return {
        "floe_layers": np.diag(np.diag(full)),
        "floe_layers:fisher=block": full * blocks[2],
        "floe_layers:fisher=block:b=3": full * blocks[3],
        "floe_layers:fisher=full": full,
        "floe_layers:fisher=parameter": np.diag(arrays["parameter_diagonal"]["D"]),
        "floe_layers:fisher=true": np.diag(np.diag(drawn)),
    }


def planned(name: str, inputs):
    method = parse_method(name)
    return method.plugin.load().plan(inputs, method.options)


def test_each_fisher_selects_the_best_layers_of_its_own_objective(arrays, made_inputs):
    picked = {}
    for name, fisher in fishers(arrays).items():
        plan = planned(name, made_inputs(selection__layer_fraction=K / L))
        picked[name] = list(plan.peft_config.layers_to_transform)
        assert picked[name] == best_set(fisher), name
    assert len({tuple(layers) for layers in picked.values()}) >= 4, "the made-up Fishers hardly differ"


def test_the_taylor_budget_keeps_out_layers_that_pre_training_depends_on(arrays, made_inputs):
    best = best_set(fishers(arrays)["floe_layers"])
    T = np.ones(L)
    T[best[0]] = 100.0
    arrays["taylor"]["T"] = T
    plan = planned("floe_layers", made_inputs(selection__layer_fraction=K / L, selection__taylor_budget=0.03))
    assert best[0] not in plan.peft_config.layers_to_transform
    assert plan.selected.taylor_spent <= plan.selected.taylor_budget == pytest.approx(0.03 * 105)


def test_trains_at_the_settings_rank_and_searches_none(made_inputs):
    plan = planned("floe_layers", made_inputs(adapter__r=5, adapter__lora_alpha=16))
    assert (plan.peft_config.r, plan.peft_config.lora_alpha, plan.rank_range) == (5, 16, None)


def test_scores_are_recorded(arrays, made_inputs):
    plan = planned("floe_layers:fisher=full", made_inputs())
    np.testing.assert_allclose(plan.scores["fisher"], (arrays["fisher_gradients"]["G"] ** 2).mean(0))
    assert plan.scores["taylor"] == [1.0] * L
    assert plan.selected.objective <= plan.selected.greedy_objective


@pytest.mark.parametrize(
    ("options", "sample"),
    [
        ("", Sample()),
        (":on=code", Sample(mix="code")),
        (":part=1:parts=3", Sample(part=(1, 3))),
        (":drift_to=code:drift=0.25", Sample(foreign=("code", 0.25))),
        (":drift_to=code", Sample()),
        (":on=medical:part=1:parts=2:drift_to=code:drift=1.0", Sample("medical", (1, 2), ("code", 1.0))),
    ],
)
@pytest.mark.parametrize("fisher", ["diagonal", "full", "parameter", "true"])
def test_every_score_of_the_task_is_measured_on_the_sample(options, sample, fisher, made_inputs):
    inputs = made_inputs(seed=7)
    planned(f"floe_layers{options}:fisher={fisher}", inputs)
    on_task = [asked for asked in inputs.asked if asked["on"] == "task"]
    assert on_task and all(asked["sample"] == sample and asked["pilot"] is not None for asked in on_task)
    drawn = [asked for asked in on_task if asked["scorer"] == "true_fisher_gradients"]
    assert [asked["parameters"] for asked in drawn] == ([{"seed": 7}] if fisher == "true" else [])


def test_the_plan_depends_on_the_mixes_of_its_sample():
    assert parse_method("floe_layers").options.mixes() == ()
    assert parse_method("floe_layers:on=code:drift_to=medical:drift=0.5").options.mixes() == ("code", "medical")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("floe_layers:on=doly", "unknown mix 'doly': did you mean dolly"),
        ("floe_layers:on=", "at least 1 character"),
        ("floe_layers:part=2:parts=2", "part=2 is not one of 0 to 1"),
        ("floe_layers:drift=0.5", "drift needs drift_to"),
        ("floe_layers:drift_to=code:drift=1.5", "less than or equal to 1"),
        ("floe_layers:b=3", "block size of fisher=block"),
    ],
)
def test_options_that_mean_nothing_are_refused(name, message):
    with pytest.raises(UsageError, match=message):
        parse_method(name)
