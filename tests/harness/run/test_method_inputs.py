"""Which rows serve planning, on made-up mixes, and what planning is charged for."""

from types import SimpleNamespace
from typing import Any

import pytest

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.plan import OWN_ROWS, Sample
from floe_bench.harness.contracts.rows import Row
from floe_bench.harness.data.mixes import MixData
from floe_bench.harness.errors import UsageError
from floe_bench.harness.run import method_inputs
from floe_bench.harness.spec import profiles

N = 23


def rows(mix: str, n: int) -> list[Row]:
    return [Row(f"{mix} question {i}", f"{mix} answer {i}", mix) for i in range(n)]


MIXES = {"dolly": MixData(rows("dolly", N), [], {}), "code": MixData(rows("code", 12), [], {})}
TEXT = (rows("prose", 4), rows("held out", 4))


def bench(**overrides: Any) -> Any:
    settings = profiles.load("tiny", {key.replace("__", "."): value for key, value in overrides.items()})
    return SimpleNamespace(mix=MIXES.__getitem__, text=TEXT, settings=settings)


def drawn(sample: Sample, seed: int = 0, mix: str = "dolly") -> list[Row]:
    return method_inputs.sampled_rows(bench(), Cell(method="floe_layers", mix=mix, seed=seed), sample)


def of_mix(chosen: list[Row], mix: str) -> set[Row]:
    return {row for row in chosen if row.domain == mix}


# --- the sample -------------------------------------------------------------------------------------


def test_by_default_all_training_rows_of_the_cells_own_mix():
    assert drawn(OWN_ROWS) == MIXES["dolly"].train
    assert drawn(OWN_ROWS, mix="code") == MIXES["code"].train
    assert drawn(Sample(mix="code")) == MIXES["code"].train


@pytest.mark.parametrize("n", [1, 2, 3, 5, N])
def test_parts_are_disjoint_cover_all_rows_and_are_of_one_size(n):
    parts = [drawn(Sample(part=(i, n))) for i in range(n)]
    together = [row for part in parts for row in part]
    assert len(together) == N and set(together) == set(MIXES["dolly"].train)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_parts_are_the_same_for_every_seed_and_drawn_at_random():
    """Neighbours in the file are often alike: a part is no run of them, nor every second."""
    half = drawn(Sample(part=(0, 2)))
    assert half == drawn(Sample(part=(0, 2)), seed=1)
    places = sorted(MIXES["dolly"].train.index(row) for row in half)
    assert places not in ([*range(12)], [*range(11, N)], [*range(0, N, 2)], [*range(1, N, 2)])


@pytest.mark.parametrize(("share", "foreign"), [(0.0, 0), (0.1, 2), (0.25, 6), (0.3, 7), (0.5, 12)])
def test_foreign_rows_replace_exactly_their_share(share, foreign):
    chosen = drawn(Sample(foreign=("code", share)))
    assert len(chosen) == len(set(chosen)) == N
    assert len(of_mix(chosen, "code")) == foreign
    assert len(of_mix(chosen, "dolly")) == N - foreign


def test_all_rows_may_be_foreign():
    chosen = drawn(Sample(mix="code", foreign=("dolly", 1.0)))
    assert len(chosen) == 12 and not of_mix(chosen, "code")


def test_a_larger_share_keeps_the_foreign_rows_of_a_smaller_one():
    """So that the shares of one table differ in the drift and not in the draw."""
    small, large = (drawn(Sample(foreign=("code", share))) for share in (0.2, 0.5))
    assert of_mix(small, "code") < of_mix(large, "code")
    assert of_mix(large, "dolly") < of_mix(small, "dolly")


def test_a_drifted_sample_follows_the_seed():
    sample = Sample(foreign=("code", 0.3))
    assert drawn(sample) == drawn(sample)
    assert set(drawn(sample)) != set(drawn(sample, seed=1))


def test_a_share_beyond_the_other_mix_makes_the_sample_smaller_and_keeps_the_share():
    """`code` has 12 rows: 60 % of 20, 100 % of 12."""
    for share, n in ((0.6, 20), (1.0, 12)):
        chosen = drawn(Sample(foreign=("code", share)))
        assert (len(chosen), len(of_mix(chosen, "code"))) == (n, 12)


def test_foreign_rows_replace_their_share_of_a_part():
    part = set(drawn(Sample(part=(1, 2))))
    chosen = drawn(Sample(part=(1, 2), foreign=("code", 0.5)))
    assert len(chosen) == len(part) == 11
    assert len(of_mix(chosen, "code")) == round(0.5 * 11)
    assert of_mix(chosen, "dolly") < part


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (Sample(part=(0, N + 1)), f"{N} training rows, too few for {N + 1} disjoint parts"),
        (Sample(foreign=("dolly", 0.5)), "must come from another"),
        (Sample(mix="code", foreign=("code", 0.5)), "must come from another"),
    ],
)
def test_a_sample_that_cannot_be_drawn_is_refused(sample, message):
    with pytest.raises(UsageError, match=message):
        drawn(sample)


# --- what the sample serves for ---------------------------------------------------------------------


@pytest.mark.parametrize(("fraction", "n"), [(0.1, 3), (0.5, 12), (1.0, N)])
def test_the_pilot_has_its_share_of_the_sample(fraction, n):
    cell = Cell(method="floe_layers", mix="dolly", seed=0)
    chosen = method_inputs.pilot_rows(bench(data__pilot_fraction=fraction), cell, OWN_ROWS)
    assert len(chosen) == len(set(chosen)) == n


def test_pilot_and_calibration_rows_of_a_part_lie_in_it():
    cell, part = Cell(method="floe_layers", mix="dolly", seed=3), Sample(part=(2, 3))
    members = set(drawn(part))
    assert set(method_inputs.pilot_rows(bench(data__pilot_fraction=0.5), cell, part)) < members
    calibration = method_inputs.calibration_rows(bench(data__calibration_rows=5), cell, "task", part)
    assert len(calibration) == 5 and set(calibration) < members


def test_a_scorer_of_weights_sees_no_rows_and_one_of_prose_sees_prose_whatever_the_sample():
    cell, sample = Cell(method="floe_layers", mix="dolly", seed=0), Sample(foreign=("code", 0.5))
    assert method_inputs.calibration_rows(bench(), cell, "nothing", sample) == []
    assert method_inputs.calibration_rows(bench(), cell, "pretrain", sample) == TEXT[0]


# --- probes -----------------------------------------------------------------------------------------

CELL = Cell(method="floe", mix="dolly", seed=0)


@pytest.mark.parametrize(("share", "n"), [(1.0, 10), (0.5, 5), (0.25, 3), (0.3, 3), (0.1, 1), (0.001, 1)])
def test_a_probe_trains_on_the_first_share_of_its_rows_and_is_judged_on_the_same(share, n):
    sizes = bench(search__probe_rows=10, search__probe_validation_rows=6)
    whole, judge = method_inputs.probe_rows(sizes, CELL)
    assert (len(whole), len(judge)) == (10, 6) and not set(whole) & set(judge)
    assert method_inputs.probe_rows(sizes, CELL, share) == (whole[:n], judge)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        method_inputs.probe_rows(bench(), CELL, share)
