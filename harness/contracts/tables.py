"""Define what an experiment reads, and the tables that it makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.inputs import Arrays
from floe_bench.harness.contracts.record import Record, Stage
from floe_bench.harness.spec.settings import Settings

if TYPE_CHECKING:
    import pandas as pd


class SeveralMeasures(ValueError):
    """Say that a record used several measures of a scorer, where one was asked for."""


class Results(Protocol):
    """Offer what an experiment makes its tables from: finished records, and what their stages kept. No model."""

    @property
    def settings(self) -> Settings: ...

    @property
    def cells(self) -> Sequence[Cell]: ...

    @property
    def records(self) -> Sequence[Record]: ...

    def find(self, cell: Cell) -> Record | None: ...

    def stages(self, record: Record) -> list[Stage]: ...

    def origins(self, record: Record) -> list[dict[str, Any]]: ...

    def arrays(self, record: Record, scorer: str, **parameters: Any) -> Arrays | None:
        """Return what the scorer measured for the record; None where it measured nothing.

        `scorer` is the function's name. A measure matches where it was called with `parameters`, whatever the others.
        Raises SeveralMeasures where several of the record's measures match.
        """
        ...

    def items(self, record: Record, evaluation: str) -> pd.DataFrame: ...


@dataclass(frozen=True)
class Table:
    """Hold one table.

    Attributes:
        id: name of the table's files.
        title: heading.
        frame: numbers, for CSV and JSON.
        view: text, for Markdown and LaTeX.
        notes: paragraphs below the table.
        records: keys of the records that it was made from.
    """

    id: str
    title: str
    frame: pd.DataFrame
    view: pd.DataFrame
    notes: Sequence[str] = ()
    records: Sequence[str] = ()
