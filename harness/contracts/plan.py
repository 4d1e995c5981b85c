"""What a method decides: the plan of what is trained, and the rows that planning draws from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

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


@dataclass(frozen=True)
class AdapterPlan:
    """What a method decided to train. Data only.

    adapts: "adapter" trains what `peft_config` adds, "everything" the base weights, "nothing" stops here.
    rank_range: the ranks the method could have chosen, where it searched.
    details: the method's scores, selection and trials, JSON-able, kept in the record.
    """

    adapts: Literal["adapter", "everything", "nothing"]
    peft_config: PeftConfig | None = None
    rank_range: tuple[int, int] | None = None
    learning_rate_ratio: float = 1.0
    details: dict[str, Any] = field(default_factory=dict)
