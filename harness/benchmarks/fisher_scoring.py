"""Fisher scoring of N samples against their forward and backward in training, and against one sample at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from floe_bench.harness.benchmarks import Bench, Measurement
from floe_bench.harness.benchmarks._real import adapted, smollm2_session
from floe_bench.harness.benchmarks._rows import random_batches
from floe_bench.harness.contracts.inputs import Batch
from floe_bench.harness.floe.importance import completion_tokens, fisher_gradients, sample_nll

BATCH_SIZE = 8
ROWS = {"cpu": 16, "cuda": 128}
REPEATS = {"cpu": 2, "cuda": 5}
SPEED_UP = {"cpu": 1.3, "cuda": 5.0}
"""Target speed-up of batches over one sample at a time."""


def run(bench: Bench) -> Iterator[Measurement]:
    device = bench.device.type
    for dtype in ("float32", "bfloat16"):
        model = _pilot(bench, dtype)
        batches = random_batches(ROWS[device], BATCH_SIZE, model.config.vocab_size, prompt=0.5)
        single = _one_at_a_time(batches)
        found: dict[str, Any] = {}
        sides: dict[str, Callable[[], object]] = {
            "scoring": lambda model=model, batches=batches, found=found: found.update(fisher_gradients(model, batches)),
            "training": lambda model=model, batches=batches: _train(model, batches),
            "one at a time": lambda model=model, single=single: fisher_gradients(model, single),
        }
        seconds = bench.alternate(sides, min(bench.repeats, REPEATS[device]))
        case = f"{ROWS[device]} samples, {dtype}"
        yield Measurement(
            what=f"{case}: against training",
            values=seconds,
            ratio=("scoring", "training"),
            at_most=1.2,
            notes=_facts(model, batches, single, found["G"]),
        )
        yield Measurement(
            what=f"{case}: one at a time against batches",
            values=seconds,
            ratio=("one at a time", "scoring"),
            at_least=SPEED_UP[device],
        )


def _pilot(bench: Bench, dtype: str) -> Any:
    """Return the model with MoE-LoRA on every layer, its B away from 0 as after a pilot."""
    model = adapted(smollm2_session(bench, model__dtype=dtype))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "moe_lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    return model


def _one_at_a_time(batches: Sequence[Batch]) -> list[Batch]:
    """Return every row as a batch of its own, without padding."""
    return [
        {name: tensor[n : n + 1, :length] for name, tensor in batch.items()}
        for batch in batches
        for n, length in enumerate(batch["attention_mask"].sum(dim=1).tolist())
    ]


def _train(model: Any, batches: Sequence[Batch]) -> None:
    """Run forward and backward of every batch as in training, with logits at the labels alone.

    Gradients are dropped.
    """
    model.train()
    for batch in batches:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=model.dtype == torch.bfloat16):
            loss = sample_nll(model, batch).mean()
        loss.backward()
        model.zero_grad()


def _facts(model: Any, batches: Sequence[Batch], single: Sequence[Batch], G: np.ndarray) -> dict[str, Any]:
    """Return sizes, and how far G is from that of one sample at a time, and under training's autocast."""
    facts: dict[str, Any] = {
        "tokens": sum(int(batch["attention_mask"].sum()) for batch in batches),
        "tokens_with_padding": sum(batch["input_ids"].numel() for batch in batches),
        "completion_tokens": int(sum(counts.sum() for counts in completion_tokens(batches))),
        "difference_of_G": _relative(G, fisher_gradients(model, single)["G"]),
    }
    if model.dtype == torch.bfloat16:
        with torch.autocast(model.device.type, torch.bfloat16):
            facts["difference_of_G_under_autocast"] = _relative(fisher_gradients(model, batches)["G"], G)
    return facts


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference over the largest entry."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())
