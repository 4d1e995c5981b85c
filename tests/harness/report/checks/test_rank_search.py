"""Rank search: planted in the trials."""

import numpy as np
import pytest

from floe_bench.harness.contracts.plan import Searched
from floe_bench.harness.report.checks import rank_search

from .healthy import Run, fired

LABEL = "dolly / floe / seed 0"


def searched(run: Run, ranks, values, **changes) -> list[str]:
    trials = [
        {"number": i, "r": int(r), "value": v, "reused": False}
        for i, (r, v) in enumerate(zip(ranks, values, strict=True))
    ]
    _, best = min((trial["value"], trial["r"]) for trial in trials if trial["value"] is not None)
    found = {"trials": trials, "optimum_at_edge": False, "unique_trainings": len(set(ranks))} | changes
    plan = run.record(LABEL).plan
    run.change(LABEL, plan=plan.model_copy(update={"r": best, "searched": Searched.model_validate(found)}))
    return [finding.message for finding in fired(rank_search, run) if finding.cells == (LABEL,)]


def test_fires_where_the_optimum_is_on_the_edge(run):
    ranks = range(2, 17)
    (message,) = searched(run, ranks, [3 - 0.05 * r + 0.001 * r**2 for r in ranks], optimum_at_edge=True)
    assert "16" in message and "edge" in message


def test_fires_where_the_best_rank_came_up_last(run):
    ranks = [16, 2, 12, 4, 10, 9, 11, 13, 14, 7]
    (message,) = searched(run, ranks, [2 + 0.01 * (r - 7) ** 2 for r in ranks])
    assert "trial 10 of 10, with 10 of 15 ranks tried" in message
    ranks = [16, 2, 12, 4, 10, 9, 11, 13, 7, 14]
    assert len(searched(run, ranks, [2 + 0.01 * (r - 7) ** 2 for r in ranks])) == 1
    ranks = [16, 2, 12, 4, 10, 9, 7, 13, 14, 7]  # known since trial 7
    assert searched(run, ranks, [2 + 0.01 * (r - 7) ** 2 for r in ranks]) == []


def test_ranks_that_diverged_leave_the_others_to_be_judged(run):
    ranks = range(2, 17)
    values = [None if r in (15, 16) else 2 + 0.01 * (r - 7) ** 2 for r in ranks]
    assert searched(run, ranks, values) == []
    (message,) = searched(run, ranks, [None if r in (15, 16) else 2.0 for r in ranks])
    assert "over 13 ranks is flat" in message


def test_a_search_of_every_rank_and_an_exhaustive_one_have_converged(run):
    for ranks in ([*range(2, 7), *range(8, 17), 7], list(range(2, 11))):
        assert searched(run, ranks, [2 + 0.01 * (r - ranks[-1]) ** 2 for r in ranks]) == []


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [range(2, 17), range(2, 17, 2), (2, 3, 7, 8, 12, 16)])
def test_noise_is_flat_as_often_as_the_confidence_says_and_a_clear_optimum_never(ranks, run):
    run.records = [run.record(LABEL)]
    draw = np.random.default_rng(0)
    optimum = 3 + 0.002 * (np.array(ranks) - 8.0) ** 2
    flat = [searched(run, ranks, draw.normal(3, 0.01, len(ranks))) for _ in range(200)]
    clear = [searched(run, ranks, optimum + draw.normal(0, 0.001, len(ranks))) for _ in range(20)]
    assert np.mean([any("flat" in m for m in messages) for messages in flat]) > 0.9
    assert not any("flat" in m for messages in clear for m in messages)


def test_the_noise_is_measured_whatever_the_spacing_and_slope():
    draw = np.random.default_rng(1)
    x = np.sort(draw.choice(np.arange(1000), 400, replace=False))
    assert rank_search._roughness(x, 3 - 0.5 * x + draw.normal(0, 0.2, 400)) == pytest.approx(0.2, rel=0.15)


def test_values_at_a_share_of_the_rows_are_no_points_of_the_curve(run):
    """A flat curve over nine ranks stays flat beside pruned trials, and four ranks are too few to call so."""
    pruned = [{"number": 20 + r, "r": r, "value": 5.0 + r, "reused": False, "share": 0.25} for r in range(2, 17)]
    full = [{"number": r, "r": r, "value": 2.0, "reused": False, "share": 1.0} for r in range(2, 11)]
    (message,) = searched(run, range(2, 11), [2.0] * 9, trials=full + pruned)
    assert "9 ranks is flat" in message
    assert searched(run, range(2, 11), [2.0] * 9, trials=full[:4] + pruned) == []


def test_few_ranks_are_not_called_flat(run):
    assert searched(run, [2, 9, 5, 9], [2.0, 1.9, 1.8, 1.9]) == []


def test_equal_values_are_flat_and_a_straight_line_is_not(run):
    (message,) = searched(run, range(2, 11), [2.0] * 9)
    assert "flat" in message
    assert searched(run, range(2, 11), [2.0 - 0.125 * i for i in range(9)]) == []
