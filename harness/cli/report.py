"""`floe-bench report`: tables, checks and claims, from the records alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from floe_bench.harness.cli.grid import Grid, add_grid, resolve
from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Table
from floe_bench.harness.registry import Plugin

if TYPE_CHECKING:
    from floe_bench.harness.contracts.judgement import Finding


def add_arguments(sub: argparse.ArgumentParser) -> None:
    add_grid(sub)
    sub.set_defaults(experiment=None)  # every experiment that has a record
    sub.add_argument("--strict", action="store_true", help="exit code 1 where a check fires")


def command(options: argparse.Namespace) -> int:
    """Write and print the tables. With --strict return 1 where a check fired or there is no record."""
    grid = resolve(options)
    from floe_bench.harness.report import build, tables

    grid.store.ensure_writable()
    records = grid.store.records()
    if grid.every:
        made, findings = build.everything(grid.store, grid.settings, records)
        _write(grid, made)
        tables.keep_only(made, grid.store.folder / "tables")
    else:
        findings = [found for experiment in grid.experiments for found in write_experiment(grid, experiment, records)]
    if not records:
        print(f"{grid.store.folder} holds no record: `floe-bench run {grid.profile}` makes some", file=sys.stderr)
    return 1 if options.strict and (findings or not records) else 0


def write_experiment(
    grid: Grid, experiment: Plugin, records: Sequence[Record], keys: dict[Cell, str] | None = None
) -> list[Finding]:
    """Write and print an experiment's tables, and say which checks fired on it."""
    from floe_bench.harness.report import build

    evidence = build.experiment(experiment, grid.store, grid.settings, keys, records)
    findings = build.findings_in(evidence)
    _write(grid, evidence.tables)
    for finding in findings:
        print(f"check {finding.number}, {finding.check}: {finding.message}", file=sys.stderr)
    results = evidence.results
    print(f"{experiment.id}: {len(results.records)} of {len(results.cells)} cells finished", file=sys.stderr)
    return findings


def _write(grid: Grid, made: Sequence[Table]) -> None:
    from floe_bench.harness.report import tables

    folder = grid.store.folder / "tables"
    print(tables.write(made, folder))
    print(f"tables: {folder}", file=sys.stderr)
