"""What checks find, and what is judged of the paper's claims."""

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
    """One thing that a check found: in which cells (labels), and what, in a sentence with its numbers."""

    check: str
    number: int
    message: str
    cells: tuple[str, ...]


class Claim(Data):
    """One claim of the paper, and what a verdict on it asks for.

    experiment: whose records are the evidence. Those of `methods` and `mixes` count, where these are given.
    records: the least number of finished records that count. seeds: the least number of whole seeds.
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
        """Whether the verdict can rest on the cell; a method is named whole or by a pattern such as floe_layers*."""
        of_method = not self.methods or any(fnmatchcase(cell.method, pattern) for pattern in self.methods)
        return of_method and (not self.mixes or cell.mix in self.mixes)


@dataclass(frozen=True)
class Verdict:
    """What a rule found: `ours` is our figure with its interval, `why` the reason in a sentence."""

    verdict: VerdictName
    ours: str
    why: str


@dataclass(frozen=True)
class Evidence:
    """An experiment's records, and the tables made of them."""

    results: Results
    tables: Sequence[Table]

    def rows(self, id: str) -> list[dict[str, Any]]:
        """The numbers of the table of that id, row by row; what is missing is None."""
        import pandas as pd

        frame = next(table.frame for table in self.tables if table.id == id)
        return [
            {str(key): None if pd.isna(value) else value for key, value in row.items()}
            for row in frame.to_dict("records")
        ]

    def behind(self, claim: Claim) -> list[Record]:
        """The finished records that count for the claim."""
        return [record for record in self.results.records if claim.counts(record.cell)]

    def whole_seeds(self, claim: Claim) -> int:
        """Seeds of which every cell of the grid that counts is finished, and among them, on every mix, every method
        that the claim names whole."""
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
