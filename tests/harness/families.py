"""Tiny configurations of the model families that are not Llama's."""

from typing import Any

from transformers import AutoConfig, PretrainedConfig

_BARE: dict[str, Any] = {
    "vocab_size": 260,  # one more than the byte tokenizer's, because Qwen's tokenizer adds one
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
    "initializer_range": 0.2,
}
_LLAMA = _BARE | {"intermediate_size": 24, "num_key_value_heads": 1, "max_position_embeddings": 512}
_WINDOWED = _LLAMA | {
    "head_dim": 8,
    "sliding_window": 9,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
_WINDOW_ABOVE = {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}
_MOE = _LLAMA | _WINDOW_ABOVE | {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "bloom": _BARE,
    "cohere": _LLAMA,
    "cohere2": _WINDOWED,
    "falcon": _BARE,
    "gemma3": {"text_config": _WINDOWED, "vision_config": _VISION, "mm_tokens_per_image": 4, "image_token_index": 5},
    "gemma3_text": _WINDOWED,
    "gpt2": _BARE | {"n_positions": 512, "n_inner": 24},
    "gpt_neox": _BARE | {"intermediate_size": 24, "max_position_embeddings": 512},
    "gptj": _BARE | {"n_positions": 512, "rotary_dim": 4},
    "mamba": _BARE | {"state_size": 4},
    "ministral": _WINDOWED,
    "mistral": _LLAMA | {"sliding_window": 9},
    "mistral3": {
        "text_config": _LLAMA | {"model_type": "mistral", "head_dim": 8},
        "vision_config": _VISION | {"model_type": "pixtral"},
        "tie_word_embeddings": False,
    },
    "mixtral": _LLAMA | {"num_local_experts": 4, "sliding_window": 9},
    "olmo2": _LLAMA,
    "opt": _BARE | {"ffn_dim": 24, "word_embed_proj_dim": 16, "max_position_embeddings": 512, "init_std": 0.2},
    "phi": _LLAMA,
    "phi3": _LLAMA | {"sliding_window": 9},
    "qwen2": _LLAMA | _WINDOW_ABOVE,
    "qwen2_moe": _MOE | {"shared_expert_intermediate_size": 24},
    "qwen3": _LLAMA | _WINDOW_ABOVE | {"head_dim": 8},
    "qwen3_moe": _MOE | {"head_dim": 8},
    "smollm3": _LLAMA | {"no_rope_layers": [1, 0, 1], "use_sliding_window": True, "sliding_window": 9},
    "stablelm": _LLAMA,
}
"""Model type -> configuration. Weights are large enough for logits that depend visibly on every layer."""


def config_of(family: str, **changes: Any) -> PretrainedConfig:
    return AutoConfig.for_model(family, **FAMILIES[family] | changes)
