"""Folders of tiny models, saved as transformers saves them, and changed afterwards."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSeq2SeqLM,
    PretrainedConfig,
)

from floe_bench.harness.model.base import byte_tokenizer

TINY = {
    "vocab_size": 259,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 512,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}


def saved(folder: Path, model_type: str = "llama", tokenizer: Any = None, **config: Any) -> Path:
    """Save a random model of that family with the byte tokenizer."""
    return written(folder, AutoConfig.for_model(model_type, **TINY | config), tokenizer)


def written(folder: Path, config: PretrainedConfig, tokenizer: Any = None) -> Path:
    """Save a random model of that configuration with the byte tokenizer."""
    torch.manual_seed(0)
    kind = AutoModelForImageTextToText if hasattr(config, "text_config") else AutoModelForCausalLM
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else kind
    kind.from_config(config, dtype=torch.float32).save_pretrained(folder)
    (tokenizer or byte_tokenizer()).save_pretrained(folder)
    return folder


def with_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def with_config(folder: Path, file: str = "config.json", **values: Any) -> Path:
    content: dict[str, Any] = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | values))
    return folder
