"""Group records, average over seeds and make tables, for experiments that vary a setting."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

import pandas as pd

from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results, Table
from floe_bench.harness.spec.settings import Settings

Key = TypeVar("Key", bound=Hashable)

EMPTY_NOTE = "No finished cells that this table needs."


def configured_layers(settings: Settings) -> int | None:
    """Return L as the profile states it. None where it leaves it to the model's defaults."""
    return settings.model.config.get("num_hidden_layers")


def grouped(results: Results, key: Callable[[Record], Key]) -> dict[Key, list[Record]]:
    """Group the finished records by key, in the order of their first."""
    groups: dict[Key, list[Record]] = {}
    for record in results.records:
        groups.setdefault(key(record), []).append(record)
    return groups


def same_seeds(first: Sequence[Record], second: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Pair the records of each seed that both sides have."""
    others = {record.cell.seed: record for record in second}
    return [(record, others[record.cell.seed]) for record in first if record.cell.seed in others]


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the numbers present. None where there are none."""
    present = [value for value in values if value is not None and not math.isnan(value)]
    return statistics.fmean(present) if present else None


def forgetting_of(record: Record) -> float | None:
    """Return the change of the NLL on plain text (nats per token) against the base model."""
    prose = record.scores.get("pretrain_nll")
    return prose.metrics["nll_change"] if prose else None


def made_table(id: str, title: str, frame: pd.DataFrame, shown: pd.DataFrame, notes: list[str]) -> Table:
    """Make a table. Without rows it has one note, which says why."""
    return Table(id, title, frame, shown, notes if len(frame) else [EMPTY_NOTE])


def of_first_seed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the least seed."""
    return frame if frame.empty else frame.loc[frame["seed"] == frame["seed"].min()]
