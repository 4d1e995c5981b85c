"""Answer what a method asks of the engine (`contracts.inputs.MethodInputs`), and charge it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.inputs import Arrays, Scorer
from floe_bench.harness.contracts.plan import OWN_ROWS, AdapterPlan, Sample
from floe_bench.harness.contracts.record import Cost, KindCost, Stage
from floe_bench.harness.contracts.rows import Row
from floe_bench.harness.data import mixes
from floe_bench.harness.errors import UsageError
from floe_bench.harness.run import stages
from floe_bench.harness.run.resolved import ResolvedCell
from floe_bench.harness.run.session import Session

if TYPE_CHECKING:
    from peft import PeftConfig


@dataclass
class Account:
    """Hold the stages that a method used. Each is charged once and whole, whichever cell ran it first."""

    stages: dict[str, Stage] = field(default_factory=dict)

    def charge(self, stage: Stage) -> Stage:
        self.stages[stage.folder] = stage
        return stage

    @property
    def cost(self) -> Cost:
        return sum((stage.cost for stage in self.stages.values()), Cost())

    @property
    def by_kind(self) -> dict[str, KindCost]:
        """Sum the costs per kind of stage; a training that served planning is a pilot."""
        costs: dict[str, list[Cost]] = {}
        for stage in self.stages.values():
            costs.setdefault("pilot" if stage.kind == "training" else stage.kind, []).append(stage.cost)
        return {kind: KindCost(count=len(of), **vars(sum(of, Cost()))) for kind, of in costs.items()}


class Inputs:
    """Run what a method asks for, on the cell's mix and seed."""

    def __init__(self, resolved: ResolvedCell):
        self._resolved = resolved
        self._session = resolved.session
        self._cell = resolved.cell
        self.settings = self._session.settings
        self.seed = self._cell.seed
        self.n_layers = self._session.n_layers
        self.account = Account()

    def measure(
        self,
        scorer: Scorer,
        on: Literal["task", "pretrain", "nothing"],
        pilot: PeftConfig | None = None,
        sample: Sample = OWN_ROWS,
        **parameters: Any,
    ) -> Arrays:
        trained = self.account.charge(self._pilot(pilot, sample)) if pilot else None
        rows = calibration_rows(self._session, self._cell, on, sample)
        stage = stages.run_measure(self._session, scorer, parameters, rows, trained)
        self.account.charge(stage)
        return self._session.store.arrays(stage)

    def probe(self, peft_config: PeftConfig, share: float = 1.0) -> float:
        train, judge = probe_rows(self._session, self._cell, share)
        plan = AdapterPlan("adapter", peft_config)
        self._session.trainable(plan)
        stage = stages.run_probe(self._session, train, judge, plan, self.seed)
        return stages.probe_nll(self.account.charge(stage))

    def trainable(self, peft_config: PeftConfig) -> int:
        return sum(self._session.trainable(AdapterPlan("adapter", peft_config)).values())

    def planned_trainable(self, method: str) -> int:
        other = self._resolved.of_method(method)
        plan = other.method.plugin.load().plan(Inputs(other), other.method.options)
        return sum(self._session.trainable(plan).values())

    def _pilot(self, config: PeftConfig, sample: Sample) -> Stage:
        plan = AdapterPlan("adapter", config)
        expected = self._session.trainable(plan)
        self._session.progress("training the pilot")
        rows = pilot_rows(self._session, self._cell, sample)
        return stages.run_training(self._session, rows, plan, self.seed, expected)


# --- which rows serve for what ----------------------------------------------------------------------


def sampled_rows(session: Session, cell: Cell, sample: Sample) -> list[Row]:
    """Return the training rows that planning draws from.

    The parts are the same for every seed. Foreign rows replace as many of the mix's own. Both are drawn by the cell's
    seed. Where the other mix has too few rows for that share, the whole sample shrinks until the share holds. Raises
    UsageError where there are fewer rows than parts, or where the foreign rows would come from the sample's own mix.
    """
    own_mix = sample.mix or cell.mix
    rows = session.mix(own_mix).train
    part, parts = sample.part
    if len(rows) < parts:
        raise UsageError(f"mix '{own_mix}' has {len(rows)} training rows, too few for {parts} disjoint parts")
    if parts > 1:
        rows = mixes.sample(rows, len(rows), 0, "part")[part::parts]
    if sample.foreign is None:
        return rows
    mix, share = sample.foreign
    if mix == own_mix:
        raise UsageError(f"the sample is drawn from mix '{mix}' already: its foreign rows must come from another")
    others = session.mix(mix).train
    n = min(len(rows), int(len(others) / share)) if share else len(rows)
    wanted = round(share * n)
    own = mixes.sample(rows, n - wanted, cell.seed, "own")
    return own + mixes.sample(others, wanted, cell.seed, "foreign")


def pilot_rows(session: Session, cell: Cell, sample: Sample) -> list[Row]:
    """Return the rows of the pilot: the share rho of those that planning draws from (the paper, stage 1)."""
    return mixes.pilot_sample(sampled_rows(session, cell, sample), session.settings.data, cell.seed)


def calibration_rows(
    session: Session, cell: Cell, on: Literal["task", "pretrain", "nothing"], sample: Sample
) -> list[Row]:
    """Return the rows that a scorer sees."""
    if on == "nothing":
        return []
    if on == "pretrain":
        return session.text[0]
    rows = sampled_rows(session, cell, sample)
    return mixes.sample(rows, session.settings.data.calibration_rows, cell.seed, "calibration")


def probe_size(session: Session, share: float) -> int:
    """Count the rows a probe at that share trains on, at least one. Raises ValueError for a share outside (0, 1]."""
    if not 0 < share <= 1:
        raise ValueError(f"a probe's share of its rows must be above 0 and at most 1, got {share}")
    return max(1, math.ceil(share * session.settings.search.probe_rows - 1e-9))


def probe_rows(session: Session, cell: Cell, share: float = 1.0) -> tuple[list[Row], list[Row]]:
    """Return the rows that a probe at that share trains on, and other training rows that judge it at every share.

    Raises UsageError where the mix has too few for the whole, ValueError for a share outside (0, 1].
    """
    size = probe_size(session, share)
    search = session.settings.search
    train = session.mix(cell.mix).train
    wanted = search.probe_rows + search.probe_validation_rows
    if len(train) < wanted:
        raise UsageError(
            f"mix '{cell.mix}' has {len(train)} training rows, but search.probe_rows and "
            f"search.probe_validation_rows ask for {wanted}: lower them or give more data"
        )
    rows = mixes.sample(train, wanted, cell.seed, "probe")
    return rows[:size], rows[search.probe_rows :]
