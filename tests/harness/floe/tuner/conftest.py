"""Tiny models with MoE-LoRA adapters whose weights are all random, so that every part of them shows."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from harness.floe.tuner import MoeLoraConfig


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # PEFT 0.21 asks transformers 5 for this deprecated property on every get_peft_model.
    mark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(mark)


@pytest.fixture
def randomise() -> Callable[..., None]:
    """randomise(model, seed=2): fill every adapter weight with normal values of standard deviation 0.2."""

    def fill(model: nn.Module, seed: int = 2) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)

    return fill


@pytest.fixture
def adapted(tiny_model, randomise) -> Callable[..., PeftModel]:
    """adapted(architecture="llama", dtype=torch.float32, autocast_adapter_dtype=True, **config).

    A tiny model with a random adapter; dropout 0 and lora_alpha 8 unless set.
    """

    def make(
        architecture: str = "llama",
        dtype: torch.dtype = torch.float32,
        autocast_adapter_dtype: bool = True,
        **config,
    ) -> PeftModel:
        settings = MoeLoraConfig(**({"lora_dropout": 0.0, "lora_alpha": 8} | config))
        base = tiny_model(architecture, dtype)
        model = get_peft_model(base, settings, autocast_adapter_dtype=autocast_adapter_dtype)
        randomise(model)
        return model

    return make
