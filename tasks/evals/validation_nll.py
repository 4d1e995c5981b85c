"""Validation NLL (nats per completion token) on every mix, not only the one trained on."""

import time
from typing import Any

import pandas as pd

from harness.contracts import EvaluationInputs, Row, Score, Scored


def items(inputs: EvaluationInputs) -> list[dict[str, Any]]:
    return [{"mix": mix, **vars(row)} for mix in inputs.settings.eval.nll_mixes for row in inputs.validation(mix)]


def score(inputs: EvaluationInputs, items: list[dict[str, Any]]) -> Scored:
    start = time.perf_counter()
    rows = [Row(item["prompt"], item["completion"], item["domain"], item["task"]) for item in items]
    frame = inputs.nll(rows).assign(mix=[item["mix"] for item in items])
    seconds = time.perf_counter() - start
    sums = frame.groupby("mix", sort=False)[["nll", "tokens"]].sum()
    metrics = {f"nll_{mix}": nll for mix, nll in (sums["nll"] / sums["tokens"]).items()}
    metrics["nll_mean"] = sum(metrics.values()) / len(metrics)
    tokens = int(frame.pop("tokens_read").sum())
    score = Score(metrics=metrics, n_items=len(frame), tokens=tokens, seconds=seconds)
    return Scored(score, pd.DataFrame(frame))
