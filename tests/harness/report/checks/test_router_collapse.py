"""Router collapse: planted in the mean gates."""

import pandas as pd
import pytest

from floe_bench.harness.report.checks import router_collapse

from .healthy import fired, router

LABEL = "dolly / floe / seed 0"


def test_fires_and_names_the_worst_router(run):
    gates = {"layers.0.up_proj": [0.95, 0.05], "layers.1.up_proj": [0.5, 0.5], "layers.1.gate_proj": [0.02, 0.98]}
    run.tables[LABEL, "router"] = router(gates)
    (finding,) = fired(router_collapse, run)
    assert finding.cells == (LABEL,)
    assert "2 of 3 routers" in finding.message and "layers.1.gate_proj, expert 1 with 98.0%" in finding.message


@pytest.mark.parametrize("gates", [[1.0], [0.9, 0.1], [0.25] * 4])
def test_is_silent_for_one_expert_and_for_shared_mass(gates, run):
    run.tables[LABEL, "router"] = router({"layers.0.up_proj": gates})
    assert fired(router_collapse, run) == []


def test_is_silent_where_the_gates_were_not_evaluated(run):
    run.tables[LABEL, "router"] = router({"layers.0.up_proj": [0.99, 0.01]})
    run.change(LABEL, scores={})
    assert fired(router_collapse, run) == []


def test_is_silent_on_a_model_without_a_router(run):
    run.tables[LABEL, "router"] = pd.DataFrame()
    assert fired(router_collapse, run) == []
