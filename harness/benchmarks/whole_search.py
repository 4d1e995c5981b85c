"""FLoE's whole search, pilot, scores and ranks, against one HydraLoRA training on every layer; and its regret."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from floe_bench.baselines._stages import moe_lora
from floe_bench.harness.benchmarks import Bench, Measurement
from floe_bench.harness.benchmarks._real import smollm2_session
from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.plan import AdapterPlan
from floe_bench.harness.contracts.record import Cost, Stage
from floe_bench.harness.floe.rank_search import search
from floe_bench.harness.floe.tuner import MoeLoraConfig
from floe_bench.harness.run import stages
from floe_bench.harness.run.method_inputs import Inputs, probe_rows
from floe_bench.harness.run.resolved import resolve_cell
from floe_bench.harness.run.session import Session

METHOD = "floe:shares=0.25+1"
CELL = Cell(method=METHOD, mix="dolly", seed=0)
TRAIN_ROWS = 448
SIZES: dict[str, Any] = {
    "data__max_length": 256,
    "data__validation_rows": 8,
    "data__calibration_rows": 8,
    "data__pretrain_rows": 2,
    "search__probe_rows": 16,
    "search__probe_validation_rows": 8,
    "train__batch_size": 4,
    "train__micro_batch_size": 4,
    "train__learning_rate": 1e-3,
    "train__warmup_ratio": 0.0,
}
"""The settings' defaults on Dolly's 14,260 training rows, scaled down. The pilot has 30 % of the rows, a probe 3.6 %.
1.8 % judge a probe, as many are Fisher samples, and 0.45 % as many passages are read. What a stage costs to set up does
not shrink."""
REGRET = 0.01
TRIALS = (30, 100)
ROUNDS = 3


def run(bench: Bench) -> Iterator[Measurement]:
    shared = smollm2_session(bench, **SIZES, **({"data__train_rows": TRAIN_ROWS} if bench.data_dir else {}))
    rows = shared.mix(CELL.mix).train
    shared.base  # noqa: B018  (the model is loaded before the clock starts)
    cell = resolve_cell(shared, CELL)
    inputs = Inputs(cell)
    start = time.perf_counter()
    plan = cell.method.plugin.load().plan(inputs, cell.method.options)
    wall = time.perf_counter() - start
    cost, by_kind = inputs.account.cost, inputs.account.by_kind
    start = time.perf_counter()
    training = _train_every_layer(shared, inputs)
    training_wall = time.perf_counter() - start
    assert isinstance(plan.peft_config, MoeLoraConfig) and isinstance(plan.peft_config.layers_to_transform, list)
    layers, r = plan.peft_config.layers_to_transform, plan.peft_config.r
    grid = _grid(shared, inputs, layers)
    facts = {
        "rows": len(rows),
        "layers": layers,
        "r": r,
        "by_kind": by_kind,
        "trainings": plan.searched.unique_trainings,
    }
    against = ("search", "hydralora")
    yield Measurement(
        what=f"pilot, scores and rank search ({METHOD}) against one HydraLoRA training, as charged",
        values={"search": [cost.seconds], "hydralora": [training.cost.seconds]},
        ratio=against,
        at_most=1.0,
        notes=facts,
    )
    yield Measurement(
        what="the same, by the clock on the wall",
        values={"search": [wall], "hydralora": [training_wall]},
        ratio=against,
        at_most=1.0,
    )
    yield Measurement(
        what="the same, tokens",
        values={"search": [cost.tokens], "hydralora": [training.cost.tokens]},
        unit="tokens",
        ratio=against,
    )
    yield from _regret(grid, r)
    yield from _literal(grid, by_kind, training)


def _train_every_layer(shared: Session, inputs: Inputs) -> Stage:
    plan = AdapterPlan("adapter", moe_lora(inputs))
    return stages.run_training(shared, shared.mix(CELL.mix).train, plan, CELL.seed, shared.trainable(plan))


def _grid(shared: Session, inputs: Inputs, layers: list[int]) -> dict[int, Stage]:
    """Probe every rank in full on FLoE's layers. Those that the search made are found, the others are made."""
    train_rows, judge = probe_rows(shared, CELL)
    limits = shared.settings.search
    plans = {r: AdapterPlan("adapter", moe_lora(inputs, layers, r)) for r in range(limits.r_min, limits.r_max + 1)}
    return {r: stages.run_probe(shared, train_rows, judge, plan, CELL.seed) for r, plan in plans.items()}


def _regret(grid: dict[int, Stage], found: int) -> Iterator[Measurement]:
    nll = {r: stages.probe_nll(stage) for r, stage in grid.items()}
    best = min(nll.values())
    yield Measurement(
        what="validation NLL at the rank found against the best of ranks 2 to 16",
        values={"found": [nll[found]], "best of the grid": [best]},
        unit="nats",
        ratio=("found", "best of the grid"),
        at_most=1 + REGRET,
        notes={"nll": nll},
    )
    yield Measurement(
        what="validation NLL at the worst rank against the best: what there is to lose",
        values={"worst of the grid": [max(nll.values())], "best of the grid": [best]},
        unit="nats",
        ratio=("worst of the grid", "best of the grid"),
    )


def _literal(grid: dict[int, Stage], by_kind: dict[str, Any], training: Stage) -> Iterator[Measurement]:
    """Measure the paper's search, which asks for every rank it meets at full share.

    Its cost is that of these ranks' probes.
    """
    limits = min(grid), max(grid)
    before = sum(by_kind[kind]["seconds"] for kind in ("pilot", "measure"))
    for trials in TRIALS:
        ranks = search(lambda r: stages.probe_nll(grid[r]), *limits, trials, CELL.seed).ranks
        probes = sum((grid[r].cost for r in ranks), Cost())
        yield Measurement(
            what=f"rank search on shares against the literal one of {trials} trials, as charged",
            values={"shares": [by_kind["probe"]["seconds"]], "literal": [probes.seconds]},
            ratio=("shares", "literal"),
            notes={"literal_trainings": len(ranks), "literal_tokens": probes.tokens},
        )
        yield Measurement(
            what=f"pilot, scores and the literal search of {trials} trials against one HydraLoRA training, as charged",
            values={"search": [before + probes.seconds], "hydralora": [training.cost.seconds]},
            ratio=("search", "hydralora"),
        )
