"""MMLU, 0-shot continuation: the model's likeliest answer, word for word, with no choices shown."""

from __future__ import annotations

from typing import Any

from floe_bench import EvaluationInputs, Scored
from floe_bench.tasks.evals import _mmlu


def items(inputs: EvaluationInputs) -> list[dict[str, Any]]:
    return _mmlu.items(inputs, num_fewshot=0)


def score(inputs: EvaluationInputs, items: list[dict[str, Any]]) -> Scored:
    return _mmlu.score(inputs, items, task="mmlu_continuation", num_fewshot=0)
