"""The experiments' own tables under the rules: the columns that rules read are there, and a verdict comes out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from floe_bench.harness import registry
from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.judgement import Evidence
from floe_bench.harness.contracts.record import Cost, Stage, TrainOutcome
from floe_bench.harness.contracts.score import Score
from floe_bench.harness.experiments import (
    cross_domain,
    experts,
    fisher_blocks,
    layer_fraction,
    rank_search,
    ranking_stability,
    scoring_cost,
)
from floe_bench.harness.report.judging import verdict_on

from ...records import history
from .planted import JUDGE, ROWS

ROW_NLL = 2.0 + 0.1 * np.arange(12)


def searched(made) -> Any:
    """Three seeds of one clear optimum, and trials enough for every rank."""
    results = made(rank_search, mixes="dolly", seeds=3, study__repeated_searches=3, search__trials=60)
    for cell in results.cells:
        curve = {r: 2 + 0.1 * abs(r - 5) + 0.01 * cell.seed for r in range(2, 17)}
        results.add(
            cell,
            searched=history(curve),
        )
    return results


def ranked(made) -> Any:
    """The same scores on every pilot fraction."""
    results = made(ranking_stability, mixes="dolly")
    for cell in results.cells:
        G = np.sqrt(np.tile(np.arange(1.0, 9.0), (4, 1)))
        scores = {"fisher_gradients": {"G": G}, "taylor": {"T": np.ones(8)}}
        results.add(cell, [6, 7], arrays=scores if cell.method.startswith("layer_scores") else None)
    return results


def swept(made) -> Any:
    """A line of memory, and all of the loss in the last step."""
    return swept_over(made, [0.25, 0.5, 0.75, 1.0])


def swept_over(made, fractions: list[float]) -> Any:
    results = made(layer_fraction, mixes="dolly", study__layer_fractions=fractions, seeds=3)
    wobble = np.random.default_rng(0).integers(-3, 4, size=len(results.cells)).tolist()
    for cell, noise in zip(results.cells, wobble, strict=True):
        k = round(4 * dict(cell.varied)["selection.layer_fraction"])
        results.add(cell, range(k), nll=ROW_NLL + (1.0 if k == 1 else 0.0) + 0.001 * k, k=k)
        training = TrainOutcome(
            trainable_parameters=k, total_parameters=9, adapter_bytes=10, optimizer_steps=1, tokens=1,
            truncated_rows=0, control_text_rows=0,
            seconds=1.0, tokens_per_second=1.0, peak_bytes=1000 + 50 * k + noise, peak_kind="made", loss_curve=[],
            learning_rate=1.0,
        )  # fmt: skip
        results.records[-1] = results.records[-1].model_copy(update={"training": training})
    return results


def timed_experts(made) -> Any:
    """Half a millisecond an expert."""
    results = made(experts, mixes="dolly")
    for cell in results.cells:
        m = 0 if cell.method == "base" else dict(cell.varied)["adapter.num_experts"]
        record = results.add(cell, [0, 1, 2, 3], training=cell.label, details={"experts": [m] * 4})
        results.answers[cell]["router"] = pd.DataFrame({"module": [], "expert": [], "mean_gate": [], "entropy": []})
        metrics: dict[str, float] = dict.fromkeys(experts.LATENCIES, 2.0 + 0.5 * m + 0.01 * (m % 3))
        scores = record.scores | {"latency": Score(metrics=metrics, n_items=1, tokens=1, seconds=1.0)}
        stages = record.stages.model_copy(update={"evaluations": {"latency": f"evaluation-{cell.label}"}})
        results.records[-1] = record.model_copy(update={"scores": scores, "stages": stages})
    return results


def blocked(made) -> Any:
    """The diagonal's picks and the blocks' are the same, the full Fisher's train to as good an NLL."""
    results = made(fisher_blocks, mixes="dolly", seeds=3)
    G = np.random.default_rng(0).choice([-1.0, 1.0], size=(400, 6)) * np.arange(1.0, 7.0)
    scores = {"fisher_gradients": {"G": G}, "taylor": {"T": np.ones(6)}}
    for cell in results.cells:
        full = cell.method == "floe_layers:fisher=full"
        nll = ROW_NLL + full * 0.001 * np.tile([1, -1], 6)
        layers, kept = [4, 5] if not full else [3, 5], scores if "scores" in cell.method else None
        results.add(cell, layers, nll=nll, right=[True] * 200, arrays=kept)
    return results


def transferred(made) -> Any:
    """Layers of the general mixes on the special ones: as good as own picks."""
    results = made(cross_domain, seeds=3, mixes="dolly,flanv2,medical,code")
    for cell in results.cells:
        foreign = cell.method in ("floe_layers:on=dolly", "floe_layers:on=flanv2")
        results.add(cell, [0, 1] if foreign else [0, 2], nll=ROW_NLL + foreign * 0.001 * np.tile([1, -1], 6))
    return results


def timed_depths(made) -> Any:
    """Seconds in proportion to depth."""
    results = made(scoring_cost, study__depths=[2, 4, 8, 16])

    class Timed(type(results)):
        def stages(self, record):
            seconds = record.plan.n_layers * (1 + 0.01 * record.cell.seed)
            cost = Cost(seconds=seconds, tokens=100)
            scorers = (f"floe_bench.harness.floe.importance.{scorer}" for scorer in scoring_cost.SCORERS)
            return [Stage(kind="measure", key=name, identity={"scorer": name}, cost=cost) for name in scorers]

    timed = Timed(results.settings, results.cells)
    for cell in results.cells:
        depth = dict(cell.varied)["model.config.num_hidden_layers"]
        timed.add(cell, n_layers=depth, base_parameters=5000 + 300 * depth)
    return timed


CASES: list[tuple[str, Callable[..., Any], str]] = [
    ("search_without_exhaustion", searched, "not reproduced"),  # it trains the whole grid
    ("stable_rankings", ranked, "underpowered"),  # spread nowhere: deep layers are not the less stable ones
    ("linear_memory", swept, "reproduced"),
    ("cliff", swept, "reproduced"),
    ("latency_rises_with_experts", timed_experts, "reproduced"),
    ("diagonal_is_enough", blocked, "reproduced"),
    ("transferred_layers", transferred, "reproduced"),
    ("linear_scoring", timed_depths, "reproduced"),
]


@pytest.mark.parametrize(("rule", "results", "verdict"), CASES, ids=[case[0] for case in CASES])
def test_a_rule_reaches_its_verdict_on_the_experiments_own_tables(rule, results, verdict, made):
    filled = results(made)
    tables = registry.find("experiment", JUDGE[rule].claim.experiment).load().tables(filled)
    frames = {table.id: table.frame for table in tables}
    for id, row in ROWS.items():
        assert id not in frames or set(row) <= set(frames[id].columns), id
    found = verdict_on(JUDGE[rule], Evidence(filled, tables))
    assert found.verdict == verdict, found
    assert "nan" not in found.ours and ".0 of" not in found.ours


@pytest.mark.parametrize("rule", ["linear_memory", "cliff"])
def test_two_numbers_of_layers_show_neither_a_line_nor_a_cliff(rule, made):
    results = swept_over(made, [0.25, 1.0])
    repeated = [record.model_copy(update={"key": f"{record.key}{i}"}) for i in range(2) for record in results.records]
    results.records = repeated  # records enough for both claims
    found = verdict_on(JUDGE[rule], Evidence(results, layer_fraction.tables(results)))
    assert found.verdict == "underpowered" and "fewer than 4 numbers of" in found.why


def test_every_planted_row_belongs_to_a_table_of_a_case(made):
    """So that the test above holds each one's columns against the experiment's."""
    named = {rule: registry.find("experiment", JUDGE[rule].claim.experiment).load() for rule, _, _ in CASES}
    made_ids = {table.id for experiment in named.values() for table in experiment.tables(made(experiment))}
    assert set(ROWS) <= made_ids


def test_whole_numbers_stay_whole_and_what_is_missing_is_none(made):
    filled = timed_experts(made)
    rows = Evidence(filled, experts.tables(filled)).rows("experts_latency")
    assert [row["num_experts"] for row in rows] == [0, 1, 2, 4, 8]
    assert all(isinstance(row["num_experts"], int) for row in rows)
    lone = made(rank_search, mixes="dolly", study__repeated_searches=1)
    lone.add(
        Cell(method=rank_search.METHOD, mix="dolly", seed=0),
        searched=history({2: 1.0}),
    )
    (row,) = Evidence(lone, rank_search.tables(lone)).rows("rank_search")
    assert row["unique_to_best_low"] is None
