"""Read from records what several experiments need."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from floe_bench.harness.contracts.record import Record
from floe_bench.harness.floe import selection
from floe_bench.harness.spec.settings import SelectionSettings, Settings


def accuracy_of(record: Record) -> float | None:
    """Return the accuracy of the primary evaluation. None where it has none."""
    score = record.scores.get(record.settings.eval.primary)
    return score.metrics.get("acc") if score else None


def nll_of(record: Record, mix: str | None = None) -> float | None:
    """Return the validation NLL (nats per token) on `mix`, or else on the cell's own.

    A mix made of mixes has the mean over all.
    """
    scored = record.scores.get("validation_nll")
    if scored is None:
        return None
    return scored.metrics.get(f"nll_{mix or record.cell.mix}", scored.metrics["nll_mean"])


def selected(fisher: ArrayLike, taylor: ArrayLike, settings: SelectionSettings) -> selection.Selection:
    """Select FLoE's layers by a Fisher (L,) or (L, L) and Taylor importance (L,), under the settings' K and c."""
    T = np.asarray(taylor, dtype=float)
    k = selection.max_layers(settings.layer_fraction, len(T))
    share = selection.budget_share(
        settings.layer_fraction, settings.taylor_budget, settings.taylor_budget_factor, len(T)
    )
    return selection.select(fisher, T, share * float(T.sum()), k)


def layers_text(layers: Any) -> str:
    """Write layer numbers for people: 0 3 5."""
    return " ".join(str(layer) for layer in sorted(layers)) or "–"


def reference_of(settings: Settings) -> str:
    """Return the method that others are compared with: study.reference, or else the last of the methods."""
    return settings.study.reference or settings.methods[-1]
