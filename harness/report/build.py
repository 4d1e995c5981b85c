"""Make the tables, checks and verdicts of a results folder from its records alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.judgement import Evidence, Finding
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Table
from floe_bench.harness.registry import Plugin, plugins
from floe_bench.harness.report import judging
from floe_bench.harness.report.checking import checks_table, run_checks
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.store.folder import Store
from floe_bench.harness.store.results import StoredResults


def experiment(
    plugin: Plugin,
    store: Store,
    settings: Settings,
    keys: Mapping[Cell, str] | None = None,
    records: Sequence[Record] | None = None,
) -> Evidence:
    """Return an experiment's records that may stand in one table, and its tables."""
    module = plugin.load()
    results = StoredResults(store, settings, module.cells(settings), keys, records)
    keys_used = tuple(record.key for record in results.records)
    return Evidence(results, [replace(table, records=keys_used) for table in module.tables(results)])


def findings_in(evidence: Evidence) -> list[Finding]:
    """Return what the checks find in an experiment; nothing where it was not run."""
    return run_checks(evidence.results) if evidence.results.records else []


def everything(
    store: Store, settings: Settings, records: Sequence[Record] | None = None
) -> tuple[list[Table], list[Finding]]:
    """Return all tables, and the findings of the checks.

    The tables are those of every experiment that was run, then the checks and the claims. As experiments share cells,
    one counts as run where all its cells are finished, or one that no other experiment has.
    """
    records, settings = store.records() if records is None else records, settings.without_paths()
    evidence = {
        name: experiment(plugin, store, settings, records=records) for name, plugin in plugins("experiment").items()
    }
    asked = Counter(cell for found in evidence.values() for cell in set(found.results.cells))
    run = [
        found
        for found in evidence.values()
        if len(found.results.records) == len(found.results.cells)
        or any(asked[record.cell] == 1 for record in found.results.records)
    ]
    made = [table for found in run for table in found.tables]
    findings = [finding for found in run for finding in findings_in(found)]
    return [*made, checks_table(findings), judging.table(evidence)], findings
