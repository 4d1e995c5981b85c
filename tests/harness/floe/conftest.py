"""Tiny random causal language models of four architectures, and MoE-LoRA adapters whose weights are all random."""

from collections.abc import Callable

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from floe_bench.harness.floe.tuner import MoeLoraConfig

ARCHITECTURES: dict[str, tuple] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": 8}),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM, {"sliding_window": 8, "head_dim": 8}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
}


@pytest.fixture(params=sorted(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest) -> str:
    """Every architecture in turn."""
    return request.param


@pytest.fixture
def tiny_model() -> Callable[..., PreTrainedModel]:
    """tiny_model(architecture="llama", dtype=torch.float32, **config): a seeded random model in eval mode.

    Three layers, hidden size 16, feed-forward size 24, vocabulary 32; weights large enough (standard
    deviation 0.3) for logits that depend visibly on every layer.
    """

    def make(architecture: str = "llama", dtype: torch.dtype = torch.float32, **config) -> PreTrainedModel:
        config_class, model_class, settings = ARCHITECTURES[architecture]
        sizes = {
            "vocab_size": 32,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 64,
            "initializer_range": 0.3,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        torch.manual_seed(0)
        return model_class(config_class(**(sizes | settings | config))).to(dtype).eval()

    return make


@pytest.fixture
def tokens() -> torch.Tensor:
    """Token ids of a batch of 3 sequences of 7 tokens, none of them padding."""
    return torch.randint(3, 32, (3, 7), generator=torch.Generator().manual_seed(1))


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
