"""Compare trained cells with a reference, one row of a table each, paired over items and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import pandas as pd

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results
from floe_bench.harness.experiments._accuracy import CHANCE_NOTE, accuracy_columns, accuracy_text
from floe_bench.harness.experiments._shared import layers_text, nll_of
from floe_bench.harness.experiments._sweep import mean
from floe_bench.harness.report import pairing
from floe_bench.harness.report.format import count, digits


@dataclass(frozen=True)
class Contrast:
    """One row of a table.

    columns: what identifies the row. records: its finished records. pairs: those with a reference's record of the same
    seed beside them.
    """

    columns: Mapping[str, Any]
    records: Sequence[Record]
    pairs: pairing.Pairs

    @property
    def trainings(self) -> tuple[tuple[Any, Any], ...]:
        """Return both sides' training stages, seed by seed. Rows with equal ones are one comparison."""
        return tuple((a.stages.training, b.stages.training) for a, b in self.pairs)

    @property
    def is_reference(self) -> bool:
        return bool(self.pairs) and all(a is b for a, b in self.pairs)

    @property
    def is_same_training(self) -> bool:
        """Return whether the reference has the same training stage on every seed."""
        return bool(self.pairs) and all(a == b for a, b in self.trainings)

    @property
    def is_tested(self) -> bool:
        return bool(self.pairs) and not self.is_reference and not self.is_same_training


def contrast(results: Results, cells: Sequence[Cell], reference: Sequence[Cell], **columns: Any) -> Contrast | None:
    """Contrast `cells` with `reference`, one of each per seed. None where none of `cells` is finished."""
    found = [(results.find(cell), results.find(other)) for cell, other in zip(cells, reference, strict=True)]
    records = [record for record, _ in found if record]
    pairs = [(record, other) for record, other in found if record and other]
    return Contrast(columns, records, pairs) if records else None


def contrast_frame(results: Results, rows: Sequence[Contrast | None]) -> pd.DataFrame:
    """Return one line, row - reference, for each row that has records.

    `nll` (nats per token on the cell's own mix) and `accuracy` (a fraction) are means over seeds. Holm corrects for the
    comparisons that were made. So a reference is not tested, nor a row with the reference's training. Rows that share
    their trainings are tested once.
    """
    confidence = results.settings.study.confidence
    present = [row for row in rows if row]
    tests = {row.trainings: row.pairs for row in present if row.is_tested}
    found = dict(zip(tests, pairing.compared(results, results, list(tests.values()), confidence), strict=True))
    frame = []
    for row in present:
        accuracy, nll = found.get(row.trainings, pairing.UNTESTED)
        frame.append(_columns(results, row) | accuracy | nll)
    return pd.DataFrame(frame)


ACCURACY = replace(pairing.ACCURACY, difference="Difference, points")
NLL = replace(pairing.NLL, difference="Difference, nats")


def contrast_view(alpha: float) -> dict[str, Any]:
    """Return the `View` of a `contrast_frame`. Only a significant difference is called one."""
    return (
        {
            "Seeds": "seeds",
            "Layers": "layers",
            "Trainable": ("trainable_parameters", count),
            "Accuracy %": accuracy_text,
        }
        | ACCURACY.view(alpha)
        | {"NLL": ("nll", digits(4))}
        | NLL.view(alpha)
    )


def contrast_notes(results: Results, reference: str) -> list[str]:
    """Return what a reader must know of the columns of `contrast_view`."""
    study = results.settings.study
    lines = [
        f"Differences are to {reference}, paired by question (clustered by subject) and by row, with their "
        f"{study.confidence:.0%} interval; p after Holm over the whole table. A tie is a difference that is not "
        f"significant at {1 - study.confidence:.2g}, which does not show that there is none. Sees: the least "
        "difference found with a power of 80 % by one test before Holm. Same training: the same layers were trained "
        f"on the same rows, so there is nothing to test. {CHANCE_NOTE}",
    ]
    if results.settings.seeds < 3:
        lines.append(f"{_seeds(results.settings.seeds)}: p speaks of these trained models, not of training them again.")
    return lines


def _seeds(n: int) -> str:
    return "One seed" if n == 1 else f"{n} seeds"


def _columns(results: Results, row: Contrast) -> dict[str, Any]:
    layers = dict.fromkeys(layers_text(record.plan.layers) for record in row.records)
    return {
        **row.columns,
        "seeds": len(row.records),
        "layers": " | ".join(layers),
        "trainable_parameters": fmean(record.plan.trainable_parameters for record in row.records),
        "is": "reference" if row.is_reference else "same training" if row.is_same_training else "compared",
        **accuracy_columns(results, row.records),
        "nll": mean(nll_of(record) for record in row.records),
    }
