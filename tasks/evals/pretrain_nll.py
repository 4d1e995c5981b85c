"""NLL on held-out plain prose and its change against the base model (forgetting)."""

import math
import time
from typing import Any

from floe_bench import EvaluationInputs, Row, Score, Scored

NEEDS_BASE = True


def items(inputs: EvaluationInputs) -> list[dict[str, Any]]:
    return [{"text": row.completion, "domain": row.domain} for row in inputs.pretrain_text()]


def score(inputs: EvaluationInputs, items: list[dict[str, Any]]) -> Scored:
    start = time.perf_counter()
    frame = inputs.nll([Row(None, item["text"], item["domain"]) for item in items])
    seconds = time.perf_counter() - start
    tokens = int(frame.pop("tokens_read").sum())
    nll = math.fsum(frame["nll"]) / sum(frame["tokens"])
    base = inputs.base()
    change = nll - base.metrics["nll"] if base else 0.0
    metrics = {"nll": nll, "nll_change": change}
    return Scored(Score(metrics=metrics, n_items=len(frame), tokens=tokens, seconds=seconds), frame)
