"""Unstable rankings: planted in the gradients G."""

import numpy as np
import pytest
from scipy import stats

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.report.checks import unstable_rankings

from .healthy import L, add, fired, gradients

SEEDS = [f"dolly / floe / seed {seed}" for seed in range(2)]


def test_fires_where_another_seed_turns_the_ranking_round(run):
    for method in ("floe", "other_search"):
        run.G[f"dolly / {method} / seed 1"] = gradients(1)[:, ::-1]
    (finding,) = fired(unstable_rankings, run)  # told once, though two methods share the pilots
    a, b = (np.mean(run.G[label] ** 2, axis=0) for label in SEEDS)
    assert f"{stats.spearmanr(a, b)[0]:.2f}" in finding.message and "-1.00" in finding.message
    assert set(finding.cells) == set(SEEDS)


def test_fires_where_another_pilot_turns_the_ranking_round_but_not_where_the_task_differs(run):
    for key in ("data.pilot_fraction", "model.id"):
        cell = Cell(method="floe", mix="dolly", seed=0, varied=((key, 1.0),))
        add(run, cell)
        run.G[cell.label] = gradients(0)[:, ::-1]
        cells = {cell for finding in fired(unstable_rankings, run) for cell in finding.cells}
        assert (cell.label in cells) == (key == "data.pilot_fraction")


def test_the_kept_diagonal_serves_where_the_gradients_are_not_kept(run):
    run.G.clear()
    for seed in range(2):
        label = f"dolly / floe / seed {seed}"
        scores = list(range(L))[:: 1 - 2 * seed]
        run.change(label, plan=run.record(label).plan.model_copy(update={"scores": {"fisher": scores}}))
    (finding,) = fired(unstable_rankings, run)
    assert "-1.00" in finding.message


def test_fires_where_the_sample_does_not_decide_between_layers(run):
    noise = np.random.default_rng(0).normal(size=(8, L))
    for label in list(run.G):
        run.G[label] = noise
    (finding,) = fired(unstable_rankings, run)
    assert "resampling the 8 rows" in finding.message and set(finding.cells) == set(run.G)


def test_a_record_of_several_samples_has_no_one_ranking(run):
    run.G[SEEDS[1]] = [gradients(1), gradients(2)]
    assert fired(unstable_rankings, run) == []


@pytest.mark.parametrize("n", [8, 32])
def test_the_bootstrap_agrees_with_rows_drawn_one_by_one(n):
    G = np.random.default_rng(1).normal(size=(n, L)) * np.linspace(1, 1.5, L)
    draw = np.random.default_rng(2)
    top = set(np.argsort((G**2).mean(0))[-2:])
    indices = []
    for _ in range(2000):
        resampled = set(np.argsort((G[draw.integers(n, size=n)] ** 2).mean(0))[-2:])
        indices.append(len(top & resampled) / len(top | resampled))
    error = np.std(indices) / np.sqrt(unstable_rankings.RESAMPLES)
    assert abs(unstable_rankings._bootstrap_jaccard(G, 2) - np.mean(indices)) < 4 * error
