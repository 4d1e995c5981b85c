"""Forms of the Fisher: canonical cells, mass and objectives by hand, picks as the methods' own, F against I."""

from pathlib import Path

import numpy as np
import pytest

from floe_bench.harness import registry
from floe_bench.harness.contracts.plan import OWN_ROWS
from floe_bench.harness.experiments import fisher_blocks
from floe_bench.harness.floe.fisher_ablations import adapter_fisher, mask_fisher
from floe_bench.harness.floe.selection import objective
from floe_bench.harness.run import stages
from floe_bench.harness.run.method_inputs import calibration_rows
from floe_bench.harness.run.session import Session
from floe_bench.harness.store.folder import read_arrays


def test_cells_have_canonical_names_and_one_for_each_criterion(made):
    results = made(fisher_blocks, mixes=["dolly"], study__block_sizes=[2, 3])
    assert [cell.method for cell in results.cells] == [
        fisher_blocks.SCORES, "floe_layers", "floe_layers:fisher=block", "floe_layers:fisher=block:b=3",
        "floe_layers:fisher=full", "floe_layers:fisher=parameter", "floe_layers:fisher=true",
    ]  # fmt: skip
    assert all(registry.parse_method(cell.method).name == cell.method for cell in results.cells)


def test_mass_of_a_hand_made_fisher(made):
    G = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])
    # I = 1/3 [[2, 2, 0], [2, 2, 0], [0, 0, 4]]: squares sum to (4·4 + 16)/9 = 32/9, 24/9 of it on the diagonal.
    row = fisher_blocks.mass_row(G, made(fisher_blocks).settings)
    assert row["off_diagonal"] == pytest.approx(8 / 32) and row["in_blocks_2"] == pytest.approx(1)
    # Random signs: Σ_{k≠l} Σ_n g_nk² g_nl² / N² = (2 + 2)/9 off the diagonal, 24/9 on it.
    assert row["off_diagonal_by_chance"] == pytest.approx(4 / 28)
    assert row["off_diagonal_objective"] == pytest.approx(4 / 12)
    assert row["mean_gradient"] == pytest.approx(3 * (2 / 3) ** 2 / (8 / 3))


def test_the_share_by_chance_is_that_of_uncorrelated_layers(made):
    """Independent normal gradients have off-diagonal entries of sampling alone."""
    settings = made(fisher_blocks).settings
    rows = [fisher_blocks.mass_row(np.random.default_rng(i).normal(size=(50, 10)), settings) for i in range(30)]
    found, expected = (np.mean([row[name] for row in rows]) for name in ("off_diagonal", "off_diagonal_by_chance"))
    assert found == pytest.approx(expected, rel=0.1)


def test_picks_and_the_objective_they_reach_under_the_full_fisher(made):
    """Layers 2 and 3 cancel each other: the diagonal takes both, the full Fisher neither."""
    settings = made(fisher_blocks, mixes=["dolly"], selection__layer_fraction=0.5).settings
    G = np.array([[2.0, 1.0, 5.0, -5.0]])
    full = G.T @ G
    fishers = {"diagonal": full.diagonal(), "full": full}
    rows = {row["criterion"]: row for row in fisher_blocks.pick_rows(fishers, G, np.ones(4), settings)}
    assert rows["diagonal"]["layers"] == "2 3" and rows["full"]["layers"] == "0 1"
    assert rows["diagonal"]["objective_share"] == pytest.approx(1)  # ½ (2 + 1)² either way
    assert rows["full"]["objective_share"] == pytest.approx(0)
    assert rows["diagonal"]["objective"] == pytest.approx(4.5)
    assert rows["full"]["jaccard_diagonal"] == 0 and rows["full"]["taylor_share"] == 0.5
    pairs = [(a, b) for a in range(4) for b in range(a)]
    expected = np.mean([objective(full, pair) for pair in pairs])
    assert rows["random sets"]["objective"] == pytest.approx(expected, rel=0.15)


def test_the_parameters_fisher_is_split_into_diagonal_layer_and_rest():
    F = np.ones((6, 6))  # three parameters of each of two layers
    row = fisher_blocks.parameter_row(F, 2)
    assert (row["diagonal"], row["within_layers"], row["between_layers"]) == pytest.approx((6 / 36, 12 / 36, 18 / 36))
    assert fisher_blocks.parameter_row(np.eye(6), 2)["diagonal"] == 1
    assert fisher_blocks.parameter_row(np.eye(2).repeat(3, axis=0).repeat(3, axis=1), 2)["between_layers"] == 0


def test_training_is_tested_only_where_picks_differ(made):
    results = made(fisher_blocks, mixes=["dolly"])
    _, diagonal, block, full, *_ = results.cells
    results.add(diagonal, [0, 1], nll=[2.0] * 6)
    results.add(block, [0, 1], nll=[2.0] * 6)
    results.add(full, [1, 2], nll=[2.1] * 6)
    training = fisher_blocks.tables(results)[2]
    assert training.frame["is"].tolist() == ["reference", "same training", "compared"]
    assert training.frame["nll_difference"].iloc[2] == pytest.approx(0.1)


def test_scores_alone_make_the_tables_that_need_no_training(made):
    results = made(fisher_blocks, mixes=["dolly"])
    G = np.random.default_rng(0).normal(size=(12, 6))
    scores = {"fisher_gradients": {"G": G}, "taylor": {"T": np.ones(6)}}
    results.add(results.cells[0], arrays=scores)
    picks, mass, training, parameters = fisher_blocks.tables(results)
    assert picks.frame["criterion"].tolist() == ["diagonal", "blocks of 2", "full", "random sets"]
    assert len(mass.frame) == 1 and training.frame.empty and parameters.frame.empty


def test_nothing_finished_gives_notes(made):
    assert all(table.frame.empty and table.notes for table in fisher_blocks.tables(made(fisher_blocks)))


@pytest.mark.slow
def test_for_real(ran_experiment, tmp_path: Path):
    """The tables' picks are the methods' own, and with all of B the Fisher over parameters implies I."""
    results, tables = ran_experiment(fisher_blocks, tmp_path, mixes=["dolly"])
    picks = tables[0].frame.set_index("criterion")["layers"]
    for criterion, method in fisher_blocks.methods(results.settings).items():
        record = next(record for record in results.records if record.cell.method == method)
        assert " ".join(map(str, record.plan.layers)) == picks[criterion]
    parameters = tables[3].frame.iloc[0]
    assert parameters["parameters"] == 4 * 3 * 8
    assert parameters[["diagonal", "within_layers", "between_layers"]].sum() == pytest.approx(1)

    record = results.records[0]
    pilot = next(stage for stage in results.stages(record) if stage.kind == "training")
    session = Session(results.settings, results.store)
    rows = calibration_rows(session, record.cell, "task", OWN_ROWS)
    stage = stages.run_measure(session, adapter_fisher, {}, rows, pilot)
    whole = read_arrays(results.store.stage_folder("measure", stage.identity) / "arrays.safetensors")
    G = results.arrays(record, "fisher_gradients")["G"]
    assert mask_fisher(whole["F"], whole["J"]) == pytest.approx(G.T @ G / len(G), rel=1e-4)
