"""Experts allotted by hand, and the adapter that they make on a model without weights."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from floe_bench.baselines import allotted_experts
from floe_bench.baselines._stages import moe_lora
from floe_bench.harness.contracts.plan import AdapterPlan
from floe_bench.harness.floe.decoder import decoder_layers
from floe_bench.harness.floe.feed_forward import FEED_FORWARD
from floe_bench.harness.floe.tuner import MoeLoraLayer
from floe_bench.harness.model import adapters, parameters
from floe_bench.harness.model import base as base_model
from floe_bench.harness.spec import profiles
from floe_bench.harness.spec.options import Options

from ..harness.families import config_of


@pytest.mark.parametrize(
    ("scores", "per_layer", "experts"),
    [
        ([1, 1, 1, 1], 4, [4, 4, 4, 4]),
        ([0, 0, 0, 0], 4, [4, 4, 4, 4]),
        ([1, 0, 0, 0], 4, [13, 1, 1, 1]),
        # 3 · 3 = 9 beyond the first of each layer: shares 4.5, 2.7, 1.8, so the last two are rounded up.
        ([5, 3, 2], 4, [5, 4, 3]),
        # 4 beyond the first: shares 1.5, 1.5, 0.5, 0.5: of equal remainders the lower layers come first.
        ([3, 3, 1, 1], 2, [3, 3, 1, 1]),
        # 4 beyond the first: shares 2.4, 0.4, 0.4, 0.8: two left over, for the last and for the lower of the equal.
        ([6, 1, 1, 2], 2, [4, 1, 1, 2]),
        ([1, 2, 3], 1, [1, 1, 1]),
    ],
)
def test_by_hand(scores, per_layer, experts):
    assert allotted_experts.allot(np.array(scores, dtype=float), per_layer).tolist() == experts


def test_as_many_in_all_as_uniform_and_each_within_one_of_its_share():
    generator = np.random.default_rng(0)
    for per_layer in (1, 2, 4, 8):
        for _ in range(100):
            scores = generator.exponential(size=generator.integers(1, 40)) ** 2
            experts = allotted_experts.allot(scores, per_layer)
            shares = 1 + (per_layer - 1) * len(scores) * scores / scores.sum()
            assert experts.sum() == per_layer * len(scores) and experts.min() >= 1
            assert np.abs(experts - shares).max() < 1
            assert (np.diff(experts[np.argsort(scores)]) >= 0).all(), "a higher score never has fewer"


@pytest.fixture
def adapted(arrays, made_inputs):
    """The plan for gradients that put all of it on two layers, and the adapter on a model of twelve layers."""
    inputs = made_inputs()
    inputs.n_layers = 12
    G = np.full((4, 12), 1e-3)
    G[:, 1], G[:, 10] = 3.0, 2.0
    arrays["fisher_gradients"]["G"] = G
    plan = allotted_experts.plan(inputs, Options())
    settings = profiles.load("tiny", {"model.config.num_hidden_layers": 12}).model
    return inputs, plan, base_model.on_meta(settings)


def test_the_adapter_has_the_allotted_experts_on_each_layer(adapted):
    """Layers 1, 10 and 11 are told apart."""
    _, plan, model = adapted
    allotted = plan.details["experts"]
    assert allotted[1] > allotted[10] > allotted[11] == allotted[0] == 1 and sum(allotted) == 4 * 12
    wrapped = adapters.wrap(model, plan.peft_config, float32=True)
    built = {}
    for name, module in wrapped.named_modules():
        if hasattr(module, "num_experts"):
            layer = int(name.split(".layers.")[1].split(".")[0])
            built.setdefault(layer, set()).add(module.num_experts["default"])
    assert built == {layer: {count} for layer, count in enumerate(allotted)}


@pytest.mark.parametrize("family", ["bloom", "gpt_neox", "opt"])
def test_the_allotment_holds_whatever_the_family_calls_its_list_of_layers(family, arrays, made_inputs):
    arrays["fisher_gradients"]["G"] = np.array([[1.0, 3.0, 2.0]])
    inputs = made_inputs(**{"adapter.target_modules": FEED_FORWARD[family]})
    inputs.n_layers = 3
    plan = allotted_experts.plan(inputs, Options())
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(family))
    layers = decoder_layers(adapters.wrap(model, plan.peft_config, float32=True))
    adapted = [[m for m in layer.modules() if isinstance(m, MoeLoraLayer)] for layer in layers]
    built = [{module.num_experts["default"] for module in of_layer} for of_layer in adapted]
    assert built == [{count} for count in plan.details["experts"]] and len(set(plan.details["experts"])) > 1


def test_the_parameters_are_those_of_uniform_experts_less_the_routers_of_single_ones(adapted):
    """Per expert and module r d_out + d_in; a layer with one expert has no router, of d_in weights."""
    inputs, plan, model = adapted
    uniform = parameters.trainable_names(model, AdapterPlan("adapter", moe_lora(inputs)))
    allotted = parameters.trainable_names(model, plan)
    single = sum(count == 1 for count in plan.details["experts"])
    assert single == 10
    assert sum(uniform.values()) - sum(allotted.values()) == single * (16 + 16 + 24)
