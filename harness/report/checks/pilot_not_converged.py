"""Pilot not converged

What: the training loss of a pilot did not fall from its first to its last quarter by more than the noise between
its batches. Or it was still falling in the last quarter. Or the pilot took too few steps to tell.

Why: Fisher scores are computed from gradients at the pilot. At an untrained adapter (every B near 0) they say little
about the task, and the layers picked change as the pilot goes on.

What to do: raise data.pilot_fraction or train.epochs; where the loss hardly moves, train.learning_rate.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from floe_bench.harness.contracts.judgement import Finding
from floe_bench.harness.contracts.tables import Results

NUMBER = 5

MIN_STEPS = 8
"""Two optimiser steps in each quarter: the fewest that show any noise."""

STILL_FALLING = 0.25
"""Above this share of the whole fall, the last quarter still falls. A straight line has a third there, an exponential
fall a few per cent."""

STANDARD_ERRORS = 2.0
"""A difference of means above this many standard errors is taken for more than noise."""


def find(results: Results) -> list[Finding]:
    curves: dict[str, list[float]] = {}
    cells: dict[str, list[str]] = defaultdict(list)
    for record in results.records:
        for stage in results.stages(record):
            if stage.kind == "training":
                curves[stage.key] = stage.result["loss_curve"]
                cells[stage.key].append(record.cell.label)
    found = [(_fault(curve), cells[key]) for key, curve in curves.items()]
    return [Finding(fault, tuple(labels)) for fault, labels in found if fault is not None]


def _fault(curve: Sequence[float]) -> str | None:
    steps = len(curve)
    if steps < MIN_STEPS:
        return f"the pilot took {steps} optimiser steps: too few to tell whether it converged (at least {MIN_STEPS})"
    first, _, third, last = np.array_split(np.asarray(curve, dtype=float), 4)
    fall = first.mean() - last.mean()
    if not fall > STANDARD_ERRORS * _standard_error(first, last):
        return (
            f"the pilot's loss did not fall beyond the noise of its batches: {first.mean():.3f} in the first quarter "
            f"of {steps} steps, {last.mean():.3f} in the last"
        )
    recent = third.mean() - last.mean()
    if recent > STILL_FALLING * fall and recent > STANDARD_ERRORS * _standard_error(third, last):
        return (
            f"the pilot's loss was still falling when it ended: {recent:.3f} of its fall of {fall:.3f} nats came in "
            f"the last quarter of {steps} steps"
        )
    return None


def _standard_error(a: np.ndarray, b: np.ndarray) -> float:
    """Return the standard error of the difference of two means, with separate variances (Welch)."""
    return math.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
