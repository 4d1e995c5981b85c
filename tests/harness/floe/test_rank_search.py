import logging
import logging.handlers
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import floe_bench.harness.floe.rank_search as rank_search
from floe_bench.harness.floe.rank_search import EveryRankDiverged, RankSearch, Trial, exhaustive, search

ROOT = Path(rank_search.__file__).parents[2]


def curve(r):
    """A convex validation loss, least at r = 9."""
    return 1.0 + (r - 9) ** 2 / 100


class Counted:
    """`curve`, counting its calls; raises at call number `fail_at`."""

    def __init__(self, fail_at=None, error: type[BaseException] = RuntimeError):
        self.calls = []
        self.fail_at = fail_at
        self.error = error

    def __call__(self, r):
        self.calls.append(r)
        if len(self.calls) == self.fail_at:
            raise self.error("training broke")
        return curve(r)


def test_each_rank_is_trained_once_and_its_value_reused():
    objective = Counted()
    found = search(objective, 2, 16, trials=40, seed=0)
    assert len(found.trials) == 40
    assert max(Counter(objective.calls).values()) == 1
    assert found.unique_trainings == len(objective.calls) == len({trial.r for trial in found.trials}) < 40
    assert [trial.r for trial in found.trials if not trial.reused] == objective.calls
    assert all(trial.value == curve(trial.r) and 2 <= trial.r <= 16 for trial in found.trials)
    assert [trial.number for trial in found.trials] == list(range(40))


@pytest.mark.parametrize("seed", range(5))
def test_finds_the_optimum_of_a_convex_curve(seed):
    found = search(curve, 2, 16, trials=40, seed=seed)
    assert (found.r, found.value, found.at_edge) == (9, 1.0, False)


def test_suggestions_learn_from_the_history():
    """After the random start-up, TPE tries ranks near the optimum more often than chance (5 of 15) would."""
    late = [t.r for seed in range(5) for t in search(curve, 2, 16, 40, seed).trials[10:]]
    assert sum(7 <= r <= 11 for r in late) / len(late) > 0.45


def test_one_seed_gives_one_search_and_another_seed_another():
    first, again, other = (search(curve, 2, 16, trials=15, seed=s) for s in (3, 3, 4))
    assert first == again
    assert first.trials != other.trials


def test_of_equal_ranks_the_smaller_wins():
    found = search(lambda r: 0.5, 2, 16, trials=20, seed=0)
    assert found.r == min(trial.r for trial in found.trials)
    assert exhaustive(lambda r: abs(r - 5.0), [6, 4, 2]).r == 4


def test_the_edge_of_the_range_is_reported():
    assert search(lambda r: -r, 2, 5, trials=20, seed=0).at_edge
    assert search(lambda r: r, 2, 5, trials=20, seed=0).at_edge
    assert search(curve, 7, 7, trials=3, seed=0) == RankSearch(
        7, curve(7), tuple(Trial(n, 7, curve(7), n > 0) for n in range(3)), 7, 7
    )


class Kept:
    """An objective that keeps its values, as a folder of finished probes does."""

    def __init__(self, objective):
        self.objective = objective
        self.values: dict[int, float] = {}

    def __call__(self, r):
        if r not in self.values:
            self.values[r] = self.objective(r)
        return self.values[r]


def test_a_longer_search_continues_a_shorter_one():
    whole = search(curve, 2, 16, trials=13, seed=1)
    objective = Counted()
    kept = Kept(objective)
    assert search(kept, 2, 16, trials=6, seed=1).trials == whole.trials[:6]
    assert search(kept, 2, 16, trials=13, seed=1) == whole
    assert len(objective.calls) == whole.unique_trainings


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_search_repeated_on_what_was_kept_is_the_uninterrupted_one(error):
    """Interrupted at the first training, at the second, and where suggestions depend on the history."""
    objective = Counted()
    whole = search(objective, 2, 16, trials=18, seed=2)
    last = len(objective.calls) - 1
    assert [t.number for t in whole.trials if not t.reused][last - 1] > 10, "past the ten random trials"
    kept = Kept(curve)
    for fail_at in (1, 2, last - 2):
        kept.objective = Counted(fail_at, error)
        with pytest.raises(error, match="training broke"):
            search(kept, 2, 16, trials=18, seed=2)
    kept.objective = rest = Counted()
    assert search(kept, 2, 16, trials=18, seed=2) == whole
    assert set(rest.calls) < set(objective.calls)


# --- ranks that diverge -----------------------------------------------------------------------------

NOT_FINITE = [float("nan"), float("inf"), float("-inf")]


@pytest.mark.parametrize("value", NOT_FINITE)
def test_a_rank_that_diverges_fails_its_trials_and_the_search_goes_on(value):
    found = search(lambda r: value if r >= 8 else curve(r), 2, 16, trials=40, seed=0)
    assert len(found.trials) == 40
    assert {trial.r for trial in found.trials if trial.value is None} == {r for r in found.ranks if r >= 8} != set()
    assert (found.r, found.value) == (7, curve(7)), "the best of those that are left"
    assert found.unique_trainings == len(found.ranks)
    assert [trial.number for trial in found.trials] == list(range(40))


def test_a_diverging_rank_is_trained_once():
    counted = Counted()

    def diverging(r):
        counted(r)
        return math.nan if r % 2 else curve(r)

    search(diverging, 2, 9, trials=40, seed=0)
    assert max(Counter(counted.calls).values()) == 1


@pytest.mark.parametrize("first_finite", range(1, 6))
def test_however_many_diverge_first_the_next_rank_is_found(first_finite):
    calls = []

    def objective(r):
        calls.append(r)
        return math.inf if len(calls) < first_finite else 1.0

    found = search(objective, 2, 16, trials=12, seed=first_finite)
    assert found.value == 1.0 and found.r in calls[first_finite - 1 :]


@pytest.mark.parametrize("value", NOT_FINITE)
def test_where_every_rank_diverges_one_sentence_names_them(value):
    with pytest.raises(
        EveryRankDiverged, match=r"not finite at any rank that was tried \(7\): lower the learning rate"
    ):
        search(lambda r: value, 7, 7, trials=2, seed=0)
    with pytest.raises(EveryRankDiverged, match=r"\(2, 4, 8\)"):
        exhaustive(lambda r: value, [8, 2, 4])


@pytest.mark.parametrize("value", NOT_FINITE)
def test_the_grid_goes_on_past_a_rank_that_diverges(value):
    found = exhaustive(lambda r: value if r == 4 else 1.0 / r, [2, 4, 8])
    assert [(trial.r, trial.value) for trial in found.trials] == [(2, 0.5), (4, None), (8, 0.125)]
    assert (found.r, found.value, found.unique_trainings) == (8, 0.125, 3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"low": 9, "high": 8}, "1 <= low <= high, got low=9, high=8"),
        ({"low": 0}, "1 <= low <= high, got low=0, high=16"),
        ({"trials": 0}, "trials must be at least 1, got 0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
    ],
)
def test_search_refuses(changed, message):
    with pytest.raises(ValueError, match=message):
        search(curve, **{"low": 2, "high": 16, "trials": 5, "seed": 0, **changed})


def test_exhaustive_tries_every_rank_of_the_grid_in_order():
    objective = Counted()
    found = exhaustive(objective, range(2, 17, 2))
    assert objective.calls == [2, 4, 6, 8, 10, 12, 14, 16]
    assert found.trials == tuple(Trial(n, r, curve(r), False) for n, r in enumerate(objective.calls))
    assert (found.r, found.value, found.unique_trainings, found.at_edge) == (8, curve(8), 8, False)
    assert exhaustive(lambda r: -r, [16, 2, 8]).at_edge


@pytest.mark.parametrize("ranks", [[], [2, 4, 2], [0, 2]])
def test_exhaustive_refuses(ranks):
    with pytest.raises(ValueError, match="distinct integers of at least 1"):
        exhaustive(curve, ranks)


def test_optuna_is_quiet_and_its_level_stays():
    import optuna

    handler = logging.handlers.BufferingHandler(capacity=1000)
    logger = logging.getLogger("optuna")
    before = optuna.logging.get_verbosity()
    logger.addHandler(handler)
    try:
        for level in (optuna.logging.INFO, optuna.logging.ERROR):
            optuna.logging.set_verbosity(level)
            search(curve, 2, 16, trials=2, seed=0)
            search(lambda r: math.nan if r < 9 else 1.0, 2, 16, trials=4, seed=0)
            assert logger.level == level
    finally:
        logger.removeHandler(handler)
        optuna.logging.set_verbosity(before)
    assert handler.buffer == []


def test_importing_the_module_does_not_import_optuna():
    code = "import sys, floe_bench.harness.floe.rank_search; sys.exit('optuna' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert ran.returncode == 0
