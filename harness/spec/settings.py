"""Define every setting of a run, typed and checked.

All defaults are here; profiles hold values that differ.
The defaults are the paper's (arXiv 2506.00495). Where the paper leaves a choice open,
they come from HydraLoRA's training script (arXiv 2404.19245) or are this project's own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from floe_bench.harness.floe.feed_forward import GATED
from floe_bench.harness.spec.base import is_recordable


def _split_commas(value: Any) -> Any:
    """Make a tuple of what `--set` gives: `key=a,b` arrives as one string, `key=2` as a number."""
    if isinstance(value, str):
        return tuple(part for part in value.split(",") if part)
    return (value,) if isinstance(value, int | float) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_split_commas)]
Counts = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_split_commas), Field(min_length=1)]
Shares = Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], BeforeValidator(_split_commas), Field(min_length=1)]
Lengths = Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(_split_commas), Field(min_length=1)]


MOST = 10_000
"""Cells, trials and draws that one number may ask for: more is a slip, and listing them would take hours."""


class Section(BaseModel):
    """Group settings: immutable, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @model_validator(mode="after")
    def _recordable(self) -> Self:
        """Refuse what a record could not hold. It leaves out paths, which may be of any bytes."""
        for key, value in self:
            if key != "path" and not is_recordable(value):
                raise ValueError(f"{key} = {value!r}: text in UTF-8 or a finite number of 64 bits was expected")
        return self


class ModelSettings(Section):
    """Name the base model, and say how it is read."""

    id: str = Field(description="hub id of the weights")
    source: Literal["hub", "packaged", "random"] = "hub"
    revision: str | None = Field(None, description="commit to pin; None takes the hub's current one")
    path: str | None = Field(None, description="local folder that holds the weights")
    package: str | None = Field(None, description="installed package that carries the weights as GGUF")
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    prompt_format: Literal["auto", "chat", "alpaca", "plain"] = Field(
        "auto", description="'plain' has no template; 'auto' takes the chat template, or alpaca where there is none"
    )
    config: dict[str, Any] = Field(default_factory=dict, description="architecture, as in config.json")
    seed: int = Field(0, ge=0, description="of the weights, where the source is 'random'")


class TeacherSettings(Section):
    """Describe the teacher that data are sampled from, so that the right layers are known.

    The teacher is the base model with some layers changed.
    """

    layers: Annotated[tuple[int, ...], BeforeValidator(_split_commas)] = Field((), description="0-based, changed")
    scale: float = Field(1.0, ge=0, description="of the change, relative to the weights' norm")
    r: int = Field(2, ge=1, description="rank of the change of each adapted module")
    noise: float = Field(0.0, ge=0, le=1, description="share of completion tokens replaced at random")
    sharpness: float = Field(1.0, gt=0, description="logits are multiplied by it before sampling")
    rows: int = Field(256, ge=1, description="rows per mix")
    length: int = Field(32, ge=1, description="completion tokens per row")
    seed: int = Field(0, ge=0)


class DataSettings(Section):
    """Say which rows are read, and how many of them each purpose gets."""

    source: Literal["hub", "folder", "embedded", "teacher"] = "hub"
    teacher: TeacherSettings = Field(default_factory=TeacherSettings)  # pyright: ignore[reportArgumentType]
    path: str | None = Field(None, description="folder read when the source is 'folder'")
    revisions: dict[str, str] = Field(default_factory=dict, description="dataset id -> commit to pin")
    train_rows: int | None = Field(None, ge=1, description="None takes every training row")
    validation_rows: int = Field(256, ge=1)
    validation_fraction: float = Field(0.05, gt=0, lt=1)
    pilot_fraction: float = Field(0.3, gt=0, le=1, description="rho: the pilot's share of the training rows")
    calibration_rows: int = Field(256, ge=1, description="N, the Fisher sample")
    pretrain_rows: int = Field(64, ge=1, description="passages of plain text for Taylor and forgetting")
    max_length: int = Field(1024, ge=8, description="tokens; longer rows are truncated and counted")


class AdapterSettings(Section):
    """Describe the adapter in PEFT's terms."""

    r: int = Field(4, ge=1)
    lora_alpha: float = Field(32, gt=0)
    num_experts: int = Field(4, ge=1, description="M")
    lora_dropout: float = Field(0.05, ge=0, lt=1)
    target_modules: Names = Field(GATED, min_length=1, description="the default means the family's own feed-forward")
    dtype: Literal["float32", "model"] = Field("float32", description="'model' keeps the base model's dtype")


class TrainSettings(Section):
    """Set the optimiser and its schedule, the same for every method."""

    learning_rate: float = Field(2e-4, gt=0)
    full_weights_dtype: Literal["float32", "model"] = Field(
        "float32", description="of the weights themselves while they are trained"
    )
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    batch_size: int = Field(8, ge=1, description="sequences per optimiser step")
    micro_batch_size: int = Field(8, ge=1, description="sequences per forward; divides batch_size")
    epochs: float = Field(1.0, gt=0)
    group_by_length: bool = True
    gradient_checkpointing: bool = False
    checkpoint_steps: int = Field(200, ge=1, description="optimiser steps between resumable checkpoints")

    @model_validator(mode="after")
    def _divides(self) -> TrainSettings:
        if self.batch_size % self.micro_batch_size:
            raise ValueError(f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}")
        return self


class SelectionSettings(Section):
    """Bound the adapted layers: their number, and the Taylor importance that they hold together."""

    layer_fraction: float = Field(0.25, gt=0, le=1, description="K = ceil(layer_fraction * L)")
    taylor_budget: float | None = Field(
        None, gt=0, le=1, description="c, the share of all Taylor importance; None takes the factor"
    )
    taylor_budget_factor: float = Field(2.0, gt=0, description="c = min(1, factor * K/L) where taylor_budget is None")


class SearchSettings(Section):
    """Set the range and the effort of the rank search."""

    r_min: int = Field(2, ge=1)
    r_max: int = Field(16, ge=1)
    trials: int = Field(100, ge=1, le=MOST)
    probe_rows: int = Field(512, ge=1, description="training rows of one short adaptation")
    probe_validation_rows: int = Field(
        256, ge=1, description="other training rows that judge it; no evaluation ever scores them"
    )

    @model_validator(mode="after")
    def _ordered(self) -> SearchSettings:
        if self.r_min > self.r_max:
            raise ValueError(f"r_min {self.r_min} is above r_max {self.r_max}")
        return self


class EvalSettings(Section):
    """Say what is measured on every trained model."""

    evals: Names = ("mmlu_0shot", "validation_nll", "pretrain_nll", "router")
    primary: str = Field("mmlu_0shot", description="the evaluation whose accuracy the main table shows")
    questions_per_subject: int | None = Field(None, ge=1, description="None takes every question")
    nll_mixes: Names = ("dolly", "flanv2", "medical", "code")
    batch_size: int = Field(8, ge=1)


class StudySettings(Section):
    """Set the grids of the experiments, and how their tables compare methods.

    Nothing here changes a cell's result.
    """

    reference: str | None = Field(None, description="method that the others are compared with; None: the last one")
    confidence: float = Field(0.95, gt=0, lt=1, description="of every interval")
    pilot_fractions: Shares = (0.3, 0.5, 1.0)
    pilot_epochs: Lengths = (0.5, 1.0, 2.0)
    disjoint_parts: int = Field(2, ge=2, le=MOST, description="disjoint subsets of the training rows")
    sample_sizes: Counts = (8, 16, 32, 64, 128, 256)
    block_sizes: Counts = (2, 4)
    taylor_budgets: Shares = (0.1, 0.2, 0.25, 0.3, 0.5, 1.0)
    layer_fractions: Shares = (0.01, 0.1, 0.25, 0.5, 0.75, 1.0)
    experts: Counts = (1, 2, 4, 8)
    random_draws: int = Field(20, ge=2, le=MOST)
    drift_shares: Shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    repeated_searches: int = Field(50, ge=1, le=MOST, description="rank searches simulated on a stored curve")
    depths: Counts = (4, 8, 16, 32)
    planted_counts: Counts = (2, 1, 3)
    planted_noises: Shares = (0.0, 0.25, 0.5)
    planted_samples: Counts = (128, 32, 8)
    planted_seeds: int = Field(10, ge=1, le=MOST)


class Settings(Section):
    """Hold a resolved profile: all that a run depends on, except its method, mix and seed."""

    description: str
    methods: Names = Field(min_length=1)
    mixes: Names = Field(min_length=1)
    seeds: int = Field(1, ge=1, le=MOST, description="how many; they are 0, 1, ...")
    model: ModelSettings
    data: DataSettings = Field(default_factory=DataSettings)  # pyright: ignore[reportArgumentType]
    adapter: AdapterSettings = Field(default_factory=AdapterSettings)  # pyright: ignore[reportArgumentType]
    train: TrainSettings = Field(default_factory=TrainSettings)  # pyright: ignore[reportArgumentType]
    selection: SelectionSettings = Field(default_factory=SelectionSettings)  # pyright: ignore[reportArgumentType]
    search: SearchSettings = Field(default_factory=SearchSettings)  # pyright: ignore[reportArgumentType]
    eval: EvalSettings = Field(default_factory=EvalSettings)  # pyright: ignore[reportArgumentType]
    study: StudySettings = Field(default_factory=StudySettings)  # pyright: ignore[reportArgumentType]

    def without_paths(self) -> Settings:
        """Return the settings as a record keeps them, without the folders of this machine."""
        return self.model_copy(
            update={
                "model": self.model.model_copy(update={"path": None}),
                "data": self.data.model_copy(update={"path": None}),
            }
        )
