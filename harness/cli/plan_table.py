"""The answer of `floe-bench plan`, for people and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tabulate import tabulate

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.report.format import percent
from floe_bench.harness.run.dry_run import FORMULAS, CellPlan
from floe_bench.harness.spec.settings import Settings


def to_json(base_parameters: int, plans: Sequence[CellPlan]) -> str:
    """Everything, cell by cell."""
    cells = [{**vars(plan), "cell": plan.cell.model_dump()} for plan in plans]
    return json.dumps({"base_parameters": base_parameters, "cells": cells, "formulas": FORMULAS}, indent=2)


def to_text(settings: Settings, base_parameters: int, plans: Sequence[CellPlan]) -> str:
    """One line per cell, then what the columns mean."""
    rows = [
        [
            plan.cell.mix,
            _method(plan.cell),
            plan.cell.seed,
            plan.status,
            plan.layers,
            "–".join(map(str, plan.ranks)) or "–",
            " – ".join(f"{n:,}" for n in plan.trainable_parameters),
            percent(max(plan.trainable_parameters) / base_parameters),
            _stages(plan),
            f"{plan.planning_tokens:,}",
            f"{plan.training_tokens:,}",
            f"{plan.flops / 1e15:,.4g}",
            f"{plan.memory_bytes / 2**30:,.2f}",
        ]
        for plan in plans
    ]
    headers = [
        "mix", "method", "seed", "status", "layers", "r", "trainable parameters", "%", "stages done",
        "planning tokens", "training tokens", "PFLOP", "memory GiB",
    ]  # fmt: skip
    total = sum(plan.flops for plan in plans) / 1e15
    return "\n".join(
        [
            f"{settings.model.path or settings.model.id}: {base_parameters:,} base parameters; {len(plans)} cells",
            "",
            tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True),
            "",
            *_targets(plans),
            f"All cells: at most {total:,.4g} PFLOP; cells share stages, so less is run.",
            "Trainable parameters are exact for that many layers, at each end of a searched rank's range; a tight "
            "Taylor budget can select fewer layers.",
            *(f"{name}: {formula}" for name, formula in FORMULAS.items()),
        ]
    )


def _targets(plans: Sequence[CellPlan]) -> list[str]:
    """One line for each choice of modules to adapt, with the methods that make it."""
    methods: dict[tuple[str, ...], list[str]] = {}
    for plan in plans:
        if plan.targets:
            methods.setdefault(plan.targets, []).append(_method(plan.cell))
    return [
        f"{', '.join(dict.fromkeys(names))} adapt {', '.join(targets)} of their layers."
        for targets, names in methods.items()
    ]


def _method(cell: Cell) -> str:
    """The method, and the settings in which the cell differs from its profile."""
    return " ".join([cell.method, *cell.differences])


def _stages(plan: CellPlan) -> str:
    return ", ".join(f"{kind} {plan.stages_done.get(kind, 0)}/{n}" for kind, n in plan.stages_asked.items()) or "–"
