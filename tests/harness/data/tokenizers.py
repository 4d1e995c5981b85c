"""Byte tokenizers with special tokens and chat templates, and models' own templates, written down."""

from typing import Any

from tokenizers import processors

from floe_bench.harness.model.base import byte_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def bytewise(template: str | None = None, special=("<|im_start|>", "<|im_end|>"), words=(), adds: str = "") -> Any:
    """One token per byte, then <s>, </s>, <pad>, `special`, and `words` (added, not special).

    adds: what it puts around every text, such as "<s> $A </s>".
    """
    tokenizer = byte_tokenizer.__wrapped__()
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.add_tokens(list(words))
    tokenizer.chat_template = template
    if adds:
        ids = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", "</s>")]
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=adds, special_tokens=ids)
    return tokenizer
