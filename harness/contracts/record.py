"""Define records: one per cell, and one per stage that cells share."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.plan import Matched, Searched, Selected
from floe_bench.harness.contracts.score import Score
from floe_bench.harness.spec.base import Data
from floe_bench.harness.spec.settings import Settings


class Cost(Data):
    """Hold a cost: wall seconds, and tokens through the model."""

    seconds: float = 0.0
    tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(seconds=self.seconds + other.seconds, tokens=self.tokens + other.tokens)


class KindCost(Cost):
    """Hold the cost of all planning stages of one kind; `count` is their number."""

    count: int


class PlanFacts(Data):
    """Hold what a method decided, and facts of the model that it decided on. A failed cell has the defaults.

    Attributes not listed here are those of `AdapterPlan`.

    Attributes:
        layers: layers adapted or trained.
        n_layers: L, the number of the model's layers.
        k: K, the most layers that the method could choose.
    """

    adapts: Literal["adapter", "everything", "nothing"] = "nothing"
    peft_config: dict[str, Any] | None = None
    layers: tuple[int, ...] = ()
    n_layers: int = 0
    k: int | None = None
    r: int | None = None
    trainable_parameters: int = 0
    base_parameters: int = 0
    learning_rate_ratio: float = 1.0
    scores: dict[str, list[float]] = Field(default_factory=dict)
    selected: Selected | None = None
    searched: Searched | None = None
    matched: Matched | None = None
    details: dict[str, Any] = Field(default_factory=dict)
    cost_by_kind: dict[str, KindCost] = Field(default_factory=dict, description="pilot, measure, probe -> cost")


class Overlap(Data):
    """Name the items of an evaluation that share n words in a row with the training rows; `of` counts all items."""

    n: int
    items: tuple[int, ...]
    of: int


class DataFacts(Data):
    """Describe the cell's rows. `overlap` has one entry per evaluation."""

    source: str = ""
    digest: str = ""
    counts: dict[str, int] = Field(default_factory=dict)
    train_rows: int = 0
    validation_rows: int = 0
    revisions: dict[str, str] = Field(default_factory=dict)
    overlap: dict[str, Overlap] = Field(default_factory=dict)


class StagesUsed(Data):
    """Name the folders of the stages that a record rests on."""

    planning: tuple[str, ...] = ()
    training: str | None = None
    evaluations: dict[str, str] = Field(default_factory=dict)

    @property
    def all(self) -> list[str]:
        return [*self.planning, *([self.training] if self.training else []), *self.evaluations.values()]


class TrainOutcome(Data):
    """Say what training did. `peak_bytes` is CUDA's peak, or the peak RSS over the start: `peak_kind` says which."""

    trainable_parameters: int
    total_parameters: int
    adapter_bytes: int
    optimizer_steps: int
    tokens: int
    truncated_rows: int
    control_text_rows: int | None = Field(None, description="rows whose text names a control token; None: not counted")
    seconds: float
    tokens_per_second: float
    peak_bytes: int
    peak_kind: str
    loss_curve: list[float]
    learning_rate: float


SCHEMA_VERSION = 4


class Stage(Data):
    """Hold one finished piece of work that cells share.

    Attributes:
        files: path within the stage's folder -> sha256 of the file. None where the stage was made before version 4.
    """

    schema_version: int = SCHEMA_VERSION
    kind: str
    key: str
    identity: dict[str, Any]
    files: dict[str, str] | None = Field(default_factory=dict)
    result: dict[str, Any] = Field(default_factory=dict)
    cost: Cost = Cost()
    provenance: dict[str, Any] = Field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Return the name of the stage's folder."""
        return f"{self.kind}-{self.key}"


class Record(Data):
    """Hold one whole cell. Every table is made from records."""

    schema_version: int = SCHEMA_VERSION
    cell: Cell
    profile: str
    status: Literal["ok", "failed"]
    error: str | None = None
    key: str
    identity: dict[str, Any] = Field(description="what the key is the hash of, component by component")
    settings: Settings
    provenance: dict[str, Any] = Field(description="git commit, versions, hardware, time")
    data: DataFacts = DataFacts()
    plan: PlanFacts = PlanFacts()
    planning_cost: Cost = Cost()
    stages: StagesUsed = StagesUsed()
    training: TrainOutcome | None = None
    scores: dict[str, Score] = Field(default_factory=dict)
