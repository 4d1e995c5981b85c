"""Find the decoder layers of a causal language model, their linear maps and their base weights."""

from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

Linear = nn.Linear | Conv1D
LINEAR = (nn.Linear, Conv1D)
"""What an adapter can be added to. Conv1D is GPT-2's linear map: its weight is (d_in, d_out)."""


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return the decoder layers k = 0..L-1 of a causal language model, with or without a PEFT adapter.

    They are the only `nn.ModuleList` of as many modules as the text model's configuration counts layers, and within
    no other such list. The name does not matter: Llama, OPT and GPT-NeoX call it `layers`, BLOOM, Falcon and GPT-2 `h`.

    Raises:
        ValueError: the model has no such list, or more than one.
    """
    config: Any = getattr(model, "config", None)
    if config is None:
        raise ValueError(f"{type(model).__name__} has no configuration that counts its decoder layers")
    n_layers = config.get_text_config(decoder=True).num_hidden_layers
    lists = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    }
    found = {name: module for name, module in lists.items() if not any(name.startswith(f"{of}.") for of in lists)}
    if len(found) != 1:
        raise ValueError(
            f"{type(model).__name__} has {len(found)} lists of {n_layers} modules {list(found)}, "
            "expected exactly one: the decoder layers."
        )
    return next(iter(found.values()))


def base_weights(layer: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of `layer` that belong to the base model, without those of PEFT adapters."""
    adapter = {
        parameter
        for module in layer.modules()
        if isinstance(module, BaseTunerLayer)
        for name, parameter in module.named_parameters()
        if not name.startswith("base_layer.")
    }
    return [parameter for parameter in layer.parameters() if parameter not in adapter]
