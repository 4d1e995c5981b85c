"""Answer what several claims ask of a table's rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from floe_bench.harness.contracts.judgement import Evidence
from floe_bench.harness.stats.paired import Estimate, mean_interval


def significant(row: dict[str, Any], name: str, evidence: Evidence) -> bool:
    """Return whether the row's difference is significant, after Holm over its table."""
    return row[f"{name}_p"] is not None and row[f"{name}_p"] < 1 - evidence.confidence


def within(row: dict[str, Any], name: str, margin: float) -> bool:
    """Return whether the row's interval is known and lies within ± margin."""
    return row[f"{name}_low"] is not None and row[f"{name}_low"] >= -margin and row[f"{name}_high"] <= margin


def mean_over_seeds(values: Sequence[tuple[str, int, float | None]], evidence: Evidence) -> Estimate | None:
    """Return the mean of the values, with its interval over mixes and seeds.

    `values` are (mix, seed, value); a missing value is left out. None for fewer than two pairs of mix and seed.
    """
    known = [(f"{mix} {seed}", value) for mix, seed, value in values if value is not None]
    if len({cluster for cluster, _ in known}) < 2:
        return None
    return mean_interval([value for _, value in known], [name for name, _ in known], confidence=evidence.confidence)


def nats(value: float, low: float, high: float) -> str:
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}] nats"
