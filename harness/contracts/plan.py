"""Define what a method decides: what is trained, and which rows planning draws from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from floe_bench.harness.spec.base import Data

if TYPE_CHECKING:
    from peft import PeftConfig


@dataclass(frozen=True)
class Sample:
    """Name the training rows that pilot and calibration rows are drawn from.

    Attributes:
        mix: whose rows; None takes the cell's own mix.
        part: (i, n) takes the i-th of n disjoint parts of the rows.
        foreign: (mix, share) replaces this share of the rows by rows of another mix.
    """

    mix: str | None = None
    part: tuple[int, int] = (0, 1)
    foreign: tuple[str, float] | None = None


OWN_ROWS = Sample()
"""All training rows of the cell's own mix."""


class Selected(Data):
    """Hold the budget and the outcome of a layer selection (arXiv 2506.00495, layer selection).

    Attributes:
        taylor_budget: C, the most Taylor importance that the layers may hold together.
        taylor_spent: Taylor importance of the selected layers, summed.
        objective: Fisher loss of leaving out the other layers.
        greedy_objective: the same after the greedy start.
    """

    taylor_budget: float
    taylor_spent: float
    objective: float
    greedy_objective: float


class Trial(Data):
    """Hold one trial of a rank search.

    Attributes:
        number: the trial's place in the search.
        r: rank tried.
        value: validation NLL (nats per token). None where the rank diverged: the trial failed.
        reused: True where the rank was known already, so that nothing was trained.
        share: share of the probe's rows that it trained on.
    """

    number: int
    r: int
    value: float | None
    reused: bool
    share: float = 1.0


class Searched(Data):
    """Hold a rank search's history. With `optimum_at_edge` a better rank may lie outside the range."""

    trials: tuple[Trial, ...]
    unique_trainings: int
    optimum_at_edge: bool


class Matched(Data):
    """Say how near a rank came to another method's trainable parameters.

    Attributes:
        method: the other method.
        target: its trainable parameters.
        ratio: our trainable parameters over `target`.
        within_tolerance: whether the ratio is near enough to 1.
    """

    method: str
    target: int
    ratio: float
    within_tolerance: bool


@dataclass(frozen=True)
class AdapterPlan:
    """Say what a method decided to train. Data only.

    Attributes:
        adapts: "adapter" trains what `peft_config` adds, "everything" the base weights, "nothing" trains nothing.
        peft_config: the adapter, where there is one.
        rank_range: least and largest rank that the method could choose, where it searched.
        learning_rate_ratio: the method's learning rate over that of the settings.
        k: K, the most layers that the method could choose, where it chose.
        scores: name -> what the method measured, one number per layer (or per parameter).
        selected: outcome of the layer selection, where there was one.
        searched: outcome of the rank search, where there was one.
        matched: outcome of matching another method's parameters, where it was asked for.
        details: anything else that the record should keep, JSON-able.
    """

    adapts: Literal["adapter", "everything", "nothing"]
    peft_config: PeftConfig | None = None
    rank_range: tuple[int, int] | None = None
    learning_rate_ratio: float = 1.0
    k: int | None = None
    scores: dict[str, list[float]] = field(default_factory=dict)
    selected: Selected | None = None
    searched: Searched | None = None
    matched: Matched | None = None
    details: dict[str, Any] = field(default_factory=dict)
