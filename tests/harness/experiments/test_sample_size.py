"""Sample size: exact where the answer is known, cells untrained, and once for real."""

from pathlib import Path

import numpy as np
import pytest

from floe_bench.harness.experiments import sample_size
from floe_bench.harness.floe.fisher import fisher_diagonal

N, L = 16, 4


def test_cells_are_untrained_and_shared_with_other_experiments(made):
    results = made(sample_size, seeds=2)
    assert {cell.method for cell in results.cells} == {"layer_scores"} and len(results.cells) == 4
    assert not any(cell.varied for cell in results.cells)


def test_equal_samples_agree_at_every_size(made):
    results = made(sample_size, study__sample_sizes=[1, 4, 16, 999])
    G = np.tile([1.0, 4.0, 2.0, 3.0], (N, 1))
    for cell in results.cells:
        results.add(cell, arrays={"fisher_gradients": {"G": G}, "taylor": {"T": np.ones(L)}})
    (table,) = sample_size.tables(results)
    dolly = table.frame.query("mix == 'dolly'")
    assert list(dolly["n"]) == [1, 4, 8, 16]  # 999 is more than there is; 8 is the split half
    for measure in ("spearman_full", "jaccard_top_k", "jaccard_picks"):
        assert dolly[measure].tolist() == pytest.approx([1, 1, 1, 1])  # a correlation is a quotient that rounds
    assert dolly["spearman_halves"].isna().tolist() == [False, False, False, True]
    assert dolly["relative_error"].iloc[1:].tolist() == pytest.approx([0, 0, 0])


def test_noise_agrees_with_all_rows_only_because_it_is_part_of_them(made, monkeypatch):
    monkeypatch.setattr(sample_size, "SUBSETS", 3)
    settings = made(sample_size).settings
    found = []
    for seed in range(40):  # samples in which every layer is alike: there is no true ranking
        G = np.random.default_rng(seed).normal(size=(40, 8))
        found += sample_size.subset_agreement(G, np.ones(8), 20, settings)
    assert np.mean([row["spearman_full"] for row in found]) > 0.5
    assert abs(np.mean([row["spearman_halves"] for row in found])) < 0.2


def test_relative_error_of_normal_gradients_is_root_two_over_n(made):
    """var(g²) = 2 σ⁴ for g ~ N(0, σ²), so the standard error of the mean square is √(2/n) of it."""
    G = np.random.default_rng(1).normal(size=(4000, 5)) * np.arange(1, 6)
    rows = sample_size.subset_agreement(G, np.ones(5), 1000, made(sample_size).settings)
    assert np.mean([row["relative_error"] for row in rows]) == pytest.approx(np.sqrt(2 / 1000), rel=0.05)


def test_a_missing_mix_is_left_out_and_nothing_gives_a_note(made):
    results = made(sample_size)
    (empty,) = sample_size.tables(results)
    assert empty.frame.empty and "No finished cell" in empty.notes[0]
    G = np.random.default_rng(2).normal(size=(N, L))
    results.add(results.cells[1], arrays={"fisher_gradients": {"G": G}, "taylor": {"T": np.ones(L)}})
    (table,) = sample_size.tables(results)
    assert set(table.frame["mix"]) == {"code"} and table.frame.equals(sample_size.tables(results)[0].frame)


@pytest.mark.slow
def test_for_real(ran_experiment, tmp_path: Path):
    results, tables = ran_experiment(sample_size, tmp_path, mixes=["dolly"])
    (record,) = results.records
    frame = tables[0].frame
    assert list(frame["n"]) == [2, 4, 8] and frame["spearman_full"].iloc[-1] == pytest.approx(1.0)
    G = results.arrays(record, "fisher_gradients")["G"]
    assert len(G) == 8 and record.plan.scores["fisher"] == pytest.approx(fisher_diagonal(G))
