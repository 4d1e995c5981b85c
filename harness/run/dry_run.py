"""Tell what a grid would do and cost, from the model's shape alone: no weights, no network."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.inputs import Arrays, Scorer
from floe_bench.harness.contracts.plan import OWN_ROWS, AdapterPlan, Sample
from floe_bench.harness.contracts.record import Stage
from floe_bench.harness.contracts.rows import Row
from floe_bench.harness.model.shape import shape_of
from floe_bench.harness.run import method_inputs, stages
from floe_bench.harness.run.resolved import ResolvedCell
from floe_bench.harness.run.session import Session

if TYPE_CHECKING:
    from peft import PeftConfig

FORMULAS = {
    "tokens": "of a row at hand min(max_length, characters / 4 + 40), of any other the mix's mean",
    "flops": "with t tokens, P base parameters (all experts of a mixture), p trainable ones and L layers: "
    "t (2 P + 2 P (L - lowest adapted layer) / L + 6 p), or 6 P t where every weight is trained; no evaluation",
    "memory": "weights + p (4 + 4 + 8 bytes: weight, gradient, Adam; half for bfloat16 weights) + activations 34 b s h "
    "bytes a layer (arXiv 2205.05198, without attention scores; 2 b s h with checkpointing) + logits 10 b s V: "
    "b sequences, s = max_length, h hidden size, V vocabulary",
}


class _Ones(dict[str, np.ndarray]):
    """Stand for arrays that are not measured yet: ones(L) under any name."""

    def __init__(self, n_layers: int):
        super().__init__()
        self.n_layers = n_layers

    def __missing__(self, name: str) -> np.ndarray:
        return np.ones(self.n_layers)


class DryInputs:
    """Answer a method from what is on disk, and count what is not there.

    end: min or max. It picks a number of parameters where another method's search, not run yet, leaves a range open.
    Raises UsageError where the rows are at hand, but not as many as the method asks for.
    """

    def __init__(self, resolved: ResolvedCell, end: Callable[[Iterable[int]], int] = min):
        self._resolved = resolved
        self._session = resolved.session
        self._cell = resolved.cell
        self._end = end
        self.settings = self._session.settings
        self.seed = self._cell.seed
        self.n_layers = self._session.n_layers
        self.asked: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.tokens = 0
        self.flops = 0.0
        self._counted: set[str] = set()

    def measure(
        self,
        scorer: Scorer,
        on: Literal["task", "pretrain", "nothing"],
        pilot: PeftConfig | None = None,
        sample: Sample = OWN_ROWS,
        **parameters: Any,
    ) -> Arrays:
        trained = self._pilot(pilot, sample) if pilot else None
        rows = method_inputs.calibration_rows(self._session, self._cell, on, sample) if self._rows_at_hand else None
        stage = None
        if rows is not None and (pilot is None or trained is not None):
            pilot_identity = trained.identity if trained else None
            identity = self._identity(
                lambda: stages.measure_identity(self._session, scorer, parameters, rows, pilot_identity)
            )
            stage = self._session.store.find("measure", identity) if identity else None
        limits = {"task": self.settings.data.calibration_rows, "pretrain": self.settings.data.pretrain_rows}
        tokens = self._tokens(rows, limits.get(on, 0))
        on_pilot = _config_name(pilot) if pilot else ""
        name = f"{scorer.__module__}.{scorer.__qualname__} {on} {on_pilot} {sample} {parameters}"
        self._count("measure", name, stage, tokens, 6.0 * self._session.base_parameters * tokens)
        if stage is None:
            return _Ones(self.n_layers)
        return self._session.store.arrays(stage)

    def probe(self, peft_config: PeftConfig, share: float = 1.0) -> float:
        plan = AdapterPlan("adapter", peft_config)
        trainable = sum(self._session.trainable(plan).values())
        rows = method_inputs.probe_rows(self._session, self._cell, share) if self._rows_at_hand else None
        stage = None
        if rows is not None:
            train, judge = rows
            identity = self._identity(lambda: stages.probe_identity(self._session, train, judge, plan, self.seed))
            stage = self._session.store.find("probe", identity) if identity else None
        search, epochs = self.settings.search, self.settings.train.epochs
        tokens = int(epochs * self._tokens(rows[0] if rows else None, method_inputs.probe_size(self._session, share)))
        judged = self._tokens(rows[1] if rows else None, search.probe_validation_rows)
        flops = self._training_flops(plan, trainable, tokens) + 2.0 * self._session.base_parameters * judged
        self._count("probe", f"{_config_name(peft_config)} {share}", stage, tokens + judged, flops)
        return stages.probe_nll(stage) if stage else 0.0

    def trainable(self, peft_config: PeftConfig) -> int:
        return sum(self._session.trainable(AdapterPlan("adapter", peft_config)).values())

    def planned_trainable(self, method: str) -> int:
        other, plan, counts = dry_plan(self._resolved.of_method(method))
        if other.done == other.asked:
            return sum(self._session.trainable(plan).values())
        return self._end(counts.values())

    def training_tokens(self) -> int:
        """Count the tokens of the cell's own training, over all epochs."""
        return int(self._tokens(self._training_rows(), self.settings.data.train_rows) * self.settings.train.epochs)

    def training_flops(self, plan: AdapterPlan, trainable: int) -> float:
        return self._training_flops(plan, trainable, self.training_tokens())

    def training_done(self, plan: AdapterPlan) -> bool:
        rows = self._training_rows()
        if rows is None:
            return False
        identity = self._identity(lambda: stages.training_identity(self._session, rows, plan, self.seed))
        return identity is not None and self._session.store.find("training", identity) is not None

    # --- estimates ---

    def _pilot(self, config: PeftConfig, sample: Sample) -> Stage | None:
        plan = AdapterPlan("adapter", config)
        trainable = sum(self._session.trainable(plan).values())
        rows = method_inputs.pilot_rows(self._session, self._cell, sample) if self._rows_at_hand else None
        stage = None
        if rows is not None:
            identity = self._identity(lambda: stages.training_identity(self._session, rows, plan, self.seed))
            stage = self._session.store.find("training", identity) if identity else None
        share = self.settings.data.pilot_fraction / sample.part[1]
        tokens = int(self._tokens(rows, None) * (1 if rows is not None else share) * self.settings.train.epochs)
        self._count(
            "pilot", f"{_config_name(config)} {sample}", stage, tokens, self._training_flops(plan, trainable, tokens)
        )
        return stage

    def _training_flops(self, plan: AdapterPlan, trainable: int, tokens: int) -> float:
        base = self._session.base_parameters
        if plan.adapts == "nothing":
            return 0.0
        if plan.adapts == "everything":
            return 6.0 * base * tokens
        lowest = min(getattr(plan.peft_config, "layers_to_transform", None) or [0])
        return tokens * (2.0 * base + 2.0 * base * (self.n_layers - lowest) / self.n_layers + 6.0 * trainable)

    def _count(self, kind: str, name: str, stage: Stage | None, tokens: int, flops: float) -> None:
        if f"{kind} {name}" in self._counted:
            return
        self._counted.add(f"{kind} {name}")
        self.asked[kind] += 1
        self.done[kind] += stage is not None
        self.tokens += tokens
        self.flops += flops

    def _training_rows(self) -> list[Row] | None:
        return self._session.mix(self._cell.mix).train if self._rows_at_hand else None

    @cached_property
    def _rows_at_hand(self) -> bool:
        """Tell whether the data can be read without the network."""
        return rows_at_hand(self._session) or self._session.has_read(self._cell.mix)

    def _identity(self, build: Any) -> dict[str, Any] | None:
        """Return the stage's identity, or None where no weights are at hand to identify."""
        return build() if weights_at_hand(self._session) else None

    def _tokens(self, rows: Sequence[Row] | None, limit: int | None) -> int:
        longest = self.settings.data.max_length
        if rows is not None:
            return sum(min(longest, len((row.prompt or "") + row.completion) // 4 + 40) for row in rows)
        n_rows, per_row = self._resolved.mix.load().PUBLISHED_SIZE
        available = int(n_rows * (1 - self.settings.data.validation_fraction))
        return min(limit or available, available) * min(longest, per_row)


def _config_name(config: PeftConfig) -> str:
    return repr(sorted(vars(config).items(), key=str))


def weights_at_hand(session: Session) -> bool:
    """Tell whether the weights can be identified without the network."""
    return session.settings.model.source != "hub" or session.settings.model.path is not None


def rows_at_hand(session: Session) -> bool:
    """Tell whether rows and questions can be read without the network. A teacher's are sampled from the weights."""
    source = session.settings.data.source
    return source in ("folder", "embedded") or (source == "teacher" and weights_at_hand(session))


@dataclass(frozen=True)
class CellPlan:
    """Hold what one cell would do.

    targets: ends of the paths of the modules that are adapted in each layer.
    A rank that is searched gives two numbers of trainable parameters, each exact: at the least and the largest rank.
    """

    cell: Cell
    status: Literal["done", "failed", "to do", "unknown"]
    layers: int
    targets: tuple[str, ...]
    ranks: tuple[int, ...]
    trainable_parameters: tuple[int, ...]
    stages_asked: dict[str, int]
    stages_done: dict[str, int]
    planning_tokens: int
    training_tokens: int
    flops: float
    memory_bytes: float


def dry_plan(resolved: ResolvedCell) -> tuple[DryInputs, AdapterPlan, dict[int | None, int]]:
    """Return what the method asked for, its plan, and the exact trainable parameters at each end of its ranks.

    Raises UsageError where the adapter does not fit the model at any of them, or for too few rows.
    """
    session, method = resolved.session, resolved.method
    module = method.plugin.load()
    inputs = DryInputs(resolved)
    plan = module.plan(inputs, method.options)
    ranks = plan.rank_range or (getattr(plan.peft_config, "r", None),)
    if method.options.methods():
        other_end = module.plan(DryInputs(resolved, end=max), method.options)
        ranks += (getattr(other_end.peft_config, "r", None),)
    return inputs, plan, {r: sum(session.trainable(_at_rank(plan, r)).values()) for r in ranks}


def plan_cell(resolved: ResolvedCell) -> CellPlan:
    """Tell what one cell would do. Raises UsageError for a cell that cannot work."""
    if weights_at_hand(resolved.session):
        resolved.session.check_model()
    if rows_at_hand(resolved.session):
        resolved.check_data()
    inputs, plan, counts = dry_plan(resolved)
    asked = dict(inputs.asked)
    done = dict(inputs.done)
    if plan.adapts != "nothing":
        asked["training"] = 1
        done["training"] = int(inputs.training_done(plan))
    most = max(counts.values())
    return CellPlan(
        cell=resolved.cell,
        status=_status(resolved),
        layers=_adapted_layers(plan, inputs.n_layers),
        targets=_targets(plan),
        ranks=tuple(r for r in counts if r is not None),
        trainable_parameters=tuple(counts.values()),
        stages_asked=asked,
        stages_done=done,
        planning_tokens=inputs.tokens,
        training_tokens=inputs.training_tokens() if plan.adapts != "nothing" else 0,
        flops=inputs.flops + inputs.training_flops(plan, most),
        memory_bytes=_memory(resolved.session, plan, most),
    )


def _at_rank(plan: AdapterPlan, r: int | None) -> AdapterPlan:
    if r is None or plan.peft_config is None:
        return plan
    config = copy.deepcopy(plan.peft_config)
    config.r = r  # pyright: ignore[reportAttributeAccessIssue]
    return replace(plan, peft_config=config)


def _adapted_layers(plan: AdapterPlan, n_layers: int) -> int:
    if plan.adapts == "nothing":
        return 0
    layers = getattr(plan.peft_config, "layers_to_transform", None)
    return len(layers) if layers else n_layers


def _targets(plan: AdapterPlan) -> tuple[str, ...]:
    targets = getattr(plan.peft_config, "target_modules", None) or ()
    return (targets,) if isinstance(targets, str) else tuple(sorted(targets))


def _status(resolved: ResolvedCell) -> Literal["done", "failed", "to do", "unknown"]:
    session = resolved.session
    if session.settings.data.source == "hub" or not weights_at_hand(session):
        return "unknown"
    record = session.store.record(resolved.cell, resolved.key)
    if record is None:
        return "to do"
    return "done" if record.status == "ok" else "failed"


def _memory(session: Session, plan: AdapterPlan, trainable: int) -> float:
    settings, shape = session.settings, shape_of(session.meta_model.config)
    base = sum(p.numel() * p.element_size() for p in session.meta_model.parameters())
    if plan.adapts == "nothing":
        return float(base)
    tokens = settings.train.micro_batch_size * settings.data.max_length
    per_layer = 2 if settings.train.gradient_checkpointing else 34
    state = 8 if plan.adapts == "everything" and settings.train.full_weights_dtype == "model" else 16
    activations = per_layer * tokens * shape.hidden_size * shape.n_layers
    return float(base + state * trainable + activations + 10 * tokens * shape.vocabulary)
