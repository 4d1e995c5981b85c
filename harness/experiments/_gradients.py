"""Rank and pick layers by stored gradients G (N samples, L layers) and Taylor importance T (L)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results
from floe_bench.harness.experiments._shared import selected
from floe_bench.harness.floe.selection import max_layers
from floe_bench.harness.spec.settings import SelectionSettings
from floe_bench.harness.stats.ranks import top_k

Floats = NDArray[np.float64]


def scored(results: Results, cell: Cell) -> tuple[Record, Floats, Floats] | None:
    """Return a cell's record, its G (N, L) and T (L). None where it is not finished or lacks one of them."""
    record = results.find(cell)
    if record is None:
        return None
    fisher, taylor = results.arrays(record, "fisher_gradients"), results.arrays(record, "taylor")
    if fisher is None or taylor is None:
        return None
    return record, np.asarray(fisher["G"], dtype=float), np.asarray(taylor["T"], dtype=float)


def ranks(scores: ArrayLike) -> NDArray[np.int_]:
    """Rank the layers along the last axis, 1 for the highest score. Of equal scores the lower layer comes first."""
    order = np.argsort(-np.asarray(scores, dtype=float), axis=-1, kind="stable")
    return np.argsort(order, axis=-1, kind="stable") + 1


def top(scores: ArrayLike, settings: SelectionSettings) -> tuple[int, ...]:
    """Return the K layers of the highest score, whatever their Taylor importance."""
    n_layers = len(np.asarray(scores))
    return top_k(scores, max_layers(settings.layer_fraction, n_layers))


def picks(fisher: ArrayLike, T: ArrayLike, settings: SelectionSettings) -> tuple[int, ...]:
    """Return FLoE's layers, under K and the Taylor budget."""
    return selected(fisher, T, settings).layers
