"""Non-finite or exploding loss

What: in a training, a pilot or a probe the loss was not a finite number, or rose to several times its first value.

Why: such a training does not show the method at its best. A single spike can undo all that was learned before.

What to do: lower train.learning_rate, add warm-up, check train.max_grad_norm and the data at that step. A cell
whose loss became NaN while it ran has failed, and is among the missing cells.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from floe_bench.harness.contracts.judgement import Finding
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results

NUMBER = 10

EXPLODING = 3.0
"""A loss above this many times the first explodes. A fine-tuning starts at 1 to 4 nats; guessing among 32,000 tokens
costs 10.4. In the reference runs' trainings the highest batch was 1.64 times the first."""


def find(results: Results) -> list[Finding]:
    cells: dict[str, list[str]] = defaultdict(list)
    for record in results.records:
        faults = {name: _explosion(curve) for name, curve in _curves(results, record)} | _divergences(results, record)
        for name, fault in faults.items():
            if fault:
                cells[f"{name}: {fault}"].append(record.cell.label)
    return [Finding(message, tuple(labels)) for message, labels in cells.items()]


def _curves(results: Results, record: Record) -> Iterator[tuple[str, list[float]]]:
    if record.training:
        yield "training", record.training.loss_curve
    for stage in results.stages(record):
        if stage.kind == "training":
            yield f"pilot {stage.key}", stage.result["loss_curve"]
        elif stage.kind == "probe" and "diverged" not in stage.result:
            yield f"probe {stage.key}", stage.result["training"]["loss_curve"]


def _divergences(results: Results, record: Record) -> dict[str, str | None]:
    """Return each probe that diverged, and how. Other trainings that diverge fail their cell."""
    probes = [stage for stage in results.stages(record) if stage.kind == "probe" and "diverged" in stage.result]
    return {f"probe {stage.key}": stage.result["diverged"] for stage in probes}


def _explosion(curve: Sequence[float]) -> str | None:
    if not curve or max(curve) <= EXPLODING * curve[0]:
        return None
    worst = max(curve)
    return f"the loss rises from {curve[0]:.3g} to {worst:.3g} at step {curve.index(worst) + 1} of {len(curve)}"
