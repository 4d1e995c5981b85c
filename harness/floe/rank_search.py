"""FLoE's rank search (arXiv 2506.00495): the adapter rank r of least validation loss.

`search` is the paper's: Optuna's TPE over the integers of a range. `exhaustive` is what it is held against:
every rank of a grid. Neither trains one rank twice.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import TPESampler
    from optuna.storages import BaseStorage

STUDY_NAME = "floe-rank-search"


@dataclass(frozen=True)
class Trial:
    """One completed trial.

    Attributes:
        number: position among the completed trials, from 0.
        r: rank tried.
        value: validation loss, as the objective returned it (nats).
        reused: the rank had been trained by an earlier trial, whose value this one repeats.
    """

    number: int
    r: int
    value: float
    reused: bool


@dataclass(frozen=True)
class RankSearch:
    """The best rank and the trials that found it.

    Attributes:
        r: rank of least validation loss; of equal ones, the smallest.
        value: its validation loss (nats).
        trials: completed trials in order.
        low, high: smallest and largest rank that could be tried.
    """

    r: int
    value: float
    trials: tuple[Trial, ...]
    low: int
    high: int

    @property
    def ranks(self) -> tuple[int, ...]:
        """The distinct ranks, in the order in which they were first tried; each was trained once."""
        return tuple(dict.fromkeys(trial.r for trial in self.trials))

    @property
    def unique_trainings(self) -> int:
        """Number of distinct ranks."""
        return len(self.ranks)

    @property
    def at_edge(self) -> bool:
        """Whether the best rank is the smallest or the largest one allowed: a better one may lie outside."""
        return self.r in (self.low, self.high)


def search(
    objective: Callable[[int], float], low: int, high: int, trials: int, seed: int, storage: str | None
) -> RankSearch:
    """Minimise `objective` over the integers r in [low, high] by Optuna's TPE sampler at its defaults.

    A rank trained before is not trained again: its trial is told the known value, and its user attribute
    `reused` is true. Each suggestion depends on `seed` and the completed trials only, so a search that was
    killed, or whose objective raised, continues from its storage to the very trials of an uninterrupted one.

    Args:
        objective: validation loss after a short adaptation at rank r (nats). What it raises is passed on.
        low, high: range of ranks, both included, 1 ≤ low ≤ high.
        trials: completed trials to stop at, repeated ranks included. Of a storage that holds more, the first
            ones are taken.
        seed: of the sampler, ≥ 0.
        storage: database URL (`sqlite:///…`) for Optuna's RDBStorage, for one process at a time; None keeps
            the study in memory. Trials left running by an earlier process are marked as failed and do not
            count.

    Raises:
        ValueError: the range, `trials` or `seed` is invalid; the objective returned a non-finite value; or
            the storage holds a search of another range or seed.
    """
    if not 1 <= low <= high:
        raise ValueError(f"ranks must satisfy 1 <= low <= high, got low={low}, high={high}.")
    if trials < 1:
        raise ValueError(f"trials must be at least 1, got {trials}.")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}.")

    with _open_study(storage, {"low": low, "high": high, "seed": seed}) as study:
        while len(done := _completed(study)) < trials:
            study.sampler = _sampler(seed, len(done))
            asked = study.ask()
            r = asked.suggest_int("r", low, high)
            known = {trial.r: trial.value for trial in done}
            asked.set_user_attr("reused", r in known)
            study.tell(asked, known[r] if r in known else _evaluate(objective, r))
    return _best(done[:trials], low, high)


def exhaustive(objective: Callable[[int], float], ranks: Sequence[int]) -> RankSearch:
    """Evaluate `objective`, the validation loss at rank r (nats), at each of `ranks`, in that order.

    Raises:
        ValueError: `ranks` is empty, repeats a rank or holds one below 1; or the objective returned a
            non-finite value.
    """
    if not ranks or len(set(ranks)) != len(ranks) or min(ranks) < 1:
        raise ValueError(f"ranks must be one or more distinct integers of at least 1, got {list(ranks)}.")
    trials = [Trial(number, r, _evaluate(objective, r), reused=False) for number, r in enumerate(ranks)]
    return _best(trials, min(ranks), max(ranks))


def _evaluate(objective: Callable[[int], float], r: int) -> float:
    value = float(objective(r))
    if not math.isfinite(value):
        raise ValueError(f"the validation loss at rank {r} is {value}: a search needs finite values.")
    return value


def _best(trials: Sequence[Trial], low: int, high: int) -> RankSearch:
    best = min(trials, key=lambda trial: (trial.value, trial.r))
    return RankSearch(best.r, best.value, tuple(trials), low, high)


def _sampler(seed: int, completed: int) -> "TPESampler":
    """TPE whose random state is a function of the seed and the number of completed trials."""
    from optuna.samplers import TPESampler

    return TPESampler(seed=int(np.random.SeedSequence([seed, completed]).generate_state(1)[0]))


def _completed(study: "Study") -> list[Trial]:
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [
        Trial(number, trial.params["r"], trial.values[0], trial.user_attrs["reused"])
        for number, trial in enumerate(done)
    ]


@contextmanager
def _open_study(storage: str | None, settings: dict[str, int]) -> Iterator["Study"]:
    """The study in `storage`, created or resumed for `settings`; closes its database connections after."""
    from optuna.storages import InMemoryStorage, RDBStorage
    from optuna.trial import TrialState

    backend = InMemoryStorage() if storage is None else RDBStorage(storage)
    try:
        study = _create_or_load(backend)
        # Under one key: a process killed between several would leave half a description behind.
        stored = study.user_attrs.get("search")
        if stored is None and not study.trials:
            study.set_user_attr("search", settings)
        elif stored != settings:
            raise ValueError(f"{storage} holds a rank search of {stored}, not of {settings}.")
        for stale in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.tell(stale.number, state=TrialState.FAIL)
        yield study
    finally:
        if isinstance(backend, RDBStorage):
            backend.remove_session()
            backend.engine.dispose()


def _create_or_load(backend: "BaseStorage") -> "Study":
    """Create or load the study without Optuna's info messages, and leave its log level as it was."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(level, optuna.logging.WARNING))
    try:
        return optuna.create_study(study_name=STUDY_NAME, storage=backend, direction="minimize", load_if_exists=True)
    finally:
        optuna.logging.set_verbosity(level)
