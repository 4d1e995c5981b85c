"""Judge each of the paper's claims by the records. Each claim is one file in report/claims/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import pandas as pd

from floe_bench.harness.contracts.judgement import Claim, Evidence, Verdict
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Table
from floe_bench.harness.report.numbered import by_number


@dataclass(frozen=True)
class Judge:
    """Hold a claim, its text, and the module whose `judge` is its rule."""

    text: str
    claim: Claim
    module: ModuleType


def judges() -> list[Judge]:
    """Return every claim with its rule, by number. Raises UsageError where two share a number."""
    found = by_number("claim", lambda module: module.CLAIM.number)
    return [Judge(plugin.description, module.CLAIM, module) for plugin, module in found.values()]


def verdict_on(judge: Judge, evidence: Evidence) -> Verdict:
    """Judge a claim by its experiment's evidence.

    It is "not run" without records, and "underpowered" with fewer records or whole seeds than the claim asks for.
    """
    claim = judge.claim
    found = len(evidence.behind(claim))
    if found == 0:
        return Verdict("not run", "–", f"no record of {claim.experiment} that counts")
    if found < claim.records:
        return Verdict("underpowered", "–", f"{found} of the {claim.records} records that a verdict asks for")
    verdict, seeds = judge.module.judge(evidence, claim), evidence.whole_seeds(claim)
    if verdict.verdict in ("reproduced", "not reproduced") and seeds < claim.seeds:
        why = f"{verdict.why}, but on {seeds} of the {claim.seeds} whole seeds that a verdict asks for"
        return Verdict("underpowered", verdict.ours, why)
    return verdict


def table(evidence_of: Mapping[str, Evidence]) -> Table:
    """Return the table of claims, one row each. `evidence_of` maps an experiment to its evidence."""
    rows = []
    for judge in judges():
        claim, evidence = judge.claim, evidence_of[judge.claim.experiment]
        verdict, records = verdict_on(judge, evidence), evidence.behind(claim)
        rows.append(
            {
                "claim": claim.number,
                "text": judge.text,
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
        "Rules and figures: harness/report/claims/. The records' keys are in claims.csv and claims.json.",
    ]
    return Table("claims", "The paper's claims", frame, view, notes)


def _protocol(records: Sequence[Record]) -> str:
    """Write in short the model, mixes, rows, seeds and questions of the records."""
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
