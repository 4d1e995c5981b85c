"""Run benchmarks, write their records and show their tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
from tabulate import tabulate

from floe_bench.harness.benchmarks import Bench, Measurement
from floe_bench.harness.files import read_json, write_json
from floe_bench.harness.registry import Plugin
from floe_bench.harness.report.format import MISSING
from floe_bench.harness.report.tables import to_markdown
from floe_bench.harness.store.folder import to_stderr
from floe_bench.harness.store.provenance import provenance

FOLDER = "bench"
VERDICTS = {True: "met", False: "missed", None: MISSING}


def unavailable(plugin: Plugin, bench: Bench) -> str | None:
    """Return what the benchmark needs and lacks here, by its own `unavailable(bench)`. None: it can run."""
    reason = getattr(plugin.load(), "unavailable", None)
    return reason(bench) if reason else None


def run(plugin: Plugin, bench: Bench, results: Path, say: Callable[[str], None]) -> list[Measurement]:
    """Run one benchmark, write `<results>/bench/<id>.json` at its end, and return what it measured."""
    measurements = []
    for measurement in plugin.load().run(bench):
        say(f"{plugin.id}  {_in_brief(measurement)}")
        measurements.append(measurement)
    record = {
        "benchmark": plugin.id,
        "description": plugin.description,
        "measurements": [_with_ratio(measurement) for measurement in measurements],
        "provenance": provenance(),
    }
    write_json(results / FOLDER / f"{plugin.id}.json", record)
    return measurements


def to_text(title: str, measurements: Sequence[Measurement]) -> str:
    """Write a Markdown table of the measurements: medians, ratio with its range over rounds, target, verdict."""
    rows = [
        {
            "case": m.what,
            "median": ", ".join(f"{side} {_quantity(median(values), m.unit)}" for side, values in m.values.items()),
            "ratio": f"{median(m.quotients):.3g}" if m.ratio else MISSING,
            "rounds": f"{min(m.quotients):.3g} … {max(m.quotients):.3g}" if m.ratio else MISSING,
            "target": _target(m),
            "verdict": VERDICTS[m.met],
        }
        for m in measurements
    ]
    return to_markdown(title, pd.DataFrame(rows), ())


def table_of_records(results: Path) -> str:
    """Write all records of `<results>/bench` as one Markdown table. What is no such record is said and left out."""
    rows = []
    for file in sorted((results / FOLDER).glob("*.json")):
        try:
            rows += _rows_of(read_json(file))
        except (OSError, ValueError, KeyError, TypeError):
            to_stderr(f"{file}: ignored, as no record of a benchmark")
    return tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True, missingval=MISSING)


def _rows_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one row per measurement of a benchmark's record."""
    return [
        {
            "benchmark": record["benchmark"],
            "case": facts["what"],
            "ratio": (ratio := facts["ratio"]) and f"{ratio['numerator']} / {ratio['denominator']}",
            "median": ratio and f"{ratio['median']:.3g}",
            "rounds": ratio and f"{ratio['low']:.3g} … {ratio['high']:.3g}",
            "target": _target_text(facts["at_most"], facts["at_least"]),
            "verdict": VERDICTS[facts["met"]],
        }
        for facts in record["measurements"]
    ]


def _in_brief(measurement: Measurement) -> str:
    if not measurement.ratio:
        return measurement.what
    return (
        f"{measurement.what}: {median(measurement.quotients):.3g} "
        f"(target {_target(measurement)}, {VERDICTS[measurement.met]})"
    )


def _with_ratio(measurement: Measurement) -> dict[str, Any]:
    """Return the measurement as JSON, with the median, least and greatest of its ratio."""
    facts: dict[str, Any] = measurement.model_dump(mode="json") | {"met": measurement.met}
    if measurement.ratio:
        numerator, denominator = measurement.ratio
        quotients = measurement.quotients
        facts["ratio"] = {"numerator": numerator, "denominator": denominator, "median": median(quotients)}
        facts["ratio"] |= {"low": min(quotients), "high": max(quotients)}
    return facts


def _target(measurement: Measurement) -> str:
    return _target_text(measurement.at_most, measurement.at_least)


def _target_text(at_most: float | None, at_least: float | None) -> str:
    if at_most is not None:
        return f"≤ {at_most:.3g}"
    return MISSING if at_least is None else f"≥ {at_least:.3g}"


def _quantity(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value / 1e6:,.1f} MB"
    if unit == "s" and value < 0.1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.4g} {unit}".strip()
