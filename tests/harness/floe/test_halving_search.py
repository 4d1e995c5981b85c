"""The rank search that judges on shares of the rows first, against the rule of successive halving by hand."""

import math
from collections import Counter

import pytest

from floe_bench.harness.floe.rank_search import EveryRankDiverged, halving_search, search

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


def by_halving(objective=share_curve, low=2, high=16, trials=30, seed=0, shares=SHARES):
    return halving_search(objective, low, high, trials, seed, shares)


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
    assert found == search(lambda r: share_curve(r, 1.0), 2, 16, 25, seed)
    assert found.shares == (1,) and found.unique_trainings == len(found.ranks)


@pytest.mark.parametrize("fail_at", [1, 2, 3, 5, 9, 13])
def test_wherever_it_is_interrupted_it_repeats_to_the_uninterrupted_one(fail_at):
    """What was trained is kept, as finished probes are."""
    whole = by_halving(trials=20)
    values: dict[tuple[int, float], float] = {}

    def kept(counted):
        def objective(r, share):
            if (r, share) not in values:
                values[r, share] = counted(r, share)
            return values[r, share]

        return objective

    with pytest.raises(KeyboardInterrupt):
        by_halving(kept(Counted(fail_at)), trials=20)
    assert len(values) == fail_at - 1
    rest = Counted()
    assert by_halving(kept(rest), trials=20) == whole
    assert len(rest.calls) == whole.unique_trainings - (fail_at - 1)


@pytest.mark.parametrize("shares", [(), (0.5,), (0.0, 1.0), (-0.5, 1.0), (0.5, 0.5, 1.0), (0.5, 0.25, 1.0), (0.5, 2.0)])
def test_shares_that_do_not_ascend_to_the_whole_are_refused(shares):
    with pytest.raises(ValueError, match="shares must ascend strictly from above 0 to 1"):
        by_halving(shares=shares)


@pytest.mark.parametrize("at", SHARES)
def test_a_rank_that_diverges_at_any_share_fails_there_and_hides_no_other(at):
    """Ranks below 12 look best on the first rows and diverge at `at`: those that are left compete among themselves."""

    def objective(r, share):
        if r < 12:
            return math.nan if share == at else 0.1
        return share_curve(r, share)

    for seed in range(5):
        found = by_halving(objective, trials=20, seed=seed)
        assert found.r >= 12 and found.value == share_curve(found.r, 1.0)
        failed = [trial for trial in found.trials if trial.value is None]
        assert failed and {trial.share for trial in failed} == {at} and max(trial.r for trial in failed) < 12
        left = [trial.r for trial in found.trials if trial.value is not None and trial.r >= 12]
        reached = [trial.share for trial in found.trials if trial.r >= 12]
        if at == SHARES[0]:
            assert reached == shares_reached(left, SHARES)


def test_where_every_rank_diverges_at_some_share_the_search_says_so():
    with pytest.raises(EveryRankDiverged, match="not finite at any rank"):
        by_halving(lambda r, share: math.nan if share == 0.5 else 1.0, trials=6)
