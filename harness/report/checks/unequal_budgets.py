"""Unequal budgets or data

What: trained cells that a table compares (same mix, seed and varied settings) differ in training data, training
tokens, optimiser steps or base learning rate. Or methods that search differ in how many trainings they spent.

Why: the cell that saw more data, or searched longer, may be better for that alone.

What to do: compare cells of one set of settings and data. Methods that search at different cost stay comparable
only with the planning cost beside them, or with search.trials set so that their budgets meet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from floe_bench.harness.contracts.judgement import Finding
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results

NUMBER = 7

SIGNIFICANT_DIGITS = 9
"""Compare learning rates to this many digits: multiplying by a method's ratio and dividing again rounds them."""

Quantity = Callable[[Record], Any]


def find(results: Results) -> list[Finding]:
    groups: dict[tuple[object, ...], list[Record]] = defaultdict(list)
    for record in results.records:
        if record.training:
            groups[record.cell.mix, record.cell.seed, record.cell.varied].append(record)
    findings = [_differing(name, quantity, list(groups.values())) for name, quantity in QUANTITIES.items()]
    return [finding for finding in findings if finding is not None]


def _differing(name: str, quantity: Quantity, groups: list[list[Record]]) -> Finding | None:
    """Return one finding for all groups in which the quantity differs. It shows the values of the first group."""
    unequal: list[list[tuple[Any, Record]]] = []
    for group in groups:
        values = [(value, record) for record in group if (value := quantity(record)) is not None]
        if len({value for value, _ in values}) > 1:
            unequal.append(values)
    if not unequal:
        return None
    methods: dict[Any, list[str]] = defaultdict(list)
    for value, record in unequal[0]:
        methods[value].append(record.cell.method)
    cell = unequal[0][0][1].cell
    where = ", ".join([cell.mix, f"seed {cell.seed}", *(f"{key}={value}" for key, value in cell.varied)])
    shown = "; ".join(f"{', '.join(names)}: {value}" for value, names in methods.items())
    more = f" (other groups of cells where they differ: {len(unequal) - 1})" if len(unequal) > 1 else ""
    labels = tuple(record.cell.label for values in unequal for _, record in values)
    return Finding(f"{name} differ in {where}: {shown}{more}", labels)


def _base_learning_rate(record: Record) -> float | None:
    """Return the learning rate before the method's ratio."""
    if record.training is None:
        return None
    return float(f"{record.training.learning_rate / record.plan.learning_rate_ratio:.{SIGNIFICANT_DIGITS}g}")


QUANTITIES: dict[str, Quantity] = {
    "training data (digests)": lambda record: record.data.digest or None,
    "training tokens": lambda record: record.training and record.training.tokens,
    "optimiser steps": lambda record: record.training and record.training.optimizer_steps,
    "base learning rates": _base_learning_rate,
    "trainings spent on the rank search": lambda record: record.plan.searched and record.plan.searched.unique_trainings,
}
"""Name of what compared cells must have equal -> its value for a record; None where it has none."""
