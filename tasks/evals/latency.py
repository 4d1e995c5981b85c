"""Inference latency (median ms per token) over repeated readings of the same validation rows."""

import statistics
import time
from typing import Any

import pandas as pd

from floe_bench import EvaluationInputs, Row, Score, Scored

ROWS, REPEATS = 4, 12
"""Number of rows of the first mix in one batch, and of timed readings. One earlier reading is not counted."""


def items(inputs: EvaluationInputs) -> list[dict[str, Any]]:
    rows = inputs.validation(inputs.settings.eval.nll_mixes[0])[:ROWS]
    return [{"repeat": repeat, **vars(row)} for repeat in range(REPEATS) for row in rows]


def score(inputs: EvaluationInputs, items: list[dict[str, Any]]) -> Scored:
    """Measure ms_per_token: the median over the readings, and its quartiles. Returns one line per reading."""
    rows = [
        Row(item["prompt"], item["completion"], item["domain"], item["task"]) for item in items if item["repeat"] == 0
    ]
    tokens = sum(inputs.nll(rows)["tokens_read"].tolist())
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        inputs.nll(rows)
        seconds.append(time.perf_counter() - start)
    frame = pd.DataFrame(
        {"repeat": range(REPEATS), "seconds": seconds, "ms_per_token": [1e3 * s / tokens for s in seconds]}
    )
    low, middle, high = statistics.quantiles(frame["ms_per_token"], n=4)
    metrics = {"ms_per_token": middle, "ms_per_token_q1": low, "ms_per_token_q3": high}
    return Scored(Score(metrics=metrics, n_items=REPEATS, tokens=tokens * REPEATS, seconds=sum(seconds)), frame)
