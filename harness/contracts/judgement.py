"""Define findings of checks, claims of the paper, their evidence and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results, Table
from floe_bench.harness.spec.base import Data

VerdictName = Literal["reproduced", "not reproduced", "underpowered", "not run"]


@dataclass(frozen=True)
class Finding:
    """Hold one thing that a check found.

    Attributes:
        message: what was found, in a sentence with its numbers.
        cells: labels of the cells where it was found.
        check: id of the check. Whoever runs the check fills it in, and its number.
        number: number of the check.
    """

    message: str
    cells: tuple[str, ...]
    check: str = ""
    number: int = 0


class Claim(Data):
    """Hold one claim of the paper, and what a verdict on it asks for.

    Attributes:
        number: the claim's number, for good.
        source: part of the paper that makes the claim.
        paper: the paper's figure, where it gives one.
        protocol: how the paper measured.
        experiment: experiment whose records are the evidence.
        methods: methods whose records count; empty for all.
        mixes: mixes whose records count; empty for all.
        records: least number of finished records that count.
        seeds: least number of whole seeds.
    """

    number: int
    source: str
    paper: str = "–"
    protocol: str
    experiment: str
    methods: tuple[str, ...] = ()
    mixes: tuple[str, ...] = ()
    records: int
    seeds: int = 0

    def counts(self, cell: Cell) -> bool:
        """Return whether the cell counts for the claim.

        An entry of `methods` is a whole name, or a pattern such as floe_layers*.
        """
        of_method = not self.methods or any(fnmatchcase(cell.method, pattern) for pattern in self.methods)
        return of_method and (not self.mixes or cell.mix in self.mixes)


@dataclass(frozen=True)
class Verdict:
    """Hold what a rule found: `ours` is our figure with its interval, `why` the reason in a sentence."""

    verdict: VerdictName
    ours: str
    why: str


@dataclass(frozen=True)
class Evidence:
    """Hold an experiment's records, and the tables made of them."""

    results: Results
    tables: Sequence[Table]

    def rows(self, id: str) -> list[dict[str, Any]]:
        """Return the numbers of the table `id`, row by row. A missing number is None."""
        import pandas as pd

        frame = next(table.frame for table in self.tables if table.id == id)
        return [
            {str(key): None if pd.isna(value) else value for key, value in row.items()}
            for row in frame.to_dict("records")
        ]

    def behind(self, claim: Claim) -> list[Record]:
        """Return the finished records that count for the claim."""
        return [record for record in self.results.records if claim.counts(record.cell)]

    def whole_seeds(self, claim: Claim) -> int:
        """Count the whole seeds. A seed is whole where:

        - every cell of the grid that counts for the claim is finished, and
        - these cells have, on every mix, every method that the claim names without a pattern.
        """
        done = dict.fromkeys(record.cell for record in self.behind(claim)).keys()
        grid: dict[int, set[Cell]] = {}
        for cell in self.results.cells:
            if claim.counts(cell):
                grid.setdefault(cell.seed, set()).add(cell)
        mixes = claim.mixes or {cell.mix for asked in grid.values() for cell in asked}
        named = {(mix, method) for mix in mixes for method in claim.methods if "*" not in method}
        return sum(asked <= done and named <= {(cell.mix, cell.method) for cell in asked} for asked in grid.values())

    @property
    def confidence(self) -> float:
        return self.results.settings.study.confidence
