"""Memory of training: FLoE's state against every layer's, and the peak against the number of adapted layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
import torch

from floe_bench.harness.benchmarks import Bench, Measurement
from floe_bench.harness.benchmarks._real import FLOE_LAYERS, adapted, smollm2_session
from floe_bench.harness.data.tokens import collate
from floe_bench.harness.floe.labels import at_labels

COUNTS = (1, 5, 10, 15, 20, 25, 30)
SELECTIONS = {"floe": FLOE_LAYERS, "hydralora": None}


def run(bench: Bench) -> Iterator[Measurement]:
    shared = smollm2_session(bench, data__max_length=256, data__train_rows=64, data__validation_rows=8)
    rows = shared.encode(shared.mix("dolly").train)[: shared.settings.train.batch_size]
    batch = {key: value.to(shared.base.device) for key, value in collate(rows, shared.tokenizer.pad_token_id).items()}
    state = {name: [float(_state_bytes(adapted(shared, layers), batch))] for name, layers in SELECTIONS.items()}
    yield Measurement(
        what=f"adapters, gradients and optimiser: {len(FLOE_LAYERS)} layers against every layer",
        values=state,
        unit="bytes",
        ratio=("floe", "hydralora"),
        at_most=0.30,
    )
    yield _linearity(bench, shared, batch)


def _linearity(bench: Bench, shared: Any, batch: dict[str, torch.Tensor]) -> Measurement:
    """Measure a step's peak bytes with the topmost 1 … L layers adapted, each against the line through all."""
    layers = [count for count in COUNTS if count <= shared.n_layers]
    measured = []
    for count in layers:
        model = adapted(shared, range(shared.n_layers - count, shared.n_layers))
        measured.append(median(bench.peak({"step": _step(model, batch)}, repeats=3)["step"]))
    peaks = np.array(measured)
    slope, intercept = np.polyfit(layers, peaks, 1)
    line = intercept + slope * np.array(layers)
    explained = 1 - np.sum((peaks - line) ** 2) / np.sum((peaks - peaks.mean()) ** 2)
    furthest = int(np.argmax(np.abs(np.log(peaks / line))))
    ends = sorted((measured[furthest], float(line[furthest])), reverse=True)
    return Measurement(
        what=f"peak of a step against the number of adapted layers: furthest from a line, at {layers[furthest]}",
        values={"larger": [ends[0]], "smaller": [ends[1]]},
        unit="bytes",
        ratio=("larger", "smaller"),
        at_most=1.05,
        notes={
            "layers": layers,
            "peak_bytes": measured,
            "bytes_per_layer": float(slope),
            "intercept_bytes": float(intercept),
            "r_squared": float(explained),
        },
    )


def _step(model: Any, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    """Return a forward and backward. The gradients are dropped."""

    def step() -> None:
        with torch.autocast(model.device.type, torch.bfloat16):
            loss = model(**batch, **at_labels(batch), use_cache=False).loss
        loss.backward()
        model.zero_grad()

    return step


def _state_bytes(model: Any, batch: dict[str, torch.Tensor]) -> int:
    """Return the bytes of the trained weights, their gradients and AdamW's state after a step."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    with torch.autocast(model.device.type, torch.bfloat16):
        loss = model(**batch, **at_labels(batch), use_cache=False).loss
    loss.backward()
    optimizer.step()
    kept = [*trained, *(p.grad for p in trained if p.grad is not None)]
    kept += [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    return sum(tensor.numel() * tensor.element_size() for tensor in kept)
