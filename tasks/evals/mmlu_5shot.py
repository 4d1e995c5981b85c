"""MMLU, 5-shot: the model's likeliest letter A to D after the subject's five dev questions."""

from __future__ import annotations

from typing import Any

from floe_bench import EvaluationInputs, Scored
from floe_bench.tasks.evals import _mmlu


def items(inputs: EvaluationInputs) -> list[dict[str, Any]]:
    return _mmlu.items(inputs, num_fewshot=5)


def score(inputs: EvaluationInputs, items: list[dict[str, Any]]) -> Scored:
    return _mmlu.score(inputs, items, task="mmlu", num_fewshot=5)
