"""The paper's claims, and the verdict that the records allow on each.

`ledger.toml` says what is claimed and what a verdict asks for, `rules.py` how it is reached.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results, Table
from floe_bench.harness.spec.base import Data

VerdictName = Literal["reproduced", "not reproduced", "underpowered", "not run"]


class Claim(Data):
    """One claim, and what its verdict asks for.

    experiment: whose records are the evidence; of them count those of `methods` and `mixes`, where these are given.
    records: the least number of finished ones that count. seeds: the least number of whole ones. figures: the
    rule's own numbers.
    """

    number: int
    text: str
    source: str
    paper: str = "–"
    protocol: str
    experiment: str
    methods: tuple[str, ...] = ()
    mixes: tuple[str, ...] = ()
    rule: str
    records: int
    seeds: int = 0
    figures: dict[str, Any]

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


def ledger() -> list[Claim]:
    """Every claim, by number."""
    content = tomllib.loads((Path(__file__).parent / "ledger.toml").read_text(encoding="utf-8"))
    own = set(Claim.model_fields) - {"number", "figures"}
    return [
        Claim(
            number=int(number),
            **{key: value for key, value in entry.items() if key in own},
            figures={key: value for key, value in entry.items() if key not in own},
        )
        for number, entry in sorted(content.items(), key=lambda pair: int(pair[0]))
    ]


@dataclass(frozen=True)
class Evidence:
    """An experiment's records, and the tables made of them."""

    results: Results
    tables: Sequence[Table]

    def rows(self, id: str) -> list[dict[str, Any]]:
        """The numbers of the table of that id, row by row; what is missing is None."""
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


def judge(claim: Claim, evidence: Evidence) -> Verdict:
    """The verdict on a claim from its experiment's evidence; none from fewer records than the claim asks for."""
    from floe_bench.harness.report.claims import rules

    found = len(evidence.behind(claim))
    if found == 0:
        return Verdict("not run", "–", f"no record of {claim.experiment} that counts")
    if found < claim.records:
        return Verdict("underpowered", "–", f"{found} of the {claim.records} records that a verdict asks for")
    verdict, seeds = getattr(rules, claim.rule)(evidence, claim), evidence.whole_seeds(claim)
    if verdict.verdict in ("reproduced", "not reproduced") and seeds < claim.seeds:
        why = f"{verdict.why}, but on {seeds} of the {claim.seeds} whole seeds that a verdict asks for"
        return Verdict("underpowered", verdict.ours, why)
    return verdict


def table(evidence_of: Mapping[str, Evidence]) -> Table:
    """One row per claim, from the evidence of each experiment."""
    rows = []
    for claim in ledger():
        evidence = evidence_of[claim.experiment]
        verdict, records = judge(claim, evidence), evidence.behind(claim)
        rows.append(
            {
                "claim": claim.number,
                "text": claim.text,
                "paper": claim.paper,
                "ours": verdict.ours,
                "protocol": claim.protocol,
                "our_protocol": _protocol(records),
                "verdict": verdict.verdict,
                "why": verdict.why,
                "experiment": claim.experiment,
                "records": " ".join(record.key for record in records),
            }
        )
    frame = pd.DataFrame(rows)
    view = pd.DataFrame(
        {
            "": frame["claim"],
            "Claim": frame["text"],
            "Paper": frame["paper"],
            "Ours": frame["ours"],
            "Verdict": frame["verdict"],
            "Why": frame["why"],
            "Paper's protocol": frame["protocol"],
            "Ours was": frame["our_protocol"],
            "Records": [
                f"{len(keys.split())} of {experiment}"
                for keys, experiment in zip(frame["records"], frame["experiment"], strict=True)
            ],
        }
    )
    notes = [
        "A verdict holds for our protocol, not for the paper's: where they differ, it speaks of the claim's direction.",
        "Rules and figures: harness/claims/. The records' keys are in claims.csv and claims.json.",
    ]
    return Table("claims", "The paper's claims", frame, view, notes)


def _protocol(records: Sequence[Record]) -> str:
    """Model, mixes, rows, seeds and questions of the records, in short."""
    if not records:
        return "–"
    mixes = list(dict.fromkeys(record.cell.mix for record in records))
    seeds = len({record.cell.seed for record in records})
    rows = sorted({record.data.train_rows for record in records if record.data.train_rows})
    questions = {
        score.n_items
        for record in records
        for name, score in record.scores.items()
        if name == record.settings.eval.primary and score.chance is not None
    }
    model = records[0].settings.model
    parts = [
        ("random weights, " if model.source == "random" else "") + model.id.rpartition("/")[2],
        "+".join(mixes),
        f"{'–'.join(map(str, sorted({rows[0], rows[-1]})))} training rows" if rows else "",
        f"{seeds} seed{'s' if seeds > 1 else ''}",
        f"{max(questions)} questions" if questions else "",
    ]
    return ", ".join(part for part in parts if part)
