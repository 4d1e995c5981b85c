"""Records: one per cell, one per stage that cells share."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.score import Score
from floe_bench.harness.spec.base import Data
from floe_bench.harness.spec.settings import Settings


class Cost(Data):
    """What something took: wall seconds and tokens through the model."""

    seconds: float = 0.0
    tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(seconds=self.seconds + other.seconds, tokens=self.tokens + other.tokens)


class TrainOutcome(Data):
    """What training did. `peak_bytes`: CUDA's peak, or peak RSS over the start, as `peak_kind` says."""

    trainable_parameters: int
    total_parameters: int
    adapter_bytes: int
    optimizer_steps: int
    tokens: int
    truncated_rows: int
    seconds: float
    tokens_per_second: float
    peak_bytes: int
    peak_kind: str
    loss_curve: list[float]
    learning_rate: float


SCHEMA_VERSION = 2


class Stage(Data):
    """One finished piece of work that cells share."""

    schema_version: int = SCHEMA_VERSION
    kind: str
    key: str
    identity: dict[str, Any]
    result: dict[str, Any] = Field(default_factory=dict)
    cost: Cost = Cost()
    provenance: dict[str, Any] = Field(default_factory=dict)


class Record(Data):
    """One cell, whole: the source of truth of every table."""

    schema_version: int = SCHEMA_VERSION
    cell: Cell
    profile: str
    status: Literal["ok", "failed"]
    error: str | None = None
    key: str
    identity: dict[str, Any] = Field(description="what the key is the hash of, component by component")
    settings: Settings
    provenance: dict[str, Any] = Field(description="git commit, versions, hardware, time")
    data: dict[str, Any] = Field(default_factory=dict, description="row counts, hashes, revisions")
    plan: dict[str, Any] = Field(default_factory=dict)
    planning_cost: Cost = Cost()
    stages: dict[str, str | list[str]] = Field(default_factory=dict, description="role -> stage folder(s)")
    training: TrainOutcome | None = None
    scores: dict[str, Score] = Field(default_factory=dict)
