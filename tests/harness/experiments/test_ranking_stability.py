"""Ranking stability: conditions and what differs between them, agreement by hand, spread of planted layers."""

from pathlib import Path

import numpy as np
import pytest

from floe_bench.harness import registry
from floe_bench.harness.experiments import _layer_spread, ranking_stability
from floe_bench.harness.experiments.ranking_stability import Condition
from floe_bench.harness.spec import profiles

T = np.ones(8)


def gradients(scores, n: int = 16) -> np.ndarray:
    """G (n, L) whose diagonal Fisher is `scores`, exactly."""
    return np.tile(np.sqrt(np.asarray(scores, dtype=float)), (n, 1))


def arrays(scores) -> dict:
    return {"fisher_gradients": {"G": gradients(scores)}, "taylor": {"T": np.ones(len(scores))}}


def test_cells_vary_only_what_differs_from_the_settings_and_are_named_canonically(made):
    results = made(
        ranking_stability, mixes=["dolly"], study__pilot_fractions=[0.5, 1.0], study__pilot_epochs=[1.0, 2.0]
    )
    assert [(cell.method, cell.varied) for cell in results.cells] == [
        ("layer_scores", ()),  # tiny's own pilot is on 0.5, one epoch
        ("layer_scores", (("data.pilot_fraction", 1.0),)),
        ("layer_scores", (("train.epochs", 2.0),)),
        ("layer_scores:parts=2", ()),
        ("layer_scores:part=1:parts=2", ()),
        ("floe_layers", ()),
        ("floe_layers", (("data.pilot_fraction", 1.0),)),
    ]
    assert all(registry.parse_method(cell.method).name == cell.method for cell in results.cells)
    for cell in results.cells:
        profiles.vary(results.settings, dict(cell.varied))


@pytest.mark.parametrize(
    ("a", "b", "differs"),
    [
        (Condition("dolly", 0, 0.5, 1.0), Condition("code", 0, 0.5, 1.0), "mix"),
        (Condition("dolly", 0, 0.5, 1.0), Condition("dolly", 1, 0.5, 1.0), "seed"),
        (Condition("dolly", 0, 0.5, 1.0), Condition("dolly", 0, 1.0, 1.0), "pilot fraction"),
        (Condition("dolly", 0, 0.5, 1.0), Condition("dolly", 0, 0.5, 2.0), "pilot epochs"),
        (Condition("dolly", 0, 0.5, 1.0), Condition("dolly", 0, 0.5, 1.0, (0, 2)), "part and whole"),
        (Condition("dolly", 0, 0.5, 1.0, (0, 2)), Condition("dolly", 0, 0.5, 1.0, (1, 2)), "disjoint parts"),
        (Condition("dolly", 0, 0.5, 1.0), Condition("code", 0, 1.0, 1.0), "several"),
    ],
)
def test_what_differs(a, b, differs):
    assert a.differs(b) == b.differs(a) == differs


def test_agreement_by_what_differs_and_for_every_pair(made):
    results = made(
        ranking_stability, mixes=["dolly"], seeds=2, study__pilot_fractions=[0.5, 1.0], study__pilot_epochs=[1.0],
        selection__layer_fraction=0.25,
    )  # fmt: skip
    settings = results.settings
    up = np.arange(1.0, 9)
    results.add(Condition("dolly", 0, 0.5, 1.0).cell(settings), arrays=arrays(up))
    results.add(Condition("dolly", 0, 1.0, 1.0).cell(settings), arrays=arrays([*up[:6], 8, 7]))  # the last two swapped
    results.add(Condition("dolly", 1, 0.5, 1.0).cell(settings), arrays=arrays([8, 7, 6, 5, 4, 3, 1, 2]))
    summary, pairs, *_ = ranking_stability.tables(results)
    by_what = summary.frame.set_index("differs").to_dict("index")
    assert by_what["pilot fraction"]["spearman"] == pytest.approx(1 - 6 * 2 / (8 * 63))
    assert by_what["pilot fraction"]["kendall"] == pytest.approx(26 / 28)
    assert by_what["pilot fraction"]["jaccard_top_k"] == 1
    assert by_what["pilot fraction"]["spearman_shallow"] == pytest.approx(1)
    assert by_what["pilot fraction"]["spearman_deep"] == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert (
        by_what["seed"]["spearman"] == pytest.approx(1 - 6 * 166 / (8 * 63)) and by_what["seed"]["jaccard_picks"] == 0
    )
    # Of seeds 0 and 1 only the same condition is compared: 0.5 with 1.0 across seeds would differ in two things.
    assert len(pairs.frame) == 2 and pairs.view.iloc[0, 1] == "-0.98"
    assert pairs.view.iloc[0, 2] == "0.98" and pairs.view.iloc[1, 1] == "0.93"
    # Two of eight drawn twice: overlaps of 0, 1, 2 with 15, 12 and 1 chances in 28.
    assert any(f"{(12 / 3 + 1) / 28:.2f}" in note for note in summary.notes)


def test_a_noisy_deep_half_spreads_its_ranks(made):
    settings = made(ranking_stability).settings
    generator = np.random.default_rng(0)
    steady = np.tile(np.sqrt(np.linspace(30, 60, 10)), (60, 1)) * generator.choice([-1, 1], (60, 10))
    noisy = generator.normal(size=(60, 10)) * 5  # variances alike: their ranks are chance
    measured = [("dolly", 0, np.hstack([steady, noisy]), (0,)), ("dolly", 1, np.hstack([steady, noisy]), (1,))]
    layers, depth = _layer_spread.spread_tables(measured, settings)
    by_source = depth.frame.set_index("spread_over").to_dict("index")
    resampled = by_source["resampled"]
    assert resampled["verdict"] == "deep layers less stable" and resampled["low"] > 0
    own = layers.frame["rank_sd_resampled"]
    assert resampled["difference"] == pytest.approx(own[10:].mean() - own[:10].mean())
    assert by_source["conditions"]["verdict"] == "no difference seen"  # they are the same
    by_layer = layers.frame.to_dict("records")
    assert sum(row["share"] for row in by_layer) == pytest.approx(1)
    assert all(row["share_low"] <= row["share"] <= row["share_high"] for row in by_layer)
    assert all(row["rank_low"] <= row["rank_high"] for row in by_layer)
    assert layers.frame["picked"].tolist()[:3] == [0.5, 0.5, 0]
    assert layers.frame["rank_sd_conditions"].tolist() == [0] * 20


def test_the_bootstrap_band_of_a_score_is_as_wide_as_its_standard_error_says(made):
    """A mean of 400 squares of N(0, 1) has a standard error of √(2/400); of a 95 % band, ± 1.96 of it."""
    G = np.random.default_rng(3).normal(size=(400, 40))
    layers, _ = _layer_spread.spread_tables([("dolly", 0, G, (0,))], made(ranking_stability).settings)
    width = np.mean([row["share_high"] - row["share_low"] for row in layers.frame.to_dict("records")]) * 40
    assert width == pytest.approx(2 * 1.96 * np.sqrt(2 / 400), rel=0.1)


def test_training_is_paired_with_the_largest_fraction(made):
    results = made(ranking_stability, mixes=["dolly"], study__pilot_fractions=[0.5, 1.0])
    half, whole = (cell for cell in results.cells if cell.method == "floe_layers")
    results.add(half, [0, 1], nll=[2.5] * 6)
    results.add(whole, [1, 2], nll=[2.0] * 6)
    *_, training = ranking_stability.tables(results)
    assert training.frame["is"].tolist() == ["compared", "reference"]
    assert training.frame["nll_difference"].iloc[0] == pytest.approx(0.5)


def test_nothing_finished_gives_notes(made):
    tables = ranking_stability.tables(made(ranking_stability))
    assert all(table.frame.empty and table.notes for table in tables)


@pytest.mark.slow
def test_for_real(ran_experiment, tmp_path: Path):
    results, tables = ran_experiment(
        ranking_stability, tmp_path, mixes=["dolly"], study__pilot_fractions=[0.5, 1.0], study__pilot_epochs=[1.0]
    )
    assert len(results.records) == len(results.cells) == 6
    by_id = {table.id: table.frame for table in tables}
    assert set(by_id["ranking_stability"]["differs"]) == {
        "pilot fraction",
        "disjoint parts",
        "part and whole",
        "several",
    }
    assert len(by_id["ranking_stability_layers"]) == 4 and len(by_id["ranking_stability_training"]) == 2
