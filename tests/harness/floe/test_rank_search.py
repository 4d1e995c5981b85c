import logging
import logging.handlers
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import floe_bench.harness.floe.rank_search as rank_search
from floe_bench.harness.floe.rank_search import RankSearch, Trial, exhaustive, search

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


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path / 'trials.db'}"


def test_each_rank_is_trained_once_and_its_value_reused():
    objective = Counted()
    found = search(objective, 2, 16, trials=40, seed=0, storage=None)
    assert len(found.trials) == 40
    assert max(Counter(objective.calls).values()) == 1
    assert found.unique_trainings == len(objective.calls) == len({trial.r for trial in found.trials}) < 40
    assert [trial.r for trial in found.trials if not trial.reused] == objective.calls
    assert all(trial.value == curve(trial.r) and 2 <= trial.r <= 16 for trial in found.trials)
    assert [trial.number for trial in found.trials] == list(range(40))


@pytest.mark.parametrize("seed", range(5))
def test_finds_the_optimum_of_a_convex_curve(seed):
    found = search(curve, 2, 16, trials=40, seed=seed, storage=None)
    assert (found.r, found.value, found.at_edge) == (9, 1.0, False)


def test_suggestions_learn_from_the_history():
    """After the random start-up, TPE tries ranks near the optimum more often than chance (5 of 15) would."""
    late = [t.r for seed in range(5) for t in search(curve, 2, 16, 40, seed, None).trials[10:]]
    assert sum(7 <= r <= 11 for r in late) / len(late) > 0.45


def test_one_seed_gives_one_search_and_another_seed_another():
    first, again, other = (search(curve, 2, 16, trials=15, seed=s, storage=None) for s in (3, 3, 4))
    assert first == again
    assert first.trials != other.trials


def test_of_equal_ranks_the_smaller_wins():
    found = search(lambda r: 0.5, 2, 16, trials=20, seed=0, storage=None)
    assert found.r == min(trial.r for trial in found.trials)
    assert exhaustive(lambda r: abs(r - 5.0), [6, 4, 2]).r == 4


def test_the_edge_of_the_range_is_reported():
    assert search(lambda r: -r, 2, 5, trials=20, seed=0, storage=None).at_edge
    assert search(lambda r: r, 2, 5, trials=20, seed=0, storage=None).at_edge
    assert search(curve, 7, 7, trials=3, seed=0, storage=None) == RankSearch(
        7, curve(7), tuple(Trial(n, 7, curve(7), n > 0) for n in range(3)), 7, 7
    )


def test_a_longer_search_continues_a_shorter_one(storage):
    whole = search(curve, 2, 16, trials=13, seed=1, storage=None)
    objective = Counted()
    assert search(objective, 2, 16, trials=6, seed=1, storage=storage).trials == whole.trials[:6]
    assert search(objective, 2, 16, trials=13, seed=1, storage=storage) == whole
    assert len(objective.calls) == whole.unique_trainings
    # Nothing is left to try, so nothing is trained; a shorter search of the same storage is its beginning.
    assert search(objective, 2, 16, trials=6, seed=1, storage=storage).trials == whole.trials[:6]
    assert len(objective.calls) == whole.unique_trainings


KILLED_IN_TRAINING = """
import os, signal, sys
from floe_bench.harness.floe.rank_search import search

calls = 0

def objective(r):
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0 + (r - 9) ** 2 / 100

search(objective, 2, 16, trials=18, seed=2, storage=sys.argv[1])
"""


def test_a_killed_search_resumes_to_the_uninterrupted_one(storage):
    objective = Counted()
    whole = search(objective, 2, 16, trials=18, seed=2, storage=None)
    # The last training but one: past the ten random start-up trials, where suggestions depend on the history.
    last_killed = len(objective.calls) - 1
    assert [t.number for t in whole.trials if not t.reused][last_killed - 1] > 10

    for call in (3, last_killed - 2):  # the second process starts with two trainings done
        process = subprocess.run(
            [sys.executable, "-c", KILLED_IN_TRAINING, storage, str(call)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=60,
        )
        assert process.returncode == -9, process.stderr.decode()

    resumed = Counted()
    assert search(resumed, 2, 16, trials=18, seed=2, storage=storage) == whole
    assert resumed.calls == objective.calls[last_killed - 1 :]


def test_an_exception_in_the_objective_propagates_and_the_search_resumes(storage):
    whole = search(curve, 2, 16, trials=14, seed=5, storage=None)
    for fail_at, error in ((1, RuntimeError), (2, KeyboardInterrupt), (5, RuntimeError)):
        with pytest.raises(error, match="training broke"):
            search(Counted(fail_at, error), 2, 16, trials=14, seed=5, storage=storage)
    assert search(curve, 2, 16, trials=14, seed=5, storage=storage) == whole


def test_the_study_is_an_ordinary_optuna_study(storage):
    import optuna

    with pytest.raises(RuntimeError):
        search(Counted(fail_at=3), 2, 16, trials=8, seed=0, storage=storage)
    found = search(curve, 2, 16, trials=8, seed=0, storage=storage)
    backend = optuna.storages.RDBStorage(storage)
    study = optuna.load_study(study_name=rank_search.STUDY_NAME, storage=backend)
    complete = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    assert [(t.params["r"], t.value, t.user_attrs["reused"]) for t in complete] == [
        (t.r, t.value, t.reused) for t in found.trials
    ]
    assert len(study.trials) == 8, "a trial that was interrupted is not stored"
    assert study.best_value == found.value
    backend.remove_session()
    backend.engine.dispose()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match=r"rank 7 is -?(nan|inf)"):
        search(lambda r: value, 7, 7, trials=2, seed=0, storage=None)
    with pytest.raises(ValueError, match=r"rank 4 is -?(nan|inf)"):
        exhaustive(lambda r: value if r == 4 else 1.0, [2, 4, 8])


def test_a_refused_value_is_tried_again_on_resume(storage):
    with pytest.raises(ValueError, match="rank 7 is nan"):
        search(lambda r: float("nan"), 7, 7, trials=1, seed=0, storage=storage)
    assert search(curve, 7, 7, trials=1, seed=0, storage=storage).value == curve(7)


@pytest.mark.parametrize("changed", [{"low": 3}, {"high": 15}, {"seed": 1}])
def test_a_storage_of_another_search_is_refused(storage, changed):
    settings = {"low": 2, "high": 16, "seed": 0}
    search(curve, **settings, trials=1, storage=storage)
    with pytest.raises(ValueError, match=r"holds a rank search of .*, not of "):
        search(curve, **{**settings, **changed}, trials=2, storage=storage)


def test_a_study_of_unknown_origin_is_refused(storage):
    import optuna

    backend = optuna.storages.RDBStorage(storage)
    study = optuna.create_study(study_name=rank_search.STUDY_NAME, storage=backend)
    study.tell(study.ask({"r": optuna.distributions.IntDistribution(2, 16)}), 1.0)
    backend.remove_session()
    backend.engine.dispose()
    with pytest.raises(ValueError, match="holds a rank search of None"):
        search(curve, 2, 16, trials=2, seed=0, storage=storage)


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
        search(curve, **{"low": 2, "high": 16, "trials": 5, "seed": 0, "storage": None, **changed})


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


def test_optuna_is_quiet_and_its_level_stays(storage):
    import optuna

    handler = logging.handlers.BufferingHandler(capacity=1000)
    logger = logging.getLogger("optuna")
    before = optuna.logging.get_verbosity()
    logger.addHandler(handler)
    try:
        for level in (optuna.logging.INFO, optuna.logging.ERROR):
            optuna.logging.set_verbosity(level)
            search(curve, 2, 16, trials=2, seed=0, storage=None)
            search(curve, 2, 16, trials=2, seed=0, storage=storage)
            assert logger.level == level
    finally:
        logger.removeHandler(handler)
        optuna.logging.set_verbosity(before)
    assert handler.buffer == []


def test_importing_the_module_does_not_import_optuna():
    code = "import sys, floe_bench.harness.floe.rank_search; sys.exit('optuna' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert ran.returncode == 0
