import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from floe_bench.harness.floe.decoder import base_weights, decoder_layers
from floe_bench.harness.floe.tuner import MoeLoraConfig

# PEFT 0.21 reads it; transformers 5 has renamed it.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

MODULES = ["q_proj", "down_proj"]


def test_decoder_layers_are_found_with_and_without_an_adapter(tiny_model, architecture):
    model = tiny_model(architecture)
    layers = model.model.layers
    assert decoder_layers(model) is layers and len(layers) == 3
    assert decoder_layers(get_peft_model(model, MoeLoraConfig())) is layers


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.ModuleDict({"layers": nn.Linear(2, 2)})])
def test_a_model_without_layers_is_refused(model):
    with pytest.raises(ValueError, match=f"{type(model).__name__} has 0 module lists named 'layers'"):
        decoder_layers(model)


def test_a_model_with_two_lists_of_layers_is_refused():
    model = nn.ModuleDict({side: nn.ModuleDict({"layers": nn.ModuleList()}) for side in ("encoder", "decoder")})
    with pytest.raises(ValueError, match=r"has 2 .*'encoder\.layers', 'decoder\.layers'"):
        decoder_layers(model)


@pytest.mark.parametrize(
    "adapter",
    [
        MoeLoraConfig(target_modules=MODULES),
        LoraConfig(target_modules=MODULES),
        LoraConfig(target_modules=MODULES, use_dora=True),
    ],
    ids=["moe_lora", "lora", "dora"],
)
def test_base_weights_leave_the_adapter_out(tiny_model, adapter):
    model = tiny_model("qwen2")  # with biases on its attention projections
    before = [list(layer.parameters()) for layer in decoder_layers(model)]
    adapted = decoder_layers(get_peft_model(model, adapter))
    for layer, weights in zip(adapted, before, strict=True):
        assert len(list(layer.parameters())) > len(weights)
        assert all(a is b for a, b in zip(base_weights(layer), weights, strict=True))


def test_base_weights_of_a_plain_layer_are_all_its_parameters():
    layer = nn.Linear(2, 3)
    weight, bias = base_weights(layer)
    assert torch.equal(weight, layer.weight) and torch.equal(bias, layer.bias)
