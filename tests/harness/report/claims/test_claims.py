"""The claims: complete, what they name is known, and no verdict from fewer records than one asks for."""

from types import SimpleNamespace
from typing import cast

import pytest

from floe_bench.harness import registry
from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.judgement import Claim, Evidence, Verdict
from floe_bench.harness.contracts.tables import Results
from floe_bench.harness.errors import UsageError
from floe_bench.harness.report.claims import cliff
from floe_bench.harness.report.judging import judges, table, verdict_on

from ...records import SETTINGS, record

JUDGES = judges()
EVERY_CLAIM = pytest.mark.parametrize("judge", JUDGES, ids=lambda judge: str(judge.claim.number))
REACHED = Verdict("reproduced", "1", "planted")
OF_SEVERAL_SEEDS = pytest.mark.parametrize(
    "judge", [judge for judge in JUDGES if judge.claim.seeds], ids=lambda judge: str(judge.claim.number)
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
    assert [judge.claim.number for judge in JUDGES] == list(range(1, 12))
    assert all(judge.text and judge.claim.source and judge.claim.protocol for judge in JUDGES)


def test_two_claims_of_one_number_are_refused(monkeypatch):
    monkeypatch.setattr(cliff, "CLAIM", cliff.CLAIM.model_copy(update={"number": 1}))
    with pytest.raises(UsageError, match="claims cliff and share_of_full both have number 1"):
        judges()


@EVERY_CLAIM
def test_experiment_mixes_and_methods_are_known(judge):
    claim = judge.claim
    registry.find("experiment", claim.experiment)
    assert set(claim.mixes) <= set(registry.plugins("mix"))
    assert all(registry.parse_method(name.removesuffix("*")) for name in claim.methods if not name.endswith("block*"))


@EVERY_CLAIM
def test_no_verdict_from_fewer_records_than_asked_however_many_others_there_are(judge, monkeypatch):
    claim = judge.claim
    monkeypatch.setattr(judge.module, "judge", lambda evidence, claim: REACHED)
    extra = others(claim)

    def judged(n: int) -> Verdict:
        return verdict_on(judge, Evidence(results_of(*counting(claim, n), *extra), []))

    assert judged(0).verdict == "not run"
    assert judged(claim.records - 1).verdict == "underpowered"
    assert f"{claim.records - 1} of the {claim.records} records" in judged(claim.records - 1).why
    assert judged(claim.records) == REACHED


@OF_SEVERAL_SEEDS
def test_no_verdict_from_fewer_whole_seeds_than_asked_however_many_records_there_are(judge, monkeypatch):
    claim = judge.claim
    monkeypatch.setattr(judge.module, "judge", lambda evidence, claim: REACHED)
    few = [cell for seed in range(claim.seeds - 1) for cell in of_seed(claim, seed)]
    few += [
        cell.model_copy(update={"varied": (("adapter.r", r),)}) for cell in few for r in range(2, 2 + claim.records)
    ]
    last = of_seed(claim, claim.seeds - 1)
    assert len(few) >= claim.records

    def judged(results: Results) -> Verdict:
        return verdict_on(judge, Evidence(results, []))

    padding = [Cell(method=last[0].method, mix=last[0].mix, seed=99, varied=(("adapter.r", r),)) for r in range(20)]
    missing = Cell(method=padding[0].method, mix=padding[0].mix, seed=99, varied=(("adapter.r", 99),))
    short = judged(unfinished(results_of(*few, *padding), missing))  # seed 99 has records, but not all of them
    assert short.verdict == "underpowered" and f"{claim.seeds - 1} of the {claim.seeds} whole seeds" in short.why
    assert judged(results_of(*few, *last, *padding)) == REACHED
    without = judged(unfinished(results_of(*few, *last[1:], *padding), last[0], missing))
    assert without.verdict == "underpowered"  # one cell of the last seed failed


@OF_SEVERAL_SEEDS
@pytest.mark.parametrize("name", ["not run", "underpowered"])
def test_too_few_seeds_make_no_verdict_of_none(judge, name, monkeypatch):
    claim = judge.claim
    none = Verdict(name, "1", "planted")
    monkeypatch.setattr(judge.module, "judge", lambda evidence, claim: none)
    one = of_seed(claim, 0) + [
        cell.model_copy(update={"varied": (("adapter.r", r),)}) for cell in of_seed(claim, 0) for r in range(2, 20)
    ]
    assert verdict_on(judge, Evidence(results_of(*one), [])) == none


def test_one_pair_of_mixes_of_four_is_no_transfer(monkeypatch):
    """Claim 9 is of two general mixes on two special ones."""
    (judge,) = (judge for judge in JUDGES if judge.claim.number == 9)
    claim = judge.claim
    monkeypatch.setattr(judge.module, "judge", lambda evidence, claim: REACHED)
    of_pair = ("floe_layers", "floe_layers:on=dolly")
    pair = [Cell(method=method, mix="code", seed=seed) for seed in range(12) for method in of_pair]
    found = verdict_on(judge, Evidence(results_of(*pair), []))
    assert found.verdict == "underpowered" and "0 of the 3 whole seeds" in found.why
    everything = [cell for seed in range(3) for cell in of_seed(claim, seed)]
    assert verdict_on(judge, Evidence(results_of(*everything), [])) == REACHED


def test_the_table_names_for_each_claim_the_records_behind_it_and_no_others(monkeypatch):
    for judge in JUDGES:
        monkeypatch.setattr(judge.module, "judge", lambda evidence, claim: REACHED)
    evidence = {judge.claim.experiment: Evidence(results_of(), []) for judge in JUDGES}
    first_claim = JUDGES[0].claim
    mine = counting(first_claim, first_claim.records)
    evidence["main"] = Evidence(results_of(*mine, *others(first_claim)), [])
    made = table(evidence)
    assert made.frame["claim"].tolist() == list(range(1, 12))
    first = made.frame.iloc[0]
    assert first["verdict"] == "reproduced" and first["records"].split() == [f"key{i}" for i in range(len(mine))]
    assert (
        first["our_protocol"].startswith("random weights, random-llama, dolly, ") and "3 seeds" in first["our_protocol"]
    )
    assert "100 questions" in first["our_protocol"]
    assert set(made.frame["verdict"][1:]) == {"not run"} and set(made.frame["our_protocol"][2:]) == {"–"}
    assert made.view["Records"].tolist()[0] == "9 of main"
