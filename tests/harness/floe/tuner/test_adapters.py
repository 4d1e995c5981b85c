"""Several MoE-LoRA adapters on one model."""

from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn

from floe_bench.harness.floe.tuner import MoeLoraConfig, MoeLoraLayer

TARGETS = ["up_proj"]


@pytest.fixture
def two_adapters(adapted, randomise) -> PeftModel:
    """Adapter "default" on every layer and "other", of other sizes, on layers 1 and 2."""
    model = adapted(target_modules=TARGETS)
    other = MoeLoraConfig(
        r=2, num_experts=3, lora_alpha=6, lora_dropout=0.0, target_modules=TARGETS, layers_to_transform=[1, 2]
    )
    model.add_adapter("other", other)
    randomise(model)
    return model


def trainable_adapters(model: nn.Module) -> set[str]:
    return {name.split(".")[-2] for name, parameter in model.named_parameters() if parameter.requires_grad}


def updates(model: PeftModel, layer: int, x: torch.Tensor) -> torch.Tensor:
    """What the active adapters add to the output of a layer's up_proj."""
    module: Any = model.get_submodule(f"base_model.model.model.layers.{layer}.mlp.up_proj")
    return module(x) - module.base_layer(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_second_adapter_stays_idle_and_frozen_until_it_is_set(dtype, adapted, tokens):
    model = adapted(dtype=dtype, target_modules=TARGETS)
    before = model(tokens).logits
    model.add_adapter("other", MoeLoraConfig(target_modules=TARGETS, init_weights=False))
    assert torch.equal(model(tokens).logits, before)
    assert trainable_adapters(model) == {"default"}
    model.set_adapter("other")
    assert not torch.equal(model(tokens).logits, before)
    assert trainable_adapters(model) == {"other"}
    model.set_adapter("default")
    assert torch.equal(model(tokens).logits, before)


def test_two_active_adapters_add_up(two_adapters):
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(3))
    alone = {}
    for name in ("default", "other"):
        two_adapters.set_adapter(name)
        alone[name] = [updates(two_adapters, layer, x) for layer in range(3)]
    assert not alone["other"][0].any()
    two_adapters.base_model.set_adapter(["default", "other"])
    assert trainable_adapters(two_adapters) == {"default", "other"}
    for layer in range(3):
        total = alone["default"][layer] + alone["other"][layer]
        torch.testing.assert_close(updates(two_adapters, layer, x), total, rtol=1e-5, atol=1e-5)


def test_disable_adapter_gives_the_base_model_bit_for_bit(two_adapters, tiny_model, tokens):
    base = tiny_model()(tokens).logits
    before = two_adapters(tokens).logits
    with two_adapters.disable_adapter():
        assert torch.equal(two_adapters(tokens).logits, base)
    assert torch.equal(two_adapters(tokens).logits, before)
    assert not torch.equal(before, base)


def test_deleting_an_adapter_leaves_no_trace_of_it(two_adapters, tokens):
    before = two_adapters(tokens).logits
    two_adapters.delete_adapter("other")
    assert not [name for name, _ in two_adapters.named_parameters() if ".other." in name]
    for layer in two_adapters.modules():
        if isinstance(layer, MoeLoraLayer):
            tables = (layer.r, layer.lora_alpha, layer.num_experts, layer.scaling, layer.moe_lora_dropout)
            assert all(list(table) == ["default"] for table in tables)
    assert torch.equal(two_adapters(tokens).logits, before)


def test_deleting_the_last_adapter_gives_the_base_model(adapted, tiny_model, tokens):
    model = adapted()
    model.delete_adapter("default")
    assert torch.equal(model.base_model(tokens).logits, tiny_model()(tokens).logits)
