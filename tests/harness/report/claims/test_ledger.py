"""The ledger: complete, its rules and figures known, and no verdict from fewer records than it asks for."""

import inspect
import re
from fnmatch import fnmatchcase
from types import SimpleNamespace
from typing import cast

import pytest

from floe_bench.harness import registry
from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.tables import Results
from floe_bench.harness.report import claims
from floe_bench.harness.report.claims import Claim, Evidence, Verdict, _relative, rules

from ...records import SETTINGS, record

LEDGER = claims.ledger()
EVERY_CLAIM = pytest.mark.parametrize("claim", LEDGER, ids=lambda claim: str(claim.number))
REACHED = Verdict("reproduced", "1", "planted")
OF_SEVERAL_SEEDS = pytest.mark.parametrize(
    "claim", [claim for claim in LEDGER if claim.seeds], ids=lambda claim: str(claim.number)
)


def results_of(*cells: Cell) -> Results:
    records = [record(cell.method, cell.seed, 0.5, cell=cell, key=f"key{i}") for i, cell in enumerate(cells)]
    return cast(Results, SimpleNamespace(records=records, cells=cells, settings=SETTINGS))


def unfinished(results: Results, *cells: Cell) -> Results:
    """The same records of a grid that has these cells too."""
    return cast(Results, SimpleNamespace(records=results.records, cells=[*results.cells, *cells], settings=SETTINGS))


def of_seed(claim: Claim, seed: int) -> list[Cell]:
    """One seed's cells that count for the claim: every method on every mix."""
    methods = [method.removesuffix("*") for method in claim.methods] or ["floe"]
    return [Cell(method=method, mix=mix, seed=seed) for mix in claim.mixes or ["dolly"] for method in methods]


def counting(claim: Claim, n: int) -> list[Cell]:
    """n cells that count for the claim, seed after seed."""
    return [cell for seed in range(n) for cell in of_seed(claim, seed)][:n]


def others(claim: Claim) -> list[Cell]:
    """Many cells of the same experiment that do not count for the claim."""
    of_method = [Cell(method="random_layers", mix=mix, seed=s) for mix in claim.mixes or ["dolly"] for s in range(20)]
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


@OF_SEVERAL_SEEDS
def test_no_verdict_from_fewer_whole_seeds_than_asked_however_many_records_there_are(claim, monkeypatch):
    monkeypatch.setattr(rules, claim.rule, lambda evidence, claim: REACHED)
    few = [cell for seed in range(claim.seeds - 1) for cell in of_seed(claim, seed)]
    few += [
        cell.model_copy(update={"varied": (("adapter.r", r),)}) for cell in few for r in range(2, 2 + claim.records)
    ]
    last = of_seed(claim, claim.seeds - 1)
    assert len(few) >= claim.records

    def judged(results: Results) -> Verdict:
        return claims.judge(claim, Evidence(results, []))

    padding = [Cell(method=last[0].method, mix=last[0].mix, seed=99, varied=(("adapter.r", r),)) for r in range(20)]
    missing = Cell(method=padding[0].method, mix=padding[0].mix, seed=99, varied=(("adapter.r", 99),))
    short = judged(unfinished(results_of(*few, *padding), missing))  # seed 99 has records, but not all of them
    assert short.verdict == "underpowered" and f"{claim.seeds - 1} of the {claim.seeds} whole seeds" in short.why
    assert judged(results_of(*few, *last, *padding)) == REACHED
    without = judged(unfinished(results_of(*few, *last[1:], *padding), last[0], missing))
    assert without.verdict == "underpowered"  # one cell of the last seed failed


@OF_SEVERAL_SEEDS
@pytest.mark.parametrize("name", ["not run", "underpowered"])
def test_too_few_seeds_make_no_verdict_of_none(claim, name, monkeypatch):
    none = Verdict(name, "1", "planted")
    monkeypatch.setattr(rules, claim.rule, lambda evidence, claim: none)
    one = of_seed(claim, 0) + [
        cell.model_copy(update={"varied": (("adapter.r", r),)}) for cell in of_seed(claim, 0) for r in range(2, 20)
    ]
    assert claims.judge(claim, Evidence(results_of(*one), [])) == none


def test_one_pair_of_mixes_of_four_is_no_transfer(monkeypatch):
    """Claim 9 is of two general mixes on two special ones."""
    (claim,) = (claim for claim in LEDGER if claim.number == 9)
    monkeypatch.setattr(rules, claim.rule, lambda evidence, claim: REACHED)
    of_pair = ("floe_layers", "floe_layers:on=dolly")
    pair = [Cell(method=method, mix="code", seed=seed) for seed in range(12) for method in of_pair]
    found = claims.judge(claim, Evidence(results_of(*pair), []))
    assert found.verdict == "underpowered" and "0 of the 3 whole seeds" in found.why
    everything = [cell for seed in range(3) for cell in of_seed(claim, seed)]
    assert claims.judge(claim, Evidence(results_of(*everything), [])) == REACHED


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
        first["our_protocol"].startswith("random weights, random-llama, dolly, ") and "3 seeds" in first["our_protocol"]
    )
    assert "100 questions" in first["our_protocol"]
    assert set(table.frame["verdict"][1:]) == {"not run"} and set(table.frame["our_protocol"][2:]) == {"–"}
    assert table.view["Records"].tolist()[0] == "9 of main"
