"""What a method decides: the plan of what is trained, and the rows that planning draws from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from floe_bench.harness.spec.base import Data

if TYPE_CHECKING:
    from peft import PeftConfig


@dataclass(frozen=True)
class Sample:
    """The training rows that planning draws from: pilot and calibration rows are samples of them.

    mix: whose rows; None takes the cell's own mix.
    part: (i, n), the i-th of n disjoint parts of them.
    foreign: (mix, share), that share of them replaced by rows of another mix.
    """

    mix: str | None = None
    part: tuple[int, int] = (0, 1)
    foreign: tuple[str, float] | None = None


OWN_ROWS = Sample()
"""All training rows of the cell's own mix."""


class Selected(Data):
    """What a selection of layers under a Taylor budget C had to spend, and what it reached.

    taylor_budget: C. taylor_spent: Taylor importance of the layers, summed. objective: Fisher loss of leaving the
    other layers out. greedy_objective: the same after the greedy start.
    """

    taylor_budget: float
    taylor_spent: float
    objective: float
    greedy_objective: float


class Trial(Data):
    """One trial of a rank search: rank, validation NLL (nats/token), and the share of the probe's rows it used.

    reused: nothing was trained, as this rank was known.
    """

    number: int
    r: int
    value: float
    reused: bool
    share: float = 1.0


class Searched(Data):
    """A rank search's history. optimum_at_edge: a better rank may lie outside the range."""

    trials: tuple[Trial, ...]
    unique_trainings: int
    optimum_at_edge: bool


class Matched(Data):
    """How near a rank came to another method's trainable parameters. ratio: ours over `target`."""

    method: str
    target: int
    ratio: float
    within_tolerance: bool


@dataclass(frozen=True)
class AdapterPlan:
    """What a method decided to train. Data only.

    adapts: "adapter" trains what `peft_config` adds, "everything" the base weights, "nothing" stops here.
    rank_range: the ranks the method could have chosen, where it searched.
    k: K, the most layers that the method could have chosen, where it chose.
    scores: name -> one number per layer (or per parameter), what the method measured.
    selected, searched, matched: what the method's stages found, where it has them.
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
