"""The rank search that judges on shares of the rows first, against the rule of successive halving by hand."""

import math
from collections import Counter

import pytest

from floe_bench.harness.floe.rank_search import STUDY_NAME, halving_search, search

SHARES = (0.25, 0.5, 1.0)


def share_curve(r, share):
    """Convex in r, least near 9; higher on fewer rows, and bumpy by an amount of its own."""
    return 1.0 + (r - 9) ** 2 / 100 + 0.5 * (1 - share) + 0.1 * math.sin(7 * r + 20 * share)


class Counted:
    """`share_curve`, keeping what it is asked for; Ctrl-C at call number `fail_at`."""

    def __init__(self, fail_at=None):
        self.calls = []
        self.fail_at = fail_at

    def __call__(self, r, share):
        self.calls.append((r, share))
        if len(self.calls) == self.fail_at:
            raise KeyboardInterrupt
        return share_curve(r, share)


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path / 'trials.db'}"


def by_halving(objective=share_curve, low=2, high=16, trials=30, seed=0, storage=None, shares=SHARES):
    return halving_search(objective, low, high, trials, seed, storage, shares)


def shares_reached(ranks, shares) -> list[float]:
    """Asynchronous successive halving (arXiv 1810.05934): on to the next share if among the best n // 4 (at least
    one) of the n trials that were judged at this one so far, itself included."""
    seen: dict[float, list[float]] = {share: [] for share in shares}
    reached = []
    for r in ranks:
        for share in shares:
            value = share_curve(r, share)
            seen[share].append(value)
            if share == shares[-1] or value > sorted(seen[share])[max(1, len(seen[share]) // 4) - 1]:
                reached.append(share)
                break
    return reached


@pytest.mark.parametrize("shares", [SHARES, (0.25, 1.0), (0.1, 0.2, 0.4, 1.0)])
@pytest.mark.parametrize("seed", range(3))
def test_a_trial_goes_on_while_it_is_in_the_best_quarter(shares, seed):
    found = by_halving(trials=40, seed=seed, shares=shares)
    assert [trial.share for trial in found.trials] == shares_reached([trial.r for trial in found.trials], shares)
    assert len({trial.share for trial in found.trials}) > 1
    assert all(trial.value == share_curve(trial.r, trial.share) for trial in found.trials)
    assert [trial.number for trial in found.trials] == list(range(40))


def test_each_rank_is_trained_once_at_each_share():
    objective = Counted()
    found = by_halving(objective, trials=40)
    assert max(Counter(objective.calls).values()) == 1
    assert list(found.trainings) == objective.calls
    assert found.unique_trainings == len(objective.calls) > len(found.ranks)
    known = set()
    for trial in found.trials:
        asked = {(trial.r, share) for share in SHARES if share <= trial.share}
        assert trial.reused == (asked <= known)
        known |= asked
    assert {trial.reused for trial in found.trials} == {True, False}


def test_it_trains_less_than_the_literal_search():
    rows = {shares: sum(s for _, s in by_halving(trials=40, shares=shares).trainings) for shares in (SHARES, (1.0,))}
    assert rows[SHARES] < 0.75 * rows[1.0,]


def test_values_at_a_share_do_not_compete_with_those_at_the_whole():
    """The first trial is through to the end; all later ones are worse at the first share, and better than its end."""
    first = by_halving(trials=1).r
    found = by_halving(lambda r, share: 10.0 if share == 1 else 1.0 + (r != first), trials=12)
    assert {trial.value for trial in found.trials if trial.share < 1} == {2.0}
    assert (found.r, found.value) == (first, 10.0)


@pytest.mark.parametrize("seed", range(3))
def test_the_whole_as_the_only_share_is_the_literal_search(seed):
    objective = Counted()
    found = by_halving(objective, trials=25, seed=seed, shares=[1])
    assert found == search(lambda r: share_curve(r, 1.0), 2, 16, 25, seed, None)
    assert found.shares == (1,) and found.unique_trainings == len(found.ranks)


@pytest.mark.parametrize("fail_at", [1, 2, 3, 5, 9, 13])
def test_wherever_it_is_interrupted_it_resumes_to_the_uninterrupted_one(fail_at, storage):
    whole = by_halving(trials=20)
    with pytest.raises(KeyboardInterrupt):
        by_halving(Counted(fail_at), trials=20, storage=storage)
    resumed = Counted()
    assert by_halving(resumed, trials=20, storage=storage) == whole
    assert len(resumed.calls) <= whole.unique_trainings
    again = Counted()
    assert by_halving(again, trials=20, storage=storage) == whole
    assert by_halving(again, trials=7, storage=storage).trials == whole.trials[:7]
    assert again.calls == []


def test_pruned_trials_are_pruned_trials_of_optuna(storage):
    import optuna

    found = by_halving(trials=12, storage=storage)
    backend = optuna.storages.RDBStorage(storage)
    study = optuna.load_study(study_name=STUDY_NAME, storage=backend)
    assert [t.state.name for t in study.trials] == [
        "COMPLETE" if trial.share == 1 else "PRUNED" for trial in found.trials
    ]
    assert [list(t.intermediate_values.values()) for t in study.trials] == [
        [share_curve(trial.r, share) for share in SHARES if share <= trial.share] for trial in found.trials
    ]
    assert study.best_value == found.value
    assert study.user_attrs["search"] == {"low": 2, "high": 16, "seed": 0, "shares": [0.25, 0.5, 1.0]}
    backend.remove_session()
    backend.engine.dispose()


def test_a_storage_of_other_shares_is_refused(storage):
    by_halving(trials=1, storage=storage)
    with pytest.raises(ValueError, match=r"holds a rank search of .*, not of "):
        by_halving(trials=2, storage=storage, shares=(0.5, 1.0))


@pytest.mark.parametrize("shares", [(), (0.5,), (0.0, 1.0), (-0.5, 1.0), (0.5, 0.5, 1.0), (0.5, 0.25, 1.0), (0.5, 2.0)])
def test_shares_that_do_not_ascend_to_the_whole_are_refused(shares):
    with pytest.raises(ValueError, match="shares must ascend strictly from above 0 to 1"):
        by_halving(shares=shares)


def test_a_value_at_a_share_must_be_finite():
    with pytest.raises(ValueError, match="rank 7 is nan"):
        by_halving(lambda r, share: float("nan") if share == 0.5 else 1.0, low=7, high=7)
