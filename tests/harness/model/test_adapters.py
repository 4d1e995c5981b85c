"""Adapters on disk."""

import re

import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file, save_file

from floe_bench.harness.floe.tuner import MoeLoraConfig
from floe_bench.harness.model.adapters import load_adapter

MISSING = "base_model.model.model.layers.2.mlp.up_proj.moe_lora_router.weight"
UNEXPECTED = "base_model.model.model.layers.1.mlp.up_proj.moe_lora_A.weight"
WEIGHTS = "adapter_model.safetensors"
SETTINGS = {
    "r": 3,
    "rank_pattern": {"up_proj": 2},
    "experts_pattern": {"down_proj": 6},
    "alpha_pattern": {"gate_proj": 2.5},
    "layers_to_transform": [0, 2],
}


@pytest.fixture
def saved(adapted, tmp_path):
    """A saved adapter: the model and its folder."""
    model = adapted(**SETTINGS)
    model.save_pretrained(tmp_path)
    return model, tmp_path


def rewrite(folder, change) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)


@pytest.mark.parametrize("load", [PeftModel.from_pretrained, load_adapter])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast_adapter_dtype", [True, False])
def test_logits_survive_saving_and_loading_bit_for_bit(
    load, dtype, autocast_adapter_dtype, adapted, tiny_model, tokens, tmp_path
):
    model = adapted(dtype=dtype, autocast_adapter_dtype=autocast_adapter_dtype, **SETTINGS)
    model.save_pretrained(tmp_path)
    loaded = load(tiny_model(dtype=dtype), tmp_path, autocast_adapter_dtype=autocast_adapter_dtype)
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    assert loaded.peft_config["default"].experts_pattern == {"down_proj": 6}


def test_the_folder_holds_safetensors_with_the_adapter_and_nothing_else(saved):
    _, folder = saved
    assert {file.name for file in folder.iterdir()} == {"README.md", "adapter_config.json", WEIGHTS}
    modules = [f"layers.{layer}.mlp.{name}_proj" for layer in (0, 2) for name in ("gate", "up", "down")]
    assert set(load_file(folder / WEIGHTS)) == {
        f"base_model.model.model.{module}.moe_lora_{part}.weight" for module in modules for part in ("A", "B", "router")
    }
    assert type(PeftConfig.from_pretrained(folder)) is MoeLoraConfig


@pytest.mark.parametrize("is_trainable", [True, False])
def test_a_loaded_adapter_trains_only_when_asked_to(is_trainable, saved, tiny_model):
    loaded = load_adapter(tiny_model(), saved[1], is_trainable=is_trainable)
    flags = {parameter.requires_grad for name, parameter in loaded.named_parameters() if "moe_" in name}
    assert flags == {is_trainable}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop(MISSING), f"missing keys ['{MISSING}'], unexpected keys []"),
        (
            lambda weights: weights.update({UNEXPECTED: torch.ones(1)}),
            f"missing keys [], unexpected keys ['{UNEXPECTED}']",
        ),
    ],
)
def test_keys_that_do_not_fit_are_named_and_the_base_model_is_left_alone(change, message, saved, tiny_model, tokens):
    rewrite(saved[1], change)
    base = tiny_model()
    structure, before = repr(base), base(tokens).logits
    with pytest.raises(ValueError, match=re.escape(message)):
        load_adapter(base, saved[1])
    assert repr(base) == structure
    assert torch.equal(base(tokens).logits, before)


def test_a_folder_without_safetensors_is_refused(saved, tiny_model):
    (saved[1] / WEIGHTS).unlink()
    with pytest.raises(ValueError, match=f"must hold {WEIGHTS}"):
        load_adapter(tiny_model(), saved[1])
