"""Proxy drift: its cells, agreement with no drift by hand, the first share that hurts, and the slope."""

from pathlib import Path

import numpy as np
import pytest

from floe_bench.harness import registry
from floe_bench.harness.experiments import proxy_drift

RISE = np.array([0.1, 0.2, 0.1, 0.2, 0.1, 0.2, 0.1, 0.2])


def test_cells_drift_to_the_next_mix_and_share_0_is_plain(made):
    results = made(proxy_drift, mixes=["dolly", "code"], study__drift_shares=[0.0, 0.25, 1.0])
    assert [(cell.mix, cell.method) for cell in results.cells] == [
        ("dolly", "floe_layers"),
        ("dolly", "floe_layers:drift_to=code:drift=0.25"),
        ("dolly", "floe_layers:drift_to=code:drift=1.0"),
        ("code", "floe_layers"),
        ("code", "floe_layers:drift_to=dolly:drift=0.25"),
        ("code", "floe_layers:drift_to=dolly:drift=1.0"),
    ]
    assert all(registry.parse_method(cell.method).name == cell.method for cell in results.cells)


def test_one_mix_has_nowhere_to_drift(made):
    results = made(proxy_drift, mixes=["dolly"])
    assert [cell.method for cell in results.cells] == ["floe_layers"]
    results.add(results.cells[0], [0], scores={"fisher": [2.0, 1.0]})
    drift, limit = proxy_drift.tables(results)
    assert list(drift.frame["is"]) == ["reference"]
    assert any("One mix" in note for note in drift.notes)
    assert limit.view["Picks first differ at"].tolist() == ["never"]


def test_picks_move_and_nll_follows(made):
    results = made(proxy_drift, study__drift_shares=[0.0, 0.5, 1.0])
    plain, half, whole = results.cells[:3]
    results.add(plain, [0, 1], nll=np.full(8, 2.0), scores={"fisher": [4.0, 3.0, 2.0, 1.0]})
    results.add(half, [0, 1], nll=np.full(8, 2.0), scores={"fisher": [4.0, 3.0, 1.0, 2.0]})
    results.add(whole, [2, 3], nll=2.0 + RISE, scores={"fisher": [1.0, 2.0, 3.0, 4.0]})
    drift, limit = proxy_drift.tables(results)
    assert drift.frame["spearman"].tolist() == pytest.approx([1, 0.8, -1])
    assert drift.frame["kendall"].tolist() == pytest.approx([1, 4 / 6, -1])  # one of six pairs is turned
    assert drift.frame["jaccard_top_k"].tolist() == drift.frame["jaccard_picks"].tolist() == [1, 1, 0]
    assert drift.frame["is"].tolist() == ["reference", "same training", "compared"]
    (row,) = limit.frame.to_dict("records")
    assert row["first_share_with_other_picks"] == 1.0 and row["first_share_significantly_worse"] == 1.0
    assert row["nll_slope"] == pytest.approx(0.15)  # least squares through (0, 0), (0.5, 0), (1, 0.15)
    assert limit.view["NLL first worse at"].tolist() == ["100%"]


def test_a_missing_start_leaves_the_rest_uncompared(made):
    results = made(proxy_drift)
    results.add(results.cells[1], [0], scores={"fisher": [2.0, 1.0]})
    drift, limit = proxy_drift.tables(results)
    assert drift.frame["spearman"].isna().tolist() == [True]
    assert drift.view["NLL is"].tolist() == ["–"]
    assert limit.view["Slope, nats"].tolist() == ["–"]


def test_nothing_finished_gives_notes(made):
    assert [table.frame.empty for table in proxy_drift.tables(made(proxy_drift))] == [True, True]


@pytest.mark.slow
def test_for_real(ran_experiment, tmp_path: Path):
    results, tables = ran_experiment(proxy_drift, tmp_path, mixes=["dolly", "code"], study__drift_shares=[0.0, 1.0])
    frame = tables[0].frame
    assert len(frame) == len(results.cells) == 4 and list(frame["share"]) == [0.0, 1.0] * 2
    # Wholly drifted, the scores are those of the other mix: its own are measured by its undrifted cell.
    dolly, drifted, code, _ = results.records
    assert drifted.plan.scores["fisher"] == code.plan.scores["fisher"]
    assert dolly.plan.scores["fisher"] != code.plan.scores["fisher"]
