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
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from optuna import Study
    from optuna.samplers import TPESampler
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

STUDY_NAME = "floe-rank-search"

REDUCTION_FACTOR = 4
"""η of successive halving: about the best quarter of the trials continues at the next share.

Every rank is trained anew at each share, so a milder cut (2 or 3) saves little. 4 is also the default of Optuna
and of ASHA (arXiv 1810.05934).
"""


@dataclass(frozen=True)
class Trial:
    """One finished trial.

    Attributes:
        number: position among the finished trials, from 0.
        r: rank tried.
        value: validation loss at `share`, as the objective returned it (nats).
        reused: whether nothing was trained, because earlier trials of this rank supplied the values.
        share: largest share of the training rows that the trial was judged at. Below 1 it was pruned there.
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


def search(
    objective: Callable[[int], float], low: int, high: int, trials: int, seed: int, storage: str | None
) -> RankSearch:
    """Minimise `objective` over the integers r in [low, high] by Optuna's TPE sampler at its defaults.

    This is `halving_search` with 1 as its only share, so it prunes no trial.

    Args:
        objective: validation loss after a short adaptation at rank r (nats). Its exceptions pass through.
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
    """Minimise `objective` at the last share over the integers r in [low, high], by TPE with successive halving.

    Optuna's TPE sampler proposes a rank. The rank is judged after training on the first share of the rows.
    Optuna's SuccessiveHalvingPruner then keeps it for the next share or prunes it. It keeps values in the best
    quarter of those seen at this share (REDUCTION_FACTOR). The first trial always reaches the last share.

    A (rank, share) is trained once; later trials reuse its value. A trial without any training has the user
    attribute `reused`.

    Each suggestion depends on `seed` and the finished trials only. So a search that was killed, or whose
    objective raised, resumes from its storage with the same trials. The interrupted trial starts over.

    Args:
        objective: validation loss (nats) after a short adaptation at rank r on a share of the rows. Its exceptions
            pass through.
        low, high: range of ranks, both included, 1 ≤ low ≤ high.
        trials: number of finished trials to stop at, including repeated and pruned ones. If the storage holds
            more, the first ones are taken.
        seed: of the sampler, ≥ 0.
        storage: database URL (`sqlite:///…`) for Optuna's RDBStorage, for one process at a time. None keeps
            the study in memory.
        shares: of the training rows, strictly ascending in (0, 1], the last one 1.

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
            # Store whole trials only: the pruner would count the values of an interrupted one.
            stored.add_trial(study.get_trials(deepcopy=False)[-1])
        done = [_as_trial(trial, shares) for trial in study.get_trials(deepcopy=False)]
    return _best(done[:trials], low, high, shares)


def check_shares(shares: Sequence[float]) -> tuple[float, ...]:
    """Return `shares` as a tuple. Raises ValueError unless they ascend strictly within (0, 1] and end at 1."""
    ascending = all(left < right for left, right in pairwise(shares))
    if not shares or not ascending or shares[0] <= 0 or shares[-1] != 1:
        raise ValueError(f"shares must ascend strictly from above 0 to 1, got {list(shares)}.")
    return tuple(shares)


def exhaustive(objective: Callable[[int], float], ranks: Sequence[int]) -> RankSearch:
    """Evaluate `objective`, the validation loss at rank r (nats), at each of `ranks` in order.

    Raises:
        ValueError: `ranks` is empty, repeats a rank or holds one below 1; or the objective returned a
            non-finite value.
    """
    if not ranks or len(set(ranks)) != len(ranks) or min(ranks) < 1:
        raise ValueError(f"ranks must be one or more distinct integers of at least 1, got {list(ranks)}.")
    trials = [Trial(number, r, _finite(objective(r), r), reused=False) for number, r in enumerate(ranks)]
    return _best(trials, min(ranks), max(ranks))


def _finite(value: float, r: int) -> float:
    """Return the value as a float. Raises ValueError where it is not finite."""
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"the validation loss at rank {r} is {value}: a search needs finite values.")
    return value


def _best(trials: Sequence[Trial], low: int, high: int, shares: tuple[float, ...] = (1.0,)) -> RankSearch:
    """Return the search result. Only trials judged at the last share compete: values at other shares do not compare."""
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
    """Run one trial: ask Optuna for a rank, judge it at each share, and tell the result. Adds to `values`."""
    from optuna.trial import TrialState

    asked = study.ask()
    r = asked.suggest_int("r", low, high)
    asked.set_user_attr("reused", True)
    for step, share in zip(_pruner_steps(shares), shares, strict=True):
        if (r, share) not in values:
            asked.set_user_attr("reused", False)
            values[r, share] = _finite(objective(r, share), r)
        asked.report(values[r, share], step)
        if share == shares[-1]:
            study.tell(asked, values[r, share])
        elif asked.should_prune():
            study.tell(asked, state=TrialState.PRUNED)
            return


def _pruner_steps(shares: tuple[float, ...]) -> list[int]:
    """Return the step to report for each share: Optuna's pruner ends its i-th rung at resource η^i."""
    return [REDUCTION_FACTOR**rung for rung in range(len(shares))]


def _values(trial: "FrozenTrial", shares: tuple[float, ...]) -> dict[tuple[int, float], float]:
    """Return (rank, share) -> validation loss for every share that the trial was judged at."""
    share_at = dict(zip(_pruner_steps(shares), shares, strict=True))
    return {(trial.params["r"], share_at[step]): value for step, value in trial.intermediate_values.items()}


def _as_trial(trial: "FrozenTrial", shares: tuple[float, ...]) -> Trial:
    """Return Optuna's trial as a `Trial`, with the value at its largest share."""
    (r, share), value = max(_values(trial, shares).items(), key=lambda item: item[0])
    return Trial(trial.number, r, value, trial.user_attrs["reused"], share)


def _sampler(seed: int, completed: int) -> "TPESampler":
    """Return a TPE sampler whose random state depends only on the seed and the number of completed trials."""
    from optuna.samplers import TPESampler

    return TPESampler(seed=int(np.random.SeedSequence([seed, completed]).generate_state(1)[0]))


def _in_memory(finished: Sequence["FrozenTrial"]) -> "Study":
    """Return an in-memory study of the finished trials, on which sampler and pruner decide."""
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
    """Create or resume the study of `settings` in `storage`. Close its database connections on exit.

    Raises:
        ValueError: the storage holds a search with other settings.
    """
    from optuna.storages import InMemoryStorage, RDBStorage

    backend = InMemoryStorage() if storage is None else RDBStorage(storage)
    try:
        study = _create_or_load(backend)
        # One key is written at once: a killed process cannot leave half of the settings.
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
    """Silence Optuna's info messages. Restore its log level on exit."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(level, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
