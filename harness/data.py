"""From a mix's rows to disjoint splits, seeded samples, tokens and batches."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, zip_longest
from typing import Any, TypedDict

from harness.contracts import Batch, Row, RowSource
from harness.errors import UsageError
from harness.files import digest
from harness.settings import DataSettings, Settings

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n{prompt}\n\n### Response:\n"
)


class Example(TypedDict):
    """One tokenised row. labels are -100 where the loss does not count."""

    input_ids: list[int]
    labels: list[int]
    truncated: bool


@dataclass(frozen=True)
class MixData:
    """A mix, split. `counts`: rows read, and what was dropped and why."""

    train: list[Row]
    validation: list[Row]
    counts: dict[str, int]

    @cached_property
    def digest(self) -> str:
        """Identifies the content of both splits."""
        return digest([[vars(row) for row in part] for part in (self.train, self.validation)])


# --- splits and samples ---------------------------------------------------------------------------


def _fraction_of(text: str) -> float:
    """A number in [0, 1) that depends on the text's content alone: the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split())


def _is_validation(text: str, fraction: float) -> bool:
    """Decided by the prompt alone, so that a row is on the same side in every mix that holds it."""
    return _fraction_of("split:" + _normalised(text)) < fraction


def split_settings(settings: Settings) -> dict[str, Any]:
    """The settings that decide which rows a mix has and on which side each lies."""
    if settings.data.source == "teacher":  # it samples rows from the model, as training will see them
        return settings.model_dump(include={"data", "model", "adapter"})
    return settings.data.model_dump(exclude={"pilot_fraction", "calibration_rows", "max_length"})


def split_mix(name: str, source: RowSource, settings: DataSettings) -> MixData:
    """Read a mix and split it by content hash; a cap is spread evenly over the mix's domains.

    Empty completions and exact repeats are dropped and counted. Raises UsageError where rows are too few.
    """
    kept: dict[tuple[str, str], Row] = {}
    counts = {"read": 0, "empty_completion": 0, "repeated": 0}
    for row in source.mix(name):
        counts["read"] += 1
        content = (_normalised(row.prompt), _normalised(row.completion))
        if not content[1]:
            counts["empty_completion"] += 1
            continue
        counts["repeated"] += content in kept
        # Of repeats that differ in case or spaces the same one stays, whatever the order they come in.
        kept[content] = min(row, kept.get(content, row), key=lambda row: (row.prompt, row.completion))
    train: list[Row] = []
    validation: list[Row] = []
    for row in kept.values():
        (validation if _is_validation(row.prompt, settings.validation_fraction) else train).append(row)
    counts |= {"train_available": len(train), "validation_available": len(validation)}
    return MixData(
        _capped(train, settings.train_rows, f"mix '{name}' has {{}} training rows, but data.train_rows"),
        _capped(
            validation,
            settings.validation_rows,
            f"mix '{name}' has {{}} validation rows, but data.validation_rows",
        ),
        counts,
    )


def split_text(source: RowSource, settings: DataSettings) -> tuple[list[Row], list[Row]]:
    """Plain text for Taylor importance, and other passages for measuring forgetting.

    Raises UsageError where either side has fewer passages than `pretrain_rows`.
    """
    passages = {row.completion: row for row in source.mix("pretrain") if row.completion.strip()}
    sides: tuple[list[Row], list[Row]] = ([], [])
    for text, row in passages.items():
        sides[_is_validation(text, 0.5)].append(row)
    message = "the pre-training text has {} passages on one side of its split, but data.pretrain_rows"
    calibration, held_out = (_capped(side, settings.pretrain_rows, message) for side in sides)
    return calibration, held_out


def sample(rows: Sequence[Row], n: int, seed: int, purpose: str = "sample") -> list[Row]:
    """`n` rows without replacement (all, if there are fewer), decided by seed, purpose and content."""
    return sorted(rows, key=lambda row: _order(row, f"{purpose} {seed}"))[:n]


def pilot_sample(rows: Sequence[Row], settings: DataSettings, seed: int) -> list[Row]:
    """The pilot's share rho of the training rows (METHOD, stage 1)."""
    return sample(rows, math.ceil(settings.pilot_fraction * len(rows) - 1e-9), seed, "pilot")


def _order(row: Row, salt: str = "order") -> float:
    return _fraction_of(f"{salt}\0{row.prompt}\0{row.completion}")


def _capped(rows: list[Row], n: int | None, message: str) -> list[Row]:
    """`n` rows (None: all) in content order, taking from the domains in turn."""
    by_domain: defaultdict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=_order):
        by_domain[row.domain].append(row)
    in_turn = [row for row in chain.from_iterable(zip_longest(*by_domain.values())) if row is not None]
    if len(in_turn) < (n or 1):
        raise UsageError(f"{message.format(len(in_turn))} asks for {n or 'at least 1'}: lower it or give more data")
    return in_turn[:n]


# --- tokens ----------------------------------------------------------------------------------------


def encode(rows: Iterable[Row], tokenizer: Any, prompt_format: str, max_length: int) -> list[Example]:
    """Tokenise prompt and completion apart, so that the loss starts exactly at the completion.

    A row with an empty prompt is plain text: no template, every token counts. Too long a row loses the
    end of its completion; a prompt longer than half the window loses its start.
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
    if prompt_format == "chat" and tokenizer.chat_template is None:
        raise UsageError("model.prompt_format is 'chat', but the tokenizer has no chat template: use 'alpaca'")
    if prompt_format == "alpaca" or tokenizer.chat_template is None:
        return tokenizer(ALPACA.format(prompt=prompt), add_special_tokens=True)["input_ids"]
    messages = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def collate(examples: Sequence[Example], pad_token_id: int) -> Batch:
    """Right-padded tensors input_ids, attention_mask, labels of shape (batch, longest)."""
    import torch

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
    """Indices in batches of similar length, longest first, so that little is padding."""
    order = sorted(range(len(examples)), key=lambda i: (-len(examples[i]["input_ids"]), i))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def batches(examples: Sequence[Example], batch_size: int, pad_token_id: int) -> list[Batch]:
    """All examples in right-padded batches of similar length."""
    return [collate([examples[i] for i in group], pad_token_id) for group in by_length(examples, batch_size)]
