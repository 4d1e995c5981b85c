"""What experiments read from records alike: a cell's accuracy, its NLL, and the layers that scores would select."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from floe_bench.harness.contracts.record import Record
from floe_bench.harness.floe import selection
from floe_bench.harness.spec.settings import SelectionSettings, Settings


def accuracy_of(record: Record) -> float | None:
    """Accuracy of the primary evaluation; None where it has none."""
    score = record.scores.get(record.settings.eval.primary)
    return score.metrics.get("acc") if score else None


def nll_of(record: Record, mix: str | None = None) -> float | None:
    """Validation NLL (nats per token) on `mix`, or on the cell's own; for a mix of mixes the mean over all."""
    scored = record.scores.get("validation_nll")
    if scored is None:
        return None
    return scored.metrics.get(f"nll_{mix or record.cell.mix}", scored.metrics["nll_mean"])


def selected(fisher: ArrayLike, taylor: ArrayLike, settings: SelectionSettings) -> selection.Selection:
    """FLoE's layers for a Fisher (L,) or (L, L) and Taylor importance (L,), under the settings' K and c."""
    T = np.asarray(taylor, dtype=float)
    k = selection.max_layers(settings.layer_fraction, len(T))
    share = selection.budget_share(
        settings.layer_fraction, settings.taylor_budget, settings.taylor_budget_factor, len(T)
    )
    return selection.select(fisher, T, share * float(T.sum()), k)


def layers_text(layers: Any) -> str:
    """Layer numbers as a person reads them: 0 3 5."""
    return " ".join(str(layer) for layer in sorted(layers)) or "–"


def reference_of(settings: Settings) -> str:
    """The method that the others are compared with: study.reference, or the last of the profile's."""
    return settings.study.reference or settings.methods[-1]
