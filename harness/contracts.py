"""The data that flows through a run, and the shapes that plugins have.

A plugin is a module: its file name is its id, its docstring's first line its description.

- a method (`baselines/`): `plan(inputs, options) -> AdapterPlan`, and optionally a class `Options`
- a mix (`tasks/mixes/`): `rows(source) -> Iterable[Row]`
- an evaluation (`tasks/evals/`): `items(inputs) -> list[dict]` and `score(inputs, items) -> Scored`
- an experiment (`harness/experiments/`): `cells(settings) -> list[Cell]` and `tables(results) -> list[Table]`
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol
from zlib import crc32

from pydantic import BaseModel, ConfigDict, Field

from harness.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from peft import PeftConfig

Columns = Sequence[str] | Mapping[str, type]
"""Columns of text, or columns with their types."""

Arrays = dict[str, "np.ndarray"]
Batch = dict[str, Any]
Scorer = Callable[..., Arrays]
"""`scorer(model, batches, **parameters)`: named arrays; batches hold input_ids, attention_mask, labels."""


class Data(BaseModel):
    """Immutable data that is strict about its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Options(Data):
    """A method's options; a plugin subclasses it with typed, defaulted fields."""

    def mixes(self) -> tuple[str, ...]:
        """Mixes besides the cell's own whose rows the plan depends on."""
        return ()

    def methods(self) -> tuple[str, ...]:
        """Other methods whose plans this one's plan depends on."""
        return ()


# --- data ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One training or validation example; the loss counts the completion only."""

    prompt: str
    completion: str
    domain: str
    task: str = ""


class RowSource(Protocol):
    """Where raw rows are read: the hub, a local folder or the rows embedded in the project."""

    kind: Literal["hub", "folder", "embedded", "teacher"]
    revisions: dict[str, str]

    def read(self, file: str, hub: str, columns: Columns, **hub_options: Any) -> Iterable[dict[str, Any]]:
        """Raw rows of `<file>.jsonl[.gz]`, or of the hub dataset `hub` (options go to `load_dataset`).

        Every row has at least `columns`. Raises UsageError where the file or a column is missing.
        """
        ...

    def mix(self, name: str) -> Iterable[Row]:
        """The rows of another mix, from the same source."""
        ...


# --- methods ------------------------------------------------------------------------------------


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


class MethodInputs(Protocol):
    """All that a method may ask of the engine. Whatever it spends is charged to the method."""

    settings: Settings
    seed: int
    n_layers: int

    def measure(
        self,
        scorer: Scorer,
        on: Literal["task", "pretrain", "nothing"],
        pilot: PeftConfig | None = None,
        sample: Sample = OWN_ROWS,
        **parameters: Any,
    ) -> Arrays:
        """Run `scorer(model, batches, **parameters)` over calibration batches, of plain text, or over none.
        With `pilot`, on the base model with that adapter, trained on the pilot rows; else on the base model.
        Pilot and calibration rows of the task come from `sample`; the parameters are JSON-able.
        A dry run of `floe-bench plan` has no weights: where the arrays are not on disk yet, each is ones(L).
        """
        ...

    def probe(self, peft_config: PeftConfig, share: float = 1.0) -> float:
        """Validation NLL (nats/token) after a short adaptation; the base model is left as it was.

        Trained on the first share of its rows; judged on training rows that no probe trains on, the same ones always.
        """
        ...

    def trainable(self, peft_config: PeftConfig) -> int:
        """Parameters that training `peft_config` on this model would train."""
        ...

    def planned_trainable(self, method: str) -> int:
        """Parameters that another method's plan trains on this cell. Its planning is not charged to this one."""
        ...

    def workspace(self, purpose: str) -> Path | None:
        """A folder that survives a killed run, for a search's own storage; None in a dry run."""
        ...


# --- evaluations --------------------------------------------------------------------------------


class Score(Data):
    """One evaluation of one model.

    metrics: name -> value, e.g. acc, acc_stem, nll_dolly. chance: accuracy of guessing, where it has one.
    """

    metrics: dict[str, float]
    chance: float | None = None
    n_items: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Scored:
    """What an evaluation returns: its score, and one line per item for paired statistics."""

    score: Score
    items: pd.DataFrame


class EvaluationInputs(Protocol):
    """All that an evaluation may ask of the engine."""

    settings: Settings
    source: RowSource
    model: Any
    tokenizer: Any

    def validation(self, mix: str) -> list[Row]:
        """The validation rows of a mix."""
        ...

    def pretrain_text(self) -> list[Row]:
        """Held-out passages of plain text."""
        ...

    def nll(self, rows: Sequence[Row]) -> pd.DataFrame:
        """Per row: `nll` (summed over completion tokens, nats), `tokens` (how many), `tokens_read` (all)."""
        ...

    def multiple_choice(self, task: str, items: Sequence[dict[str, Any]], num_fewshot: int) -> Scored:
        """lm-eval's own evaluation of `items` under the prompts of its task group `task`."""
        ...

    def base(self) -> Score | None:
        """The base model's score, where the evaluation sets `NEEDS_BASE = True`; None on the base model itself."""
        ...


# --- cells and records --------------------------------------------------------------------------


class Cell(Data):
    """One run of the grid.

    method: the canonical name with its options. varied: settings other than the profile's, by dotted name.
    """

    method: str
    mix: str
    seed: int
    varied: tuple[tuple[str, bool | int | float | str], ...] = ()

    @property
    def differences(self) -> list[str]:
        """`varied` as text, settings too many to read as their number and a checksum."""
        if len(self.varied) > 4:
            return [f"{len(self.varied)} settings {crc32(repr(self.varied).encode()):08x}"]
        return [f"{key}={value}" for key, value in self.varied]

    @property
    def label(self) -> str:
        return " / ".join([self.mix, self.method, f"seed {self.seed}", *self.differences])


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


SCHEMA_VERSION = 1


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


# --- results --------------------------------------------------------------------------------------


class Results(Protocol):
    """What an experiment makes its tables from: finished records and what their stages kept. No model."""

    @property
    def settings(self) -> Settings: ...

    @property
    def cells(self) -> Sequence[Cell]: ...

    @property
    def records(self) -> Sequence[Record]: ...

    def find(self, cell: Cell) -> Record | None: ...

    def stages(self, record: Record) -> list[Stage]: ...

    def origins(self, record: Record) -> list[dict[str, Any]]: ...

    def arrays(self, record: Record, scorer: str, **parameters: Any) -> Arrays | None:
        """What the scorer of that function name measured for the record; None where it measured nothing.

        `parameters` are those it was called with; left out, they may be any. Raises ValueError where the
        record used several that match.
        """
        ...

    def items(self, record: Record, evaluation: str) -> pd.DataFrame: ...


@dataclass(frozen=True)
class Table:
    """One table: `frame` holds numbers (CSV, JSON), `view` text (Markdown, LaTeX); `id` is the file's name.

    records: keys of the records that it was made from.
    """

    id: str
    title: str
    frame: pd.DataFrame
    view: pd.DataFrame
    notes: Sequence[str] = ()
    records: Sequence[str] = ()
