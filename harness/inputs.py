"""What a method may ask of the engine (`contracts.MethodInputs`), and the account of what it asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness import data, stages
from harness.contracts import OWN_ROWS, AdapterPlan, Arrays, Cell, Cost, Row, Sample, Scorer, Stage
from harness.errors import UsageError
from harness.files import digest
from harness.registry import parse_method
from harness.store import read_arrays
from harness.workbench import Workbench

if TYPE_CHECKING:
    from peft import PeftConfig


@dataclass
class Account:
    """The stages that a method used, each charged once and whole, whoever paid for it first."""

    stages: dict[str, Stage] = field(default_factory=dict)

    def charge(self, stage: Stage) -> Stage:
        self.stages[f"{stage.kind}-{stage.key}"] = stage
        return stage

    @property
    def cost(self) -> Cost:
        return sum((stage.cost for stage in self.stages.values()), Cost())

    @property
    def by_kind(self) -> dict[str, dict[str, Any]]:
        """Per kind of stage: how many, seconds and tokens; a training that served planning is a pilot."""
        table: dict[str, dict[str, Any]] = {}
        for stage in self.stages.values():
            kind = "pilot" if stage.kind == "training" else stage.kind
            entry = table.setdefault(kind, {"count": 0, "seconds": 0.0, "tokens": 0})
            entry["count"] += 1
            entry["seconds"] += stage.cost.seconds
            entry["tokens"] += stage.cost.tokens
        return table


class Inputs:
    """Runs what a method asks for, on the cell's mix and seed."""

    def __init__(self, bench: Workbench, cell: Cell, identity: dict[str, Any]):
        self._bench = bench
        self._cell = cell
        self._identity = identity
        self.settings = bench.settings
        self.seed = cell.seed
        self.n_layers = bench.n_layers
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
        rows = calibration_rows(self._bench, self._cell, on, sample)
        stage = stages.run_measure(self._bench, scorer, parameters, rows, trained)
        self.account.charge(stage)
        return read_arrays(self._bench.store.stage_folder("measure", stage.identity) / "arrays.safetensors")

    def probe(self, peft_config: PeftConfig, share: float = 1.0) -> float:
        train, judge = probe_rows(self._bench, self._cell, share)
        plan = AdapterPlan("adapter", peft_config)
        self._bench.trainable(plan)
        stage = stages.run_probe(self._bench, train, judge, plan, self.seed)
        return self.account.charge(stage).result["nll"]

    def trainable(self, peft_config: PeftConfig) -> int:
        return sum(self._bench.trainable(AdapterPlan("adapter", peft_config)).values())

    def planned_trainable(self, method: str) -> int:
        other = parse_method(method)
        cell = self._cell.model_copy(update={"method": other.name})
        plan = other.plugin.load().plan(Inputs(self._bench, cell, self._identity), other.options)
        return sum(self._bench.trainable(plan).values())

    def workspace(self, purpose: str) -> Path | None:
        """One folder per purpose and per state of all that the method's plan depends on."""
        folder = self._bench.store.folder / "workspaces" / f"{purpose}-{digest(self._identity)}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _pilot(self, config: PeftConfig, sample: Sample) -> Stage:
        plan = AdapterPlan("adapter", config)
        expected = self._bench.trainable(plan)
        self._bench.progress("training the pilot")
        rows = pilot_rows(self._bench, self._cell, sample)
        return stages.run_training(self._bench, rows, plan, self.seed, expected)


# --- which rows serve for what ----------------------------------------------------------------------


def sampled_rows(bench: Workbench, cell: Cell, sample: Sample) -> list[Row]:
    """The training rows that planning draws from.

    The parts are the same for every seed. Foreign rows replace as many of the mix's own, both drawn by the cell's
    seed; where the other mix has too few for that share, the whole sample is as small as they make it. Raises
    UsageError where there are fewer rows than parts, or no rows that are foreign.
    """
    own_mix = sample.mix or cell.mix
    rows = bench.mix(own_mix).train
    part, parts = sample.part
    if len(rows) < parts:
        raise UsageError(f"mix '{own_mix}' has {len(rows)} training rows, too few for {parts} disjoint parts")
    if parts > 1:
        rows = data.sample(rows, len(rows), 0, "part")[part::parts]
    if sample.foreign is None:
        return rows
    mix, share = sample.foreign
    if mix == own_mix:
        raise UsageError(f"the sample is drawn from mix '{mix}' already: its foreign rows must come from another")
    others = bench.mix(mix).train
    n = min(len(rows), int(len(others) / share)) if share else len(rows)
    wanted = round(share * n)
    own = data.sample(rows, n - wanted, cell.seed, "own")
    return own + data.sample(others, wanted, cell.seed, "foreign")


def pilot_rows(bench: Workbench, cell: Cell, sample: Sample) -> list[Row]:
    """Stage 1's sample, the share rho of the rows that planning draws from."""
    return data.pilot_sample(sampled_rows(bench, cell, sample), bench.settings.data, cell.seed)


def calibration_rows(
    bench: Workbench, cell: Cell, on: Literal["task", "pretrain", "nothing"], sample: Sample
) -> list[Row]:
    """The rows that a scorer sees."""
    if on == "nothing":
        return []
    if on == "pretrain":
        return bench.text[0]
    rows = sampled_rows(bench, cell, sample)
    return data.sample(rows, bench.settings.data.calibration_rows, cell.seed, "calibration")


def probe_size(bench: Workbench, share: float) -> int:
    """How many rows a probe at that share trains on, at least one. Raises ValueError for a share outside (0, 1]."""
    if not 0 < share <= 1:
        raise ValueError(f"a probe's share of its rows must be above 0 and at most 1, got {share}")
    return max(1, math.ceil(share * bench.settings.search.probe_rows - 1e-9))


def probe_rows(bench: Workbench, cell: Cell, share: float = 1.0) -> tuple[list[Row], list[Row]]:
    """The first share of the training rows for a probe, and other training rows that judge it at any share.

    Raises UsageError where the mix has too few for the whole, ValueError for a share outside (0, 1].
    """
    size = probe_size(bench, share)
    search = bench.settings.search
    train = bench.mix(cell.mix).train
    wanted = search.probe_rows + search.probe_validation_rows
    if len(train) < wanted:
        raise UsageError(
            f"mix '{cell.mix}' has {len(train)} training rows, but search.probe_rows and "
            f"search.probe_validation_rows ask for {wanted}: lower them or give more data"
        )
    rows = data.sample(train, wanted, cell.seed, "probe")
    return rows[:size], rows[search.probe_rows :]
