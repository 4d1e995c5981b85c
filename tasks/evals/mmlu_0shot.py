"""MMLU, 0-shot: the model's likeliest letter A to D, by lm-eval's own prompts."""

from __future__ import annotations

from typing import Any

from floe_bench import EvaluationInputs, Scored
from floe_bench.tasks.evals import _mmlu


def items(inputs: EvaluationInputs) -> list[dict[str, Any]]:
    return _mmlu.items(inputs, num_fewshot=0)


def score(inputs: EvaluationInputs, items: list[dict[str, Any]]) -> Scored:
    return _mmlu.score(inputs, items, task="mmlu", num_fewshot=0)
