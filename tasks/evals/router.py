"""The router: each expert's share of the gate, and the gates' entropy (nats), per adapted module."""

import time
from statistics import fmean
from typing import Any

import pandas as pd

from floe_bench import EvaluationInputs, Row, Score, Scored

ROWS = 2
"""Validation rows read of each mix. They hold hundreds of tokens, and each token gives one gate."""


def items(inputs: EvaluationInputs) -> list[dict[str, Any]]:
    return [
        {"mix": mix, **vars(row)} for mix in inputs.settings.eval.nll_mixes for row in inputs.validation(mix)[:ROWS]
    ]


def score(inputs: EvaluationInputs, items: list[dict[str, Any]]) -> Scored:
    """Measure the gates. A model without a router has no items and no metrics.

    max_gate: the largest share of one expert, mean over modules (1/M if even).
    entropy: the tokens' mean entropy in nats, mean over modules.
    """
    from floe_bench.harness.floe.tuner.gates import gate_statistics
    from floe_bench.harness.floe.tuner.layer import MoeLoraLayer

    start = time.perf_counter()
    if not any(isinstance(module, MoeLoraLayer) and module.moe_lora_router for module in inputs.model.modules()):
        return Scored(Score(metrics={}, n_items=0, tokens=0, seconds=time.perf_counter() - start), pd.DataFrame())
    tokens = 0
    with gate_statistics(inputs.model) as gates:
        for item in items:  # one row at a time, because padding would count as tokens
            row = Row(item["prompt"], item["completion"], item["domain"], item["task"])
            tokens += sum(inputs.nll([row])["tokens_read"].tolist())
    lines = [
        {"module": name, "expert": expert, "mean_gate": float(gate), "entropy": found.entropy}
        for name, found in gates.result().items()
        for expert, gate in enumerate(found.mean_gate)
    ]
    frame = pd.DataFrame(lines)
    modules = frame.groupby("module").agg(max_gate=("mean_gate", "max"), entropy=("entropy", "first"))
    metrics = {name: fmean(modules[name].tolist()) for name in ("max_gate", "entropy")}
    seconds = time.perf_counter() - start
    return Scored(Score(metrics=metrics, n_items=len(frame), tokens=tokens, seconds=seconds), frame)
