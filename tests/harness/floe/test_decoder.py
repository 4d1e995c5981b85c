import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig

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


class Made(nn.Module):
    """A model of three layers by its configuration, with lists of these lengths."""

    def __init__(self, **lists: int):
        super().__init__()
        self.config = LlamaConfig(num_hidden_layers=3)
        for name, length in lists.items():
            self.add_module(name, nn.ModuleList(nn.Linear(2, 2) for _ in range(length)))


@pytest.mark.parametrize("name", ["layers", "h", "block"])
def test_the_lists_name_does_not_matter(name):
    model = Made(**{name: 3, "experts": 2})
    assert decoder_layers(model) is model.get_submodule(name)


def test_a_list_within_the_layers_is_not_taken_for_them():
    model = Made(layers=3)
    for layer in model.get_submodule("layers"):  # pyright: ignore[reportGeneralTypeIssues]
        layer.add_module("experts", nn.ModuleList(nn.Linear(2, 2) for _ in range(3)))
    assert decoder_layers(model) is model.get_submodule("layers")


@pytest.mark.parametrize("lists", [{}, {"layers": 2}])
def test_a_model_without_layers_is_refused(lists):
    with pytest.raises(ValueError, match=r"Made has 0 lists of 3 modules \[\]"):
        decoder_layers(Made(**lists))


def test_a_model_with_two_lists_of_layers_is_refused():
    with pytest.raises(ValueError, match=r"has 2 .*'encoder', 'decoder'"):
        decoder_layers(Made(encoder=3, decoder=3))


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
