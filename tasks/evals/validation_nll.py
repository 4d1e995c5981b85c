"""Validation NLL (nats per completion token) on every mix, not only the one trained on."""

import math
import time
from typing import Any

from floe_bench import EvaluationInputs, Row, Score, Scored


def items(inputs: EvaluationInputs) -> list[dict[str, Any]]:
    return [{"mix": mix, **vars(row)} for mix in inputs.settings.eval.nll_mixes for row in inputs.validation(mix)]


def score(inputs: EvaluationInputs, items: list[dict[str, Any]]) -> Scored:
    start = time.perf_counter()
    frame = inputs.nll([Row(item["prompt"], item["completion"], item["domain"], item["task"]) for item in items])
    seconds = time.perf_counter() - start
    frame["mix"] = [item["mix"] for item in items]
    metrics = {}
    for mix in inputs.settings.eval.nll_mixes:
        own = frame[frame["mix"] == mix]
        metrics[f"nll_{mix}"] = math.fsum(own["nll"]) / sum(own["tokens"])
    metrics["nll_mean"] = sum(metrics.values()) / len(metrics)
    tokens = int(frame.pop("tokens_read").sum())
    return Scored(Score(metrics=metrics, n_items=len(frame), tokens=tokens, seconds=seconds), frame)
