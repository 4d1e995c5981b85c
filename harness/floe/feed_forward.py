"""How the model families name the projections of their feed-forward blocks."""

GATED = ("gate_proj", "up_proj", "down_proj")
"""The names of Llama and of most families after it."""

FEED_FORWARD: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        (
            "cohere", "cohere2", "gemma", "gemma2", "gemma3_text", "granite", "llama", "ministral", "ministral3",
            "mistral", "olmo", "olmo2", "qwen2", "qwen3", "smollm3", "stablelm",
        ),
        GATED,
    ),
    **dict.fromkeys(("bloom", "falcon", "gpt_neox"), ("dense_h_to_4h", "dense_4h_to_h")),
    **dict.fromkeys(("opt", "phi"), ("fc1", "fc2")),
    **dict.fromkeys(("glm", "glm4", "phi3"), ("gate_up_proj", "down_proj")),
    **dict.fromkeys(("gpt2", "gpt_bigcode", "gpt_neo"), ("mlp.c_fc", "mlp.c_proj")),  # attention has a c_proj too
    **dict.fromkeys(("codegen", "gptj"), ("fc_in", "fc_out")),
    "starcoder2": ("c_fc", "c_proj"),
}  # fmt: skip
"""Model type -> the ends of the paths of a layer's feed-forward projections, as PEFT's target_modules takes them."""
