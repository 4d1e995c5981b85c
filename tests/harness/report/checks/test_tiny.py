"""What fires on a real run of the tiny profile, and why it may."""

import pytest

from floe_bench.harness.cli.main import main as floe_bench
from floe_bench.harness.experiments import main
from floe_bench.harness.report.checking import run_checks
from floe_bench.harness.store.folder import Store
from floe_bench.harness.store.results import StoredResults

EXPLAINED = {
    4: "two or three ranks are searched: one of them is often an edge",
    5: "a pilot of 8 rows takes one optimiser step",
    6: "a random model guesses",
    7: "the two searches are free to try different numbers of ranks",
    9: "measured on real questions and rows",
    11: "a checkout under work has uncommitted changes",
}


@pytest.mark.slow
def test_only_what_a_random_model_explains_fires(tmp_path):
    methods = "base,lora,floe,grid_rank"
    assert floe_bench(["run", "tiny", "--methods", methods, "--mixes", "dolly", "--results", str(tmp_path)]) == 0
    store = Store(tmp_path, "tiny")
    settings = store.records()[0].settings.model_copy(
        update={"methods": tuple(methods.split(",")), "mixes": ("dolly",), "seeds": 1}
    )
    findings = run_checks(StoredResults(store, settings, main.cells(settings)))
    fired = {finding.number for finding in findings}
    assert fired <= set(EXPLAINED), [f for f in findings if f.number not in EXPLAINED]
    assert {5, 6} <= fired
