"""Find the decoder layers of a causal language model and their base weights."""

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """Return the decoder layers k = 0..L-1 of a causal language model, with or without a PEFT adapter.

    They are the model's only `nn.ModuleList` named `layers`, as in Llama, Mistral, Gemma 2 and Qwen 2.

    Raises:
        ValueError: the model has no such list, or more than one.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == "layers" and isinstance(module, nn.ModuleList)
    }
    if len(found) != 1:
        raise ValueError(
            f"{type(model).__name__} has {len(found)} module lists named 'layers' {list(found)}, "
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
