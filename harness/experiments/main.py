"""Accuracy against trainable parameters: every method on every mix."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Results, Table
from floe_bench.harness.experiments._accuracy import CHANCE_NOTE, accuracy_columns, accuracy_text
from floe_bench.harness.experiments._comparison import comparison
from floe_bench.harness.experiments._shared import accuracy_of, nll_of, reference_of
from floe_bench.harness.report.format import MISSING, count, digits, mean_sd, megabytes, number, percent
from floe_bench.harness.report.tables import View, view
from floe_bench.harness.spec.settings import Settings

TITLE = "Accuracy against trainable parameters"


def cells(settings: Settings) -> list[Cell]:
    """Return every method on every mix, seed after seed."""
    return [
        Cell(method=method, mix=mix, seed=seed)
        for seed in range(settings.seeds)
        for mix in settings.mixes
        for method in settings.methods
    ]


def tables(results: Results) -> list[Table]:
    """Show accuracy and costs, and every method against the reference."""
    frame = main_frame(results)
    reference = reference_of(results.settings)
    return [
        Table("main", TITLE, frame, view(frame, VIEW), _notes(results.records, results.settings)),
        comparison("main_comparison", f"Every method against {reference}, paired", results, reference),
    ]


def main_frame(results: Results) -> pd.DataFrame:
    """Return one row per mix and method, over its seeds.

    Accuracies are fractions, NLLs nats per token, sizes bytes, times seconds. `accuracy_sd` is the sample standard
    deviation over seeds, missing for one seed. Costs are means over seeds. Planning counts pilot, scoring and search in
    full, whichever method paid first.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in _in_grid_order(results.records, results.settings):
        groups.setdefault((record.cell.mix, record.cell.method), []).append(record)
    accuracies = {group: _mean([_row(record) for record in records], "accuracy") for group, records in groups.items()}
    return pd.DataFrame(
        [
            {"mix": mix, "method": method, "seeds": len(records)}
            | _accuracy(results, records, accuracies.get((mix, "full")))
            | _summary([_row(record) for record in records])
            for (mix, method), records in groups.items()
        ]
    )


VIEW: View = {
    "Mix": "mix",
    "Method": "method",
    "Seeds": "seeds",
    "Accuracy %": accuracy_text,
    "% of full": ("share_of_full", percent),
    "NLL": lambda frame: mean_sd(frame["nll"], frame["nll_sd"], 3),
    "Forgetting": ("forgetting", digits(3, sign=True)),
    "Layers": "layers",
    "r": "r",
    "Trainable": ("trainable_parameters", count),
    "Share": ("trainable_share", percent),
    "Size MB": ("adapter_bytes", megabytes),
    "Train s": ("training_seconds", number),
    "Train tok/s": ("training_tokens_per_second", number),
    "Peak MB": ("peak_bytes", megabytes),
    "Plan s": ("planning_seconds", number),
    "Plan tokens": ("planning_tokens", count),
    "Infer tok/s": ("inference_tokens_per_second", number),
}


def _notes(records: Sequence[Record], settings: Settings) -> list[str]:
    """Return what a reader must know to read the table."""
    primary = settings.eval.primary
    scores = [record.scores[primary] for record in records if primary in record.scores]
    if not scores:
        return []
    lines = [f"Accuracy: {primary}, {scores[0].n_items} questions."]
    if scores[0].chance is not None:
        lines[0] += f" Guessing gives {scores[0].chance:.0%}. {CHANCE_NOTE}"
    seeds = {record.cell.seed for record in records}
    if len(seeds) == 1:
        lines.append("One seed: no spread over seeds is known, and small differences mean nothing.")
    lines += [
        "NLL: nats per completion token on the mix's own validation rows. Forgetting: change of NLL on plain prose.",
        "Plan: pilot, scoring and search, charged whole to every method that needs them.",
    ]
    return lines


def _accuracy(results: Results, records: list[Record], full: float | None) -> dict[str, Any]:
    """Return the accuracy's columns. `full` is full fine-tuning's accuracy on the mix."""
    found = accuracy_columns(results, records)
    return found | {"share_of_full": found["accuracy"] / full if found["accuracy"] is not None and full else None}


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    means = {key: _mean(rows, key) for key in rows[0] if key not in ("accuracy", "nll", "layers", "r")}
    return {
        "nll": _mean(rows, "nll"),
        "nll_sd": _sd(rows, "nll"),
        "layers": _span(row["layers"] for row in rows),
        "r": _span(row["r"] for row in rows),
        **means,
    }


def _row(record: Record) -> dict[str, Any]:
    training = record.training
    own = nll_of(record)
    prose = record.scores.get("pretrain_nll")
    inference = record.scores.get("validation_nll")
    return {
        "accuracy": accuracy_of(record),
        "nll": own,
        "layers": len(record.plan.layers),
        "r": record.plan.r,
        "forgetting": prose.metrics["nll_change"] if prose else None,
        "trainable_parameters": record.plan.trainable_parameters,
        "trainable_share": record.plan.trainable_parameters / record.plan.base_parameters,
        "adapter_bytes": training.adapter_bytes if training else 0,
        "training_seconds": training.seconds if training else 0.0,
        "training_tokens": training.tokens if training else 0,
        "training_tokens_per_second": training.tokens_per_second if training else None,
        "peak_bytes": training.peak_bytes if training else None,
        "planning_seconds": record.planning_cost.seconds,
        "planning_tokens": record.planning_cost.tokens,
        "inference_tokens_per_second": inference.tokens / inference.seconds if inference else None,
    }


def _mean(rows: list[dict[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows if row[key] is not None]
    return statistics.fmean(values) if values else None


def _sd(rows: list[dict[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows if row[key] is not None]
    return statistics.stdev(values) if len(values) > 1 else None


def _span(values: Iterable[int | None]) -> str:
    """Write one value, or the range over seeds."""
    found = sorted({value for value in values if value is not None})
    if not found:
        return MISSING
    return str(found[0]) if len(found) == 1 else f"{found[0]}–{found[-1]}"


def _in_grid_order(records: Sequence[Record], settings: Settings) -> list[Record]:
    order = {cell: place for place, cell in enumerate(cells(settings))}
    by_seed = sorted(records, key=lambda record: record.cell.seed)
    return sorted(by_seed, key=lambda record: order.get(record.cell.model_copy(update={"seed": 0}), len(order)))
