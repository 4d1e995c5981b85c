"""Evidence made by hand: the columns that rules read, one row of each table, and what a test changes of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pandas as pd

from floe_bench.harness.contracts.judgement import Evidence, Verdict
from floe_bench.harness.contracts.tables import Results, Table
from floe_bench.harness.report.judging import Judge, judges
from floe_bench.harness.spec import profiles

JUDGE: dict[str, Judge] = {judge.module.__name__.rpartition(".")[2]: judge for judge in judges()}

TESTED = {"is": "compared", "nll_difference": 0.0, "nll_low": -0.001, "nll_high": 0.001, "nll_p": 0.9}
ACCURACY = {"accuracy_low": -0.01, "accuracy_high": 0.01, "accuracy_p": 0.9}

ROWS: dict[str, dict[str, Any]] = {
    "rank_search": {
        "found": 0.98, "found_low": 0.95, "found_high": 1.0, "unique_mean": 6.0, "ranks": 15, "searches": 50,
    },
    "rank_search_flatness": {"friedman_p": 0.001},
    "ranking_stability_pairs": {"mix": "dolly", "seed_a": 0, "differs": "pilot fraction", "spearman": 0.95},
    "ranking_stability_depth": {"spread_over": "conditions", "verdict": "deep layers less stable"},
    "layer_fraction_memory": {
        "mix": "dolly", "quantity": "peak_bytes", "slope": 5e6, "low": 4e6, "high": 6e6, "r_squared": 0.99,
        "quadratic_p": 0.5, "counts": 4,
    },
    "layer_fraction_steps": {
        "mix": "dolly", "k_more": 2, "k_fewer": 1, "nll_range": 0.4, "nll_difference": 0.3, "nll_low": 0.25,
        "nll_high": 0.35, "nll_p": 0.001,
    },
    "experts_latency": {"num_experts": 1, "ms_per_token": 1.0},
    "scoring_cost_trend": {"scorer": "fisher_gradients", "depths": 4, "exponent": 1.0, "low": 0.9, "high": 1.1},
    "fisher_blocks": {"mix": "dolly", "seed": 0, "criterion": "full", "jaccard_diagonal": 0.9},
    "fisher_blocks_training": {"criterion": "full", "at_chance": False, **TESTED, **ACCURACY},
    "cross_domain": {"mix": "code", "layers_from": "dolly", **TESTED},
}  # fmt: skip
"""Table id -> a row that speaks for its claim."""

SETTINGS = profiles.load("tiny")


def evidence(**tables: list[dict[str, Any]]) -> Evidence:
    """Tables of rows, each that of `ROWS` with the changes given."""
    results = cast(Results, SimpleNamespace(settings=SETTINGS, records=[], cells=[]))
    frames = {id: pd.DataFrame([ROWS[id] | changes for changes in rows]) for id, rows in tables.items()}
    return Evidence(results, [Table(id, id, frame, frame) for id, frame in frames.items()])


def rule_of(claim: str, evidence: Evidence) -> Verdict:
    """What the claim's rule says of the evidence, however few its records."""
    return JUDGE[claim].module.judge(evidence, JUDGE[claim].claim)


def reach(claim: str, **tables: list[dict[str, Any]]) -> Verdict:
    """What the rule says of these tables."""
    return rule_of(claim, evidence(**tables))
