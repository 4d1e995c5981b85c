"""The recorded scores against numpy on made-up arrays."""

import numpy as np
import pytest

from floe_bench.harness.contracts.plan import Sample
from floe_bench.harness.errors import UsageError
from floe_bench.harness.registry import parse_method

ALL = "fisher+taylor+gradient_norm+weight_magnitude+true_fisher+parameter_diagonal"


def planned(name: str, inputs):
    method = parse_method(name)
    return method.plugin.load().plan(inputs, method.options)


def test_every_score_is_recorded_under_its_name(arrays, made_inputs):
    plan = planned(f"layer_scores:scores={ALL}", made_inputs())
    expected = {
        "fisher": (arrays["fisher_gradients"]["G"] ** 2).mean(axis=0),
        "taylor": arrays["taylor"]["T"],
        "gradient_norm": arrays["gradient_norm"]["norm"],
        "weight_magnitude": arrays["weight_magnitude"]["magnitude"],
        "true_fisher": (arrays["true_fisher_gradients"]["G"] ** 2).mean(axis=0),
        "parameter_diagonal": arrays["parameter_diagonal"]["D"],
    }
    assert list(plan.scores) == list(expected)
    for name, scores in expected.items():
        np.testing.assert_allclose(plan.scores[name], scores)


def test_trains_nothing(made_inputs):
    plan = planned("layer_scores", made_inputs())
    assert (plan.adapts, plan.peft_config) == ("nothing", None)


def test_measures_what_is_asked_for_and_no_more(made_inputs):
    inputs = made_inputs()
    planned("layer_scores", inputs)
    assert [asked["scorer"] for asked in inputs.asked] == ["fisher_gradients", "taylor"]
    inputs = made_inputs()
    planned("layer_scores:scores=weight_magnitude", inputs)
    assert [(asked["scorer"], asked["on"], asked["pilot"]) for asked in inputs.asked] == [
        ("weight_magnitude", "nothing", None)
    ]


def test_scores_of_the_task_are_measured_on_the_sample(made_inputs):
    inputs = made_inputs(seed=3)
    planned(f"layer_scores:scores={ALL}:part=1:parts=2", inputs)
    on_task = [asked for asked in inputs.asked if asked["on"] == "task"]
    assert {asked["scorer"]: asked["pilot"] is not None for asked in on_task} == {
        "fisher_gradients": True, "gradient_norm": False, "true_fisher_gradients": True, "parameter_diagonal": True,
    }  # fmt: skip
    assert all(asked["sample"] == Sample(part=(1, 2)) for asked in on_task)
    assert {"seed": 3} in [asked["parameters"] for asked in on_task]


def test_an_unknown_score_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match=r"option scores: .*'parameter_diagonal'"):
        parse_method("layer_scores:scores=fisher+tailor")
