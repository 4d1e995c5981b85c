"""Turn rows into tokens and padded batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

from floe_bench.harness.contracts.inputs import Batch
from floe_bench.harness.contracts.rows import Row
from floe_bench.harness.errors import UsageError

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{prompt}\n\n### Response:\n"
)


class Example(TypedDict):
    """One tokenised row. Labels are -100 where the loss does not count."""

    input_ids: list[int]
    labels: list[int]
    truncated: bool


def encode(rows: Iterable[Row], tokenizer: Any, prompt_format: str, max_length: int) -> list[Example]:
    """Tokenise prompt and completion separately, so that the loss starts exactly at the completion.

    A row with an empty prompt is plain text: it has no template, and every token counts. A row that is too long
    loses the start of its prompt, as far as the prompt fills more than half of the window, and then the end of its
    completion.
    """
    return [_encode_row(row, tokenizer, prompt_format, max_length) for row in rows]


def _encode_row(row: Row, tokenizer: Any, prompt_format: str, max_length: int) -> Example:
    if not row.prompt:
        ids = tokenizer(row.completion, add_special_tokens=True)["input_ids"]
        return {"input_ids": ids[:max_length], "labels": ids[:max_length], "truncated": len(ids) > max_length}
    prompt = _prompt_ids(row.prompt, tokenizer, prompt_format)
    completion = tokenizer(row.completion, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    truncated = len(prompt) + len(completion) > max_length
    prompt = prompt[-max(max_length - len(completion), max_length // 2) :]
    completion = completion[: max_length - len(prompt)]
    return {
        "input_ids": prompt + completion,
        "labels": [-100] * len(prompt) + completion,
        "truncated": truncated,
    }


def _prompt_ids(prompt: str, tokenizer: Any, prompt_format: str) -> list[int]:
    """Return the tokens of the prompt in its template. Raises UsageError where 'chat' finds no template."""
    if prompt_format == "chat" and tokenizer.chat_template is None:
        raise UsageError("model.prompt_format is 'chat', but the tokenizer has no chat template: use 'alpaca'")
    if prompt_format == "alpaca" or tokenizer.chat_template is None:
        return tokenizer(ALPACA.format(prompt=prompt), add_special_tokens=True)["input_ids"]
    messages = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def collate(examples: Sequence[Example], pad_token_id: int) -> Batch:
    """Pad examples on the right. Returns tensors input_ids, attention_mask, labels of shape (batch, longest)."""
    import torch

    # transformers' DataCollatorForSeq2Seq gives the same batches, but needs the tokenizer and takes longer:
    # 1.8 against 1.4 ms for 8 rows of 50 to 200 tokens, 9.2 against 6.2 ms for 8 of 500 to 1,024 (CPU, byte tokenizer).
    longest = max(len(example["input_ids"]) for example in examples)

    def padded(key: str, value: int) -> torch.Tensor:
        return torch.tensor([ex[key] + [value] * (longest - len(ex[key])) for ex in examples])  # pyright: ignore

    mask = [[1] * len(ex["input_ids"]) + [0] * (longest - len(ex["input_ids"])) for ex in examples]
    return {
        "input_ids": padded("input_ids", pad_token_id),
        "attention_mask": torch.tensor(mask),
        "labels": padded("labels", -100),
    }


def by_length(examples: Sequence[Example], batch_size: int) -> list[list[int]]:
    """Group the indices in batches of similar length, longest first, to save padding."""
    order = sorted(range(len(examples)), key=lambda i: (-len(examples[i]["input_ids"]), i))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def batches(examples: Sequence[Example], batch_size: int, pad_token_id: int) -> list[Batch]:
    """Return all examples in right-padded batches of similar length."""
    return [collate([examples[i] for i in group], pad_token_id) for group in by_length(examples, batch_size)]
