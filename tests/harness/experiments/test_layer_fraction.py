"""From one adapted layer to all of them."""

import numpy as np
import pytest

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import TrainOutcome
from floe_bench.harness.experiments import layer_fraction
from floe_bench.harness.floe.selection import max_layers
from floe_bench.harness.spec import profiles


def cell(fraction: float, seed: int = 0) -> Cell:
    return Cell(method="floe_layers", mix="dolly", seed=seed, varied=(("selection.layer_fraction", fraction),))


def add(made, fraction, layers, seed=0, peak=None, **answers):
    made.add(cell(fraction, seed), layers, k=max_layers(fraction, 4), **answers)
    if peak is not None:
        training = TrainOutcome(
            trainable_parameters=1, total_parameters=1, adapter_bytes=10, optimizer_steps=1, tokens=1,
            truncated_rows=0, control_text_rows=0,
            seconds=1.0, tokens_per_second=1.0, peak_bytes=peak, peak_kind="made", loss_curve=[], learning_rate=1.0,
        )  # fmt: skip
        made.records[-1] = made.records[-1].model_copy(update={"training": training})


def test_cells_hold_each_number_of_layers_once():
    settings = profiles.load("tiny", {"mixes": "dolly", "study.layer_fractions": [0.0, 0.01, 0.1, 0.25, 0.6, 1.0]})
    assert layer_fraction.cells(settings) == [cell(0.25), cell(0.6), cell(1.0)]


def test_the_cliff_is_the_largest_significant_step(made):
    results = made(layer_fraction, mixes="dolly")
    rows = np.linspace(1, 3, 16)
    for fraction, layers, loss in (
        (1.0, [0, 1, 2, 3], 0),
        (0.75, [0, 1, 2], 0.01),
        (0.5, [0, 1], 0.02),
        (0.25, [0], 0.5),
    ):
        add(results, fraction, layers, nll=rows + loss)
    _, steps, _ = layer_fraction.tables(results)
    assert steps.frame[["k_more", "k_fewer"]].to_numpy().tolist() == [[2, 1], [3, 2], [4, 3]]
    assert steps.frame["nll_difference"].tolist() == pytest.approx([0.48, 0.01, 0.01])
    assert "from K = 2 to 1" in steps.notes[0] and "96%" in steps.notes[0]


def test_no_cliff_is_seen_in_noise(made):
    results = made(layer_fraction, mixes="dolly")
    noise = np.random.default_rng(0).normal(size=(4, 16))
    for k in range(1, 5):
        add(results, k / 4, range(k), nll=3 + noise[k - 1])
    _, steps, _ = layer_fraction.tables(results)
    assert "no cliff seen" in steps.notes[0]
    assert set(steps.view["NLL is"]) == {"tie"}


def test_a_step_between_equal_selections_is_no_comparison(made):
    results = made(layer_fraction, mixes="dolly")
    add(results, 0.5, [1, 2], nll=[1.0, 2.0])
    add(results, 0.75, [1, 2], nll=[1.0, 2.0])
    _, steps, _ = layer_fraction.tables(results)
    assert steps.frame["is"].tolist() == ["same training"] and "no cliff seen" in steps.notes[0]


def test_memory_grows_by_the_planted_slope_and_a_square_is_told_from_a_line(made):
    line, square = made(layer_fraction, mixes="dolly"), made(layer_fraction, mixes="dolly")
    wobble = np.random.default_rng(0).integers(-3, 4, size=8).tolist()
    for seed in (0, 1):
        for k in range(1, 5):
            add(line, k / 4, range(k), seed, peak=1000 + 50 * k + wobble[k + 4 * seed - 1])
            add(square, k / 4, range(k), seed, peak=1000 + 50 * k * k + wobble[k + 4 * seed - 1])
    growth = layer_fraction.memory_frame(line).set_index("quantity").loc["peak_bytes"]
    assert growth["low"] < 50 < growth["high"] and growth["r_squared"] > 0.99 and growth["quadratic_p"] > 0.05
    assert growth["points"] == 8
    assert layer_fraction.memory_frame(square).set_index("quantity").loc["peak_bytes", "quadratic_p"] < 0.001


@pytest.mark.slow
def test_runs_for_real(ran_experiment, tmp_path):
    _, (scores, steps, memory) = ran_experiment(
        layer_fraction, tmp_path, mixes="dolly", study__layer_fractions=[0.01, 0.5, 1.0]
    )
    assert scores.frame["k"].tolist() == [1, 2, 4] and scores.frame["n_layers"].tolist()[-1] == 4
    assert scores.frame["peak_bytes"].gt(0).all() and len(steps.frame) == 2
    # 3 modules of a layer, each: A (2, in), 4 experts B (out, 2) and a router (4, in); widths 16 and 24
    per_layer = sum(2 * d_in + 4 * 2 * d_out + 4 * d_in for d_in, d_out in ((16, 24), (16, 24), (24, 16)))
    slopes = memory.frame.set_index("quantity")["slope"]
    assert slopes["trainable_parameters"] == pytest.approx(per_layer)
