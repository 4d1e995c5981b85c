"""FLoE's rank search (arXiv 2506.00495): the adapter rank r of least validation loss.

`search` is the paper's: Optuna's TPE over the integers of a range. `halving_search` judges a rank on a share of
the adaptation's rows first, and goes on with the promising ones only. `exhaustive` is what both are held against:
every rank of a grid. None trains anything twice.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import TPESampler
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

STUDY_NAME = "floe-rank-search"

REDUCTION_FACTOR = 4
"""η of successive halving: about the best quarter of the trials goes on to the next share. Every rank is judged anew
at each share, so a milder cut (2 or 3) saves little; 4 is also the default of Optuna and of ASHA (arXiv 1810.05934)."""


@dataclass(frozen=True)
class Trial:
    """One finished trial.

    Attributes:
        number: position among the finished trials, from 0.
        r: rank tried.
        value: validation loss at `share`, as the objective returned it (nats).
        reused: nothing was trained: the values are those of earlier trials of this rank.
        share: of the adaptation's rows, the largest that the trial was judged at; below 1 it was pruned there.
    """

    number: int
    r: int
    value: float
    reused: bool
    share: float = 1.0


@dataclass(frozen=True)
class RankSearch:
    """The best rank and the trials that found it.

    Attributes:
        r: rank of least validation loss among those judged at the last share; of equal ones, the smallest.
        value: its validation loss (nats).
        trials: finished trials in order.
        low, high: smallest and largest rank that could be tried.
        shares: of the adaptation's rows, at which a trial is judged in turn.
    """

    r: int
    value: float
    trials: tuple[Trial, ...]
    low: int
    high: int
    shares: tuple[float, ...] = (1.0,)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The distinct ranks, in the order in which they were first tried."""
        return tuple(dict.fromkeys(trial.r for trial in self.trials))

    @property
    def trainings(self) -> tuple[tuple[int, float], ...]:
        """The distinct (rank, share), in the order in which they were first asked for; each was trained once."""
        asked = ((trial.r, share) for trial in self.trials for share in self.shares if share <= trial.share)
        return tuple(dict.fromkeys(asked))

    @property
    def unique_trainings(self) -> int:
        """Number of distinct (rank, share): of ranks, where the only share is the whole."""
        return len(self.trainings)

    @property
    def at_edge(self) -> bool:
        """Whether the best rank is the smallest or the largest one allowed: a better one may lie outside."""
        return self.r in (self.low, self.high)


def search(
    objective: Callable[[int], float], low: int, high: int, trials: int, seed: int, storage: str | None
) -> RankSearch:
    """Minimise `objective` over the integers r in [low, high] by Optuna's TPE sampler at its defaults.

    It is `halving_search` with the whole as its only share: no trial is pruned.

    Args:
        objective: validation loss after a short adaptation at rank r (nats). What it raises is passed on.
        low, high, trials, seed, storage: as for `halving_search`.

    Raises:
        ValueError: as for `halving_search`.
    """
    return halving_search(lambda r, share: objective(r), low, high, trials, seed, storage, shares=(1.0,))


def halving_search(
    objective: Callable[[int, float], float],
    low: int,
    high: int,
    trials: int,
    seed: int,
    storage: str | None,
    shares: Sequence[float],
) -> RankSearch:
    """Minimise `objective` at the last share over the integers r in [low, high]: TPE with successive halving.

    Optuna's TPE sampler proposes a rank. It is judged after an adaptation on the first share of the rows, and goes on
    to the next share only if Optuna's SuccessiveHalvingPruner keeps it: if its value is in the best quarter of those
    seen at this share (REDUCTION_FACTOR). Else it is pruned. The first trial always reaches the last share.

    What was trained before, a rank at a share, is not trained again: the known value stands, and a trial of known
    values alone has the user attribute `reused`. Each suggestion depends on `seed` and the finished trials only, so
    a search that was killed, or whose objective raised, continues from its storage to the very trials of an
    uninterrupted one; the trial that was interrupted starts over.

    Args:
        objective: validation loss (nats) after a short adaptation at rank r on a share of the rows. What it raises
            is passed on.
        low, high: range of ranks, both included, 1 ≤ low ≤ high.
        trials: finished trials to stop at, repeated ranks and pruned ones included. Of a storage that holds more,
            the first ones are taken.
        seed: of the sampler, ≥ 0.
        storage: database URL (`sqlite:///…`) for Optuna's RDBStorage, for one process at a time; None keeps
            the study in memory.
        shares: of the adaptation's rows, strictly ascending in (0, 1], the last one 1.

    Raises:
        ValueError: the range, `trials`, `seed` or `shares` is invalid; the objective returned a non-finite value;
            or the storage holds a search of another range, seed or shares.
    """
    if not 1 <= low <= high:
        raise ValueError(f"ranks must satisfy 1 <= low <= high, got low={low}, high={high}.")
    if trials < 1:
        raise ValueError(f"trials must be at least 1, got {trials}.")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}.")
    shares = check_shares(shares)

    values: dict[tuple[int, float], float] = {}
    settings = {"low": low, "high": high, "seed": seed, "shares": list(shares)}
    with _stored_study(storage, settings) as stored:
        study = _in_memory(stored.get_trials(deepcopy=False))
        for trial in study.get_trials(deepcopy=False):
            values |= _values(trial, shares)
        while (finished := len(study.get_trials(deepcopy=False))) < trials:
            study.sampler = _sampler(seed, finished)
            _run_trial(study, objective, low, high, shares, values)
            # Whole trials alone are stored: the values of one that was cut short would count in the pruner's quarter.
            stored.add_trial(study.get_trials(deepcopy=False)[-1])
        done = [_trial(trial, shares) for trial in study.get_trials(deepcopy=False)]
    return _best(done[:trials], low, high, shares)


def check_shares(shares: Sequence[float]) -> tuple[float, ...]:
    """`shares` as a tuple. Raises ValueError unless they ascend strictly within (0, 1] and end at 1."""
    ascending = all(left < right for left, right in pairwise(shares))
    if not shares or not ascending or shares[0] <= 0 or shares[-1] != 1:
        raise ValueError(f"shares must ascend strictly from above 0 to 1, got {list(shares)}.")
    return tuple(shares)


def exhaustive(objective: Callable[[int], float], ranks: Sequence[int]) -> RankSearch:
    """Evaluate `objective`, the validation loss at rank r (nats), at each of `ranks`, in that order.

    Raises:
        ValueError: `ranks` is empty, repeats a rank or holds one below 1; or the objective returned a
            non-finite value.
    """
    if not ranks or len(set(ranks)) != len(ranks) or min(ranks) < 1:
        raise ValueError(f"ranks must be one or more distinct integers of at least 1, got {list(ranks)}.")
    trials = [Trial(number, r, _finite(objective(r), r), reused=False) for number, r in enumerate(ranks)]
    return _best(trials, min(ranks), max(ranks))


def _finite(value: float, r: int) -> float:
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"the validation loss at rank {r} is {value}: a search needs finite values.")
    return value


def _best(trials: Sequence[Trial], low: int, high: int, shares: tuple[float, ...] = (1.0,)) -> RankSearch:
    """Values at different shares are not comparable: only those of the last one compete."""
    best = min((trial for trial in trials if trial.share == shares[-1]), key=lambda trial: (trial.value, trial.r))
    return RankSearch(best.r, best.value, tuple(trials), low, high, shares)


# --- with Optuna ------------------------------------------------------------------------------------


def _run_trial(
    study: "Study",
    objective: Callable[[int, float], float],
    low: int,
    high: int,
    shares: tuple[float, ...],
    values: dict[tuple[int, float], float],
) -> None:
    """Ask for a rank, judge it share by share until it is pruned or through, and tell; adds to `values`."""
    from optuna.trial import TrialState

    asked = study.ask()
    r = asked.suggest_int("r", low, high)
    asked.set_user_attr("reused", True)
    for step, share in zip(_steps(shares), shares, strict=True):
        if (r, share) not in values:
            asked.set_user_attr("reused", False)
            values[r, share] = _finite(objective(r, share), r)
        asked.report(values[r, share], step)
        if share == shares[-1]:
            study.tell(asked, values[r, share])
        elif asked.should_prune():
            study.tell(asked, state=TrialState.PRUNED)
            return


def _steps(shares: tuple[float, ...]) -> list[int]:
    """What Optuna's pruner has to be told as the step of each share: the resource at which its i-th rung ends."""
    return [REDUCTION_FACTOR**rung for rung in range(len(shares))]


def _values(trial: "FrozenTrial", shares: tuple[float, ...]) -> dict[tuple[int, float], float]:
    """(rank, share) -> validation loss, of all shares that the trial was judged at."""
    share_at = dict(zip(_steps(shares), shares, strict=True))
    return {(trial.params["r"], share_at[step]): value for step, value in trial.intermediate_values.items()}


def _trial(trial: "FrozenTrial", shares: tuple[float, ...]) -> Trial:
    (r, share), value = max(_values(trial, shares).items(), key=lambda item: item[0])
    return Trial(trial.number, r, value, trial.user_attrs["reused"], share)


def _sampler(seed: int, completed: int) -> "TPESampler":
    """TPE whose random state is a function of the seed and the number of completed trials."""
    from optuna.samplers import TPESampler

    return TPESampler(seed=int(np.random.SeedSequence([seed, completed]).generate_state(1)[0]))


def _in_memory(finished: Sequence["FrozenTrial"]) -> "Study":
    """A study that holds the finished trials, for the sampler and the pruner to decide on."""
    import optuna

    with _quiet():
        study = optuna.create_study(
            direction="minimize",
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION_FACTOR),
        )
    study.add_trials(finished)
    return study


@contextmanager
def _stored_study(storage: str | None, settings: dict[str, Any]) -> Iterator["Study"]:
    """The study in `storage`, created or resumed for `settings`; closes its database connections after."""
    from optuna.storages import InMemoryStorage, RDBStorage

    backend = InMemoryStorage() if storage is None else RDBStorage(storage)
    try:
        study = _create_or_load(backend)
        # Under one key: a process killed between several would leave half a description behind.
        stored = study.user_attrs.get("search")
        if stored is None and not study.trials:
            study.set_user_attr("search", settings)
        elif stored != settings:
            raise ValueError(f"{storage} holds a rank search of {stored}, not of {settings}.")
        yield study
    finally:
        if isinstance(backend, RDBStorage):
            backend.remove_session()
            backend.engine.dispose()


def _create_or_load(backend: "BaseStorage") -> "Study":
    import optuna

    with _quiet():
        return optuna.create_study(study_name=STUDY_NAME, storage=backend, direction="minimize", load_if_exists=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's info messages; its log level is left as it was."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(level, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
