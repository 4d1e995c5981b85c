"""How many experts."""

import math

import pandas as pd
import pytest

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.score import Score
from floe_bench.harness.experiments import experts
from floe_bench.harness.spec import profiles

EVALS = ("eval.evals", "mmlu_0shot,validation_nll,router,latency")


def cell(method: str, m: int | None = None, seed: int = 0) -> Cell:
    return Cell(method=method, mix="dolly", seed=seed, varied=((("adapter.num_experts", m), EVALS) if m else (EVALS,)))


EVEN = {"base_model.model.model.layers.0.mlp.up_proj": ([0.5, 0.5], math.log(2))}


def add(made, method, m=None, ms=1.0, gates=EVEN, **content):
    """gates: module -> (its mean gates, its entropy)."""
    made.add(cell(method, m), [0, 1, 2, 3], training=f"{method}-{m}", **content)
    record = made.records[-1]
    lines = [
        {"module": module, "expert": i, "mean_gate": gate, "entropy": entropy}
        for module, (mean_gates, entropy) in gates.items()
        for i, gate in enumerate(mean_gates)
    ]
    made.answers[record.cell]["router"] = pd.DataFrame(lines)
    shared = {"n_items": 1, "tokens": 1, "seconds": 1.0}
    latency = {"ms_per_token": ms, "ms_per_token_q1": 0.9 * ms, "ms_per_token_q3": 1.1 * ms}
    router = {} if method == "base" else {"max_gate": 0.5, "entropy": 0.6}
    scores = {"latency": Score(metrics=latency, **shared), "router": Score(metrics=router, **shared)}
    stages = record.stages.model_copy(update={"evaluations": {"latency": f"evaluation-{method}-{m}"}})
    made.records[-1] = record.model_copy(update={"scores": record.scores | scores, "stages": stages})


def test_cells_are_the_base_every_m_and_the_allotment_at_the_profiles_m():
    settings = profiles.load("tiny", {"mixes": "dolly", "study.experts": [8, 1, 2]})
    assert experts.cells(settings) == [
        cell("base"), *(cell("hydralora", m) for m in (1, 2, 4, 8)), cell("allotted_experts", 4),
    ]  # fmt: skip


def test_scores_are_compared_with_the_smallest_m(made):
    results = made(experts, mixes="dolly")
    rows = [1.0 + 0.1 * i for i in range(12)]
    add(results, "hydralora", 1, nll=rows)
    add(results, "hydralora", 4, nll=[value - 0.2 for value in rows])
    frame = experts.scores_frame(results).set_index("num_experts")
    assert frame["is"].tolist() == ["reference", "compared"]
    assert frame.loc[4, "nll_difference"] == pytest.approx(-0.2) and frame.loc[4, "nll_p"] < 0.05


def test_latency_has_its_planted_slope_and_its_ratio_to_the_base(made):
    results = made(experts, mixes="dolly")
    add(results, "base", ms=2.0)
    for m in (1, 2, 4, 8):
        add(results, "hydralora", m, ms=3.0 + 0.5 * m)
    table = experts.tables(results)[1]
    assert table.frame["of_base"].tolist() == pytest.approx([1.0, 1.75, 2.0, 2.5, 3.5])
    assert table.frame["ms_per_token_q1"].tolist()[0] == pytest.approx(1.8)
    assert "+0.5 ms per token and expert" in table.notes[-1] and "4 models" in table.notes[-1]


def test_an_even_router_has_entropy_and_load_one_and_a_collapsed_one_zero_and_m(made):
    results = made(experts, mixes="dolly")
    even = ([0.25] * 4, math.log(4))
    collapsed = ([1.0, 0.0, 0.0, 0.0], 0.0)
    name = "base_model.model.model.layers.{}.mlp.{}_proj"
    gates = {name.format(0, "up"): even, name.format(0, "down"): even, name.format(10, "up"): collapsed}
    add(results, "hydralora", 4, gates=gates)
    add(results, "hydralora", 1, gates={name.format(0, "up"): ([1.0], 0.0)})
    frame = experts.routing_frame(results).set_index("layer")
    assert frame.loc[0, ["num_experts", "modules", "entropy_share", "max_load"]].tolist() == pytest.approx([4, 2, 1, 1])
    assert frame.loc[10, ["modules", "entropy_share", "max_load"]].tolist() == pytest.approx([1, 0, 4])
    assert len(frame) == 2  # one expert routes nothing


def test_the_allotment_is_compared_with_the_even_spread_of_the_same_m(made):
    results = made(experts, mixes="dolly")
    rows = [1.0 + 0.1 * i for i in range(12)]
    add(results, "hydralora", 2, nll=[9.0] * 12)
    add(results, "hydralora", 4, nll=rows)
    add(results, "allotted_experts", 4, nll=[value + 0.3 for value in rows], details={"experts": [1, 2, 5, 8]})
    (row,) = experts.allotted_frame(results).to_dict("records")
    assert (row["experts"], row["total"], row["nll_difference"]) == ("1 2 5 8", 16, pytest.approx(0.3))


@pytest.mark.slow
def test_runs_for_real(ran_experiment, tmp_path):
    _, (scores, latency, routing, allotted) = ran_experiment(experts, tmp_path, mixes="dolly", study__experts=[1, 2])
    assert scores.frame["num_experts"].tolist() == [1, 2, 4]
    assert latency.frame["num_experts"].tolist() == [0, 1, 2, 4] and latency.frame["ms_per_token"].gt(0).all()
    assert len(routing.frame) == 2 * 4 and routing.frame["modules"].eq(3).all()
    assert routing.frame["entropy_share"].between(0, 1 + 1e-6).all() and routing.frame["max_load"].ge(1 - 1e-6).all()
    assert allotted.frame["total"].tolist() == [16]
    assert allotted.frame["trainable_parameters"].tolist() == allotted.frame["even_trainable"].tolist()


@pytest.mark.parametrize("path", ["gpt_neox.layers.1.mlp.dense_h_to_4h", "transformer.h.1.mlp.c_fc"])
def test_routing_is_by_layer_whatever_the_family_calls_its_list(made, path):
    results = made(experts, mixes="dolly")
    add(results, "hydralora", 2, gates={f"base_model.model.{path}": ([0.25, 0.75], 0.5)})
    (row,) = experts.routing_frame(results).to_dict("records")
    assert (row["layer"], row["max_load"]) == (1, 1.5)
