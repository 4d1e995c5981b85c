"""Planted layers: conditions and cells, what each criterion picks of known scores, counts; and recovery for real."""

import math

import numpy as np
import pytest

from floe_bench.harness import registry
from floe_bench.harness.experiments import planted_layers
from floe_bench.harness.experiments.planted_layers import FIRST_SEED, N_LAYERS, Condition
from floe_bench.harness.run.grid import run_grid
from floe_bench.harness.run.progress import Progress
from floe_bench.harness.run.session import Session
from floe_bench.harness.spec import profiles
from floe_bench.harness.store.folder import Store

BASE = Condition(planted=2, noise=0.0, samples=128)


def arrays(G, T, norm=None) -> dict:
    G, T = np.atleast_2d(np.asarray(G, dtype=float)), np.asarray(T, dtype=float)
    norm = np.ones(len(T)) if norm is None else np.asarray(norm, dtype=float)
    return {"fisher_gradients": {"G": G}, "taylor": {"T": T}, "gradient_norm": {"norm": norm}}


def gradients_of(layers) -> np.ndarray:
    """G (64, L) of uncorrelated layers, ten times larger on these."""
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(64, N_LAYERS))
    return signs * np.where(np.isin(np.arange(N_LAYERS), layers), 10.0, 1.0)


# --- conditions and cells ---------------------------------------------------------------------------


def test_conditions_change_one_thing_at_a_time_from_the_first_of_each_grid(made):
    results = made(planted_layers, study__planted_counts=[2, 3], study__planted_noises=[0.0, 0.5],
                   study__planted_samples=[128, 8], study__planted_seeds=2)  # fmt: skip
    assert planted_layers.conditions(results.settings) == [
        Condition(2, 0.0, 128), Condition(3, 0.0, 128), Condition(2, 0.5, 128), Condition(2, 0.0, 8),
    ]  # fmt: skip
    assert len(set(results.cells)) == len(results.cells) == 8
    assert {cell.mix for cell in results.cells} == {"dolly"}
    assert all(registry.parse_method(cell.method).name == cell.method for cell in results.cells)


def test_planted_sets_have_their_size_and_vary_by_seed_alone():
    for planted in (1, 2, 3):
        sets = [Condition(planted, 0.0, 128).layers(seed) for seed in range(40)]
        assert all(len(set(layers)) == planted and set(layers) <= set(range(N_LAYERS)) for layers in sets)
        assert set().union(*sets) == set(range(N_LAYERS)) and len(set(sets)) > 4
        assert sets == [Condition(planted, 0.5, 8).layers(seed) for seed in range(40)]


def test_a_cells_settings_are_its_conditions():
    cell = Condition(3, 0.25, 32).cell("dolly", 7)
    settings = profiles.vary(profiles.load("tiny"), dict(cell.varied))
    teacher = settings.data.teacher
    assert teacher.layers == Condition(3, 0.25, 32).layers(7) and (teacher.noise, teacher.seed) == (0.25, 7)
    assert settings.data.calibration_rows == 32 and settings.data.source == "teacher"
    assert settings.model.seed == cell.seed == 7 and settings.model.config["num_hidden_layers"] == N_LAYERS
    assert math.ceil(settings.selection.layer_fraction * N_LAYERS - 1e-9) == 3
    assert settings.eval.nll_mixes == ("dolly",) and settings.eval.evals == ("validation_nll",)


# --- what each criterion picks ----------------------------------------------------------------------

G = [2.0, 1.0, 5.1, -5.0, 0.1, 0.1]
T = [1.0, 1.0, 1.0, 1.0, 0.95, 0.7]


@pytest.mark.parametrize("seed", range(6))
def test_each_criterion_by_hand(seed, made):
    """Layers 2 and 3 score highest but cancel each other; K/L of all T, 1.88, buys two layers only with layer 5."""
    results = made(planted_layers, study__planted_seeds=6)
    cell = BASE.cell("dolly", seed)
    record = results.add(cell, arrays=arrays(G, T, norm=[0, 0, 0, 9, 0, 8]))
    picked = planted_layers.criteria(results, record, np.atleast_2d(G), np.array(T))
    random = picked.pop("random")
    planted = BASE.layers(seed)
    assert picked == {
        "pipeline, diagonal": (2, 3),
        "pipeline, blocks of 2": (0, 1),
        "pipeline, full": (0, 1),
        "pipeline, diagonal, c = K/L": (2, 5),
        "top Fisher": (2, 3),
        "top Taylor": (4, 5),
        "top gradient norm": (3, 5),
        "in budget c = K/L": planted if 5 in planted else (),
    }
    assert len(set(random)) == 2 and set(random) <= set(range(N_LAYERS))


def test_random_layers_are_drawn_anew_each_seed_and_apart_from_the_planted(made):
    results = made(planted_layers, study__planted_counts=[2], study__planted_noises=[0.0],
                   study__planted_samples=[128], study__planted_seeds=60)  # fmt: skip
    for cell in results.cells:
        results.add(cell, arrays=arrays(G, T))
    (table,) = planted_layers.tables(results)
    random = table.frame.set_index("criterion").loc["random"]
    assert random["by_chance"] == pytest.approx(1 / 15)
    # 60 draws at 1/15: at most 10 with a chance of 99.7 %
    assert random["found"] <= 10 and 0.1 < random["jaccard"] < 0.4


# --- counts -----------------------------------------------------------------------------------------


def wilson(found: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    p = found / n
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)


def test_found_counts_exact_recovery_with_wilsons_interval(made):
    results = made(planted_layers, study__planted_counts=[2], study__planted_noises=[0.0],
                   study__planted_samples=[128], study__planted_seeds=5)  # fmt: skip
    for seed in range(FIRST_SEED, FIRST_SEED + 4):  # the fifth is not finished
        planted = BASE.layers(seed)
        other = next(k for k in range(N_LAYERS) if k not in planted)
        layers = planted if seed < FIRST_SEED + 3 else (planted[0], other)
        results.add(BASE.cell("dolly", seed), arrays=arrays(gradients_of(layers), np.ones(N_LAYERS)))
    (table,) = planted_layers.tables(results)
    assert table.frame[["planted", "noise", "samples"]].drop_duplicates().to_numpy().tolist() == [[2, 0.0, 128]]
    for criterion in ("pipeline, diagonal", "pipeline, full", "top Fisher"):
        row = table.frame.set_index("criterion").loc[criterion]
        assert (row["seeds"], row["found"]) == (4, 3), criterion
        assert (row["low"], row["high"]) == pytest.approx(wilson(3, 4), abs=1e-5)
        assert row["jaccard"] == pytest.approx((3 + 1 / 3) / 4)
    view = table.view.set_index("Criterion").loc["pipeline, diagonal"]
    assert view[["Planted", "Noise", "Found", "Interval %", "By chance %"]].tolist() == [
        "2 of 6", "0%", "3 of 4", "30–95", "7",
    ]  # fmt: skip


def test_nothing_finished_gives_a_note(made):
    (table,) = planted_layers.tables(made(planted_layers))
    assert table.frame.empty and table.notes == ["No finished cell yet."]


# --- for real ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_pipeline_recovers_the_planted_layers_and_random_does_not(ran_experiment, tmp_path):
    """Five noiseless seeds; and the whole method, its rank search cut short, on the first.

    Random layers would be found on all five with a chance of 15⁻⁵. A pipeline that misses three in ten passes with
    a chance of 17 %, as with nine of ten seeds.
    """
    results, (table,) = ran_experiment(
        planted_layers, tmp_path, mixes="dolly", study__planted_counts=[2], study__planted_noises=[0.0],
        study__planted_samples=[128], study__planted_seeds=5,
    )  # fmt: skip
    found = table.frame.set_index("criterion")["found"]
    assert table.frame["seeds"].eq(5).all()
    assert found["pipeline, diagonal"] == 5 and found["random"] <= 1, found.to_dict()

    cell = results.cells[0]
    short = {"search.trials": 2, "search.probe_rows": 16, "search.probe_validation_rows": 8}
    whole = cell.model_copy(update={"method": "floe", "varied": (*cell.varied, *short.items())})
    store = Store(tmp_path, "tiny")
    outcome = run_grid(Session(results.settings, store), [whole], Progress())
    record = store.record(whole, outcome.keys[whole])
    assert record is not None and record.status == "ok", record
    assert record.plan.layers == BASE.layers(FIRST_SEED)
