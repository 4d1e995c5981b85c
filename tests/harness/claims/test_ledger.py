"""The ledger: complete, its rules and figures known, and no verdict from fewer records than it asks for."""

import inspect
import re
from fnmatch import fnmatchcase
from types import SimpleNamespace
from typing import cast

import pytest

from harness import claims, registry
from harness.claims import Claim, Evidence, Verdict, _relative, rules
from harness.contracts import Cell, Results

from ..records import SETTINGS, record

LEDGER = claims.ledger()
EVERY_CLAIM = pytest.mark.parametrize("claim", LEDGER, ids=lambda claim: str(claim.number))
REACHED = Verdict("reproduced", "1", "planted")


def results_of(*cells: Cell) -> Results:
    records = [record(cell.method, cell.seed, 0.5, cell=cell, key=f"key{i}") for i, cell in enumerate(cells)]
    return cast(Results, SimpleNamespace(records=records, settings=SETTINGS))


def counting(claim: Claim, n: int) -> list[Cell]:
    """n cells that count for the claim."""
    method = claim.methods[0].removesuffix("*") if claim.methods else "floe"
    return [Cell(method=method, mix=claim.mixes[0] if claim.mixes else "dolly", seed=seed) for seed in range(n)]


def others(claim: Claim) -> list[Cell]:
    """Many cells of the same experiment that do not count for the claim."""
    of_method = [Cell(method="base", mix=mix, seed=s) for mix in claim.mixes or ["dolly"] for s in range(20)]
    of_mix = [cell.model_copy(update={"mix": "pretrain"}) for cell in counting(claim, 20)]
    return (of_method if claim.methods else []) + (of_mix if claim.mixes else [])


def test_eleven_claims_by_number():
    assert [claim.number for claim in LEDGER] == list(range(1, 12))
    assert all(claim.text and claim.source and claim.protocol for claim in LEDGER)


@EVERY_CLAIM
def test_rule_experiment_and_mixes_are_known(claim):
    assert list(inspect.signature(getattr(rules, claim.rule)).parameters) == ["evidence", "claim"]
    registry.find("experiment", claim.experiment)
    assert set(claim.mixes) <= set(registry.plugins("mix"))
    assert all(registry.parse_method(name.removesuffix("*")) for name in claim.methods if not name.endswith("block*"))


@EVERY_CLAIM
def test_the_ledger_holds_just_the_figures_that_the_rule_reads(claim):
    source = inspect.getsource(getattr(rules, claim.rule))
    if "relative_accuracy(" in source:
        source += inspect.getsource(_relative.relative_accuracy)
    read = {re.sub(r"\{\w+\}", "*", name) for name in re.findall(r'figures\[f?["\']([^"\']+)["\']\]', source)}
    assert {name for name in read if "*" not in name} <= set(claim.figures)
    assert all(any(fnmatchcase(figure, name) for name in read) for figure in claim.figures)


@EVERY_CLAIM
def test_no_verdict_from_fewer_records_than_asked_however_many_others_there_are(claim, monkeypatch):
    monkeypatch.setattr(rules, claim.rule, lambda evidence, claim: REACHED)
    extra = others(claim)

    def judged(n: int) -> Verdict:
        return claims.judge(claim, Evidence(results_of(*counting(claim, n), *extra), []))

    assert judged(0).verdict == "not run"
    assert judged(claim.records - 1).verdict == "underpowered"
    assert f"{claim.records - 1} of the {claim.records} records" in judged(claim.records - 1).why
    assert judged(claim.records) == REACHED


def test_the_table_names_for_each_claim_the_records_behind_it_and_no_others(monkeypatch):
    for rule in {claim.rule for claim in LEDGER}:
        monkeypatch.setattr(rules, rule, lambda evidence, claim: REACHED)
    evidence = {claim.experiment: Evidence(results_of(), []) for claim in LEDGER}
    mine = counting(LEDGER[0], LEDGER[0].records)
    evidence["main"] = Evidence(results_of(*mine, *others(LEDGER[0])), [])
    table = claims.table(evidence)
    assert table.frame["claim"].tolist() == list(range(1, 12))
    first = table.frame.iloc[0]
    assert first["verdict"] == "reproduced" and first["records"].split() == [f"key{i}" for i in range(len(mine))]
    assert (
        first["our_protocol"].startswith("random weights, random-llama, dolly, ") and "6 seeds" in first["our_protocol"]
    )
    assert "100 questions" in first["our_protocol"]
    assert set(table.frame["verdict"][1:]) == {"not run"} and set(table.frame["our_protocol"][2:]) == {"–"}
    assert table.view["Records"].tolist()[0] == "6 of main"
