"""FLoE's rank search (arXiv 2506.00495): find the adapter rank r of least validation loss.

`search` is the paper's: Optuna's TPE over the integers of a range.
`halving_search` first judges a rank on a share of the training rows, then continues with promising ranks.
`exhaustive` is the yardstick for both: it tries every rank of a grid. None of them trains anything twice.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import TPESampler
    from optuna.trial import FrozenTrial

REDUCTION_FACTOR = 4
"""η of successive halving: about the best quarter of the trials continues at the next share.

Every rank is trained anew at each share, so a milder cut (2 or 3) saves little. 4 is also the default of Optuna
and of ASHA (arXiv 1810.05934).
"""


class EveryRankDiverged(Exception):
    """No trial of a search came to a finite validation loss."""


@dataclass(frozen=True)
class Trial:
    """One finished trial.

    Attributes:
        number: position among the finished trials, from 0.
        r: rank tried.
        value: validation loss at `share`, as the objective returned it (nats). None where it was not finite: the
            trial failed.
        reused: whether nothing was trained, because earlier trials of this rank supplied the values.
        share: largest share of the training rows that the trial was judged at. Below 1 it was pruned or failed there.
    """

    number: int
    r: int
    value: float | None
    reused: bool
    share: float = 1.0


@dataclass(frozen=True)
class RankSearch:
    """The best rank and the trials that found it.

    Attributes:
        r: rank of least validation loss among those judged at the last share. Ties go to the smallest rank.
        value: its validation loss (nats).
        trials: finished trials in order.
        low, high: smallest and largest rank that could be tried.
        shares: shares of the training rows at which a trial is judged in turn.
    """

    r: int
    value: float
    trials: tuple[Trial, ...]
    low: int
    high: int
    shares: tuple[float, ...] = (1.0,)

    @property
    def ranks(self) -> tuple[int, ...]:
        """Return the distinct ranks in the order in which they were first tried."""
        return tuple(dict.fromkeys(trial.r for trial in self.trials))

    @property
    def trainings(self) -> tuple[tuple[int, float], ...]:
        """Return the distinct (rank, share) in the order in which they were first asked for. Each was trained once."""
        asked = ((trial.r, share) for trial in self.trials for share in self.shares if share <= trial.share)
        return tuple(dict.fromkeys(asked))

    @property
    def unique_trainings(self) -> int:
        """Count the distinct (rank, share). Where the only share is 1 this is the number of ranks."""
        return len(self.trainings)

    @property
    def at_edge(self) -> bool:
        """Whether the best rank is the smallest or largest allowed, so that a better one may lie outside."""
        return self.r in (self.low, self.high)


def search(objective: Callable[[int], float], low: int, high: int, trials: int, seed: int) -> RankSearch:
    """Minimise `objective` over the integers r in [low, high] by Optuna's TPE sampler at its defaults.

    This is `halving_search` with 1 as its only share, so it prunes no trial.

    Args:
        objective: validation loss after a short adaptation at rank r (nats). Its exceptions pass through.
        low, high, trials, seed: as for `halving_search`.

    Raises:
        ValueError, EveryRankDiverged: as `halving_search`.
    """
    return halving_search(lambda r, share: objective(r), low, high, trials, seed, shares=(1.0,))


def halving_search(
    objective: Callable[[int, float], float], low: int, high: int, trials: int, seed: int, shares: Sequence[float]
) -> RankSearch:
    """Minimise `objective` at the last share over the integers r in [low, high], by TPE with successive halving.

    Optuna's TPE sampler proposes a rank. The rank is judged after training on the first share of the rows.
    Optuna's SuccessiveHalvingPruner then keeps it for the next share or prunes it. It keeps values in the best
    quarter of those seen at this share (REDUCTION_FACTOR). The first trial that does not fail reaches the last share.

    A (rank, share) is trained once; later trials reuse its value. A value that is not finite fails the trial. Sampler
    and pruner see nothing of it, and the search goes on.

    Each suggestion depends on `seed` and the values only. So the search needs no storage of its own: one that was
    killed is repeated, and an objective that kept its values answers at once.

    Args:
        objective: validation loss (nats) after a short adaptation at rank r on a share of the rows; not finite where
            the adaptation diverged. Its exceptions pass through.
        low, high: range of ranks, both included, 1 ≤ low ≤ high.
        trials: number of trials, including repeated, pruned and failed ones.
        seed: of the sampler, ≥ 0.
        shares: of the training rows, strictly ascending in (0, 1], the last one 1.

    Raises:
        ValueError: the range, `trials`, `seed` or `shares` is invalid.
        EveryRankDiverged: every trial failed.
    """
    if not 1 <= low <= high:
        raise ValueError(f"ranks must satisfy 1 <= low <= high, got low={low}, high={high}.")
    if trials < 1:
        raise ValueError(f"trials must be at least 1, got {trials}.")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}.")
    shares = check_shares(shares)

    known: dict[tuple[int, float], float] = {}
    done: list[Trial] = []
    study = _study([])
    for number in range(trials):
        study.sampler = _sampler(seed, number)
        done.append(_run_trial(study, objective, low, high, shares, known, number))
        if done[-1].value is None:  # a failed trial would keep its place among those that the pruner compares
            study = _study(study.get_trials(deepcopy=False)[:-1])
    return _best(done, low, high, shares)


def check_shares(shares: Sequence[float]) -> tuple[float, ...]:
    """Return `shares` as a tuple. Raises ValueError unless they ascend strictly within (0, 1] and end at 1."""
    ascending = all(left < right for left, right in pairwise(shares))
    if not shares or not ascending or shares[0] <= 0 or shares[-1] != 1:
        raise ValueError(f"shares must ascend strictly from above 0 to 1, got {list(shares)}.")
    return tuple(shares)


def exhaustive(objective: Callable[[int], float], ranks: Sequence[int]) -> RankSearch:
    """Evaluate `objective`, the validation loss at rank r (nats), at each of `ranks` in order.

    A value that is not finite fails its trial.

    Raises:
        ValueError: `ranks` is empty, repeats a rank or holds one below 1.
        EveryRankDiverged: every trial failed.
    """
    if not ranks or len(set(ranks)) != len(ranks) or min(ranks) < 1:
        raise ValueError(f"ranks must be one or more distinct integers of at least 1, got {list(ranks)}.")
    trials = [Trial(number, r, _finite(objective(r)), reused=False) for number, r in enumerate(ranks)]
    return _best(trials, min(ranks), max(ranks))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _best(trials: Sequence[Trial], low: int, high: int, shares: tuple[float, ...] = (1.0,)) -> RankSearch:
    """Return the search result. Only trials judged at the last share compete: values at other shares do not compare.

    Raises EveryRankDiverged where there is none.
    """
    judged = [(trial.value, trial.r) for trial in trials if trial.share == shares[-1] and trial.value is not None]
    if not judged:
        ranks = sorted({trial.r for trial in trials})
        raise EveryRankDiverged(
            f"the validation loss was not finite at any rank that was tried ({', '.join(map(str, ranks))}): "
            "lower the learning rate"
        )
    value, r = min(judged)
    return RankSearch(r, value, tuple(trials), low, high, shares)


# --- with Optuna ------------------------------------------------------------------------------------


def _run_trial(
    study: "Study",
    objective: Callable[[int, float], float],
    low: int,
    high: int,
    shares: tuple[float, ...],
    known: dict[tuple[int, float], float],
    number: int,
) -> Trial:
    """Run one trial: ask Optuna for a rank, judge it at each share, and tell the result. Adds values to `known`."""
    from optuna.trial import TrialState

    asked = study.ask()
    r = asked.suggest_int("r", low, high)
    reused, value = True, None
    for step, share in zip(_pruner_steps(shares), shares, strict=True):
        if (r, share) not in known:
            reused = False
            known[r, share] = objective(r, share)
        value = _finite(known[r, share])
        if value is None:
            study.tell(asked, state=TrialState.FAIL)
            return Trial(number, r, None, reused, share)
        asked.report(value, step)
        if share < shares[-1] and asked.should_prune():
            study.tell(asked, state=TrialState.PRUNED)
            return Trial(number, r, value, reused, share)
    study.tell(asked, value)
    return Trial(number, r, value, reused, shares[-1])


def _pruner_steps(shares: tuple[float, ...]) -> list[int]:
    """Return the step to report for each share: Optuna's pruner ends its i-th rung at resource η^i."""
    return [REDUCTION_FACTOR**rung for rung in range(len(shares))]


def _sampler(seed: int, finished: int) -> "TPESampler":
    """Return a TPE sampler whose random state depends only on the seed and the number of finished trials."""
    from optuna.samplers import TPESampler

    return TPESampler(seed=int(np.random.SeedSequence([seed, finished]).generate_state(1)[0]))


def _study(trials: Sequence["FrozenTrial"]) -> "Study":
    """Return a study in memory that holds the trials. Sampler and pruner decide on it."""
    import optuna

    with _quiet():
        study = optuna.create_study(
            direction="minimize",
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION_FACTOR),
        )
    study.add_trials(trials)
    return study


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Optuna's info messages. Restore its log level on exit."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(level, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
