"""Tables, checks and verdicts of a results folder, from its records alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Table
from floe_bench.harness.registry import Plugin, plugins
from floe_bench.harness.report import claims
from floe_bench.harness.report.checks import Finding, all_checks, run_checks
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.store.folder import Store
from floe_bench.harness.store.results import StoredResults


def experiment(
    plugin: Plugin,
    store: Store,
    settings: Settings,
    keys: Mapping[Cell, str] | None = None,
    records: Sequence[Record] | None = None,
) -> claims.Evidence:
    """An experiment's records that may stand in one table, and its tables."""
    module = plugin.load()
    results = StoredResults(store, settings, module.cells(settings), keys, records)
    keys_used = tuple(record.key for record in results.records)
    return claims.Evidence(results, [replace(table, records=keys_used) for table in module.tables(results)])


def findings_in(evidence: claims.Evidence) -> list[Finding]:
    """What the checks find in an experiment; nothing where it was not run."""
    return run_checks(evidence.results) if evidence.results.records else []


def everything(
    store: Store, settings: Settings, records: Sequence[Record] | None = None
) -> tuple[list[Table], list[Finding]]:
    """The tables of every experiment that was run, then the checks and the claims; and what the checks found.

    Experiments share cells: one was run that has a finished cell of its own, or all of its cells.
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
    return [*made, checks_table(findings), claims.table(evidence)], findings


def checks_table(findings: Sequence[Finding]) -> Table:
    """The checks that fired, by number; a finding that several cells or experiments share stands once."""
    cells: dict[tuple[int, str, str], dict[str, None]] = {}
    for finding in sorted(findings, key=lambda finding: (finding.number, finding.message)):
        key = finding.number, finding.check, finding.message
        cells.setdefault(key, {}).update(dict.fromkeys(finding.cells))
    frame = pd.DataFrame(
        [
            {"number": number, "check": check, "finding": message, "n_cells": len(of), "cells": " | ".join(of)}
            for (number, check, message), of in cells.items()
        ],
        columns=["number", "check", "finding", "n_cells", "cells"],
    )
    view = pd.DataFrame(
        {"": frame["number"], "Check": frame["check"], "Finding": frame["finding"], "Cells": frame["n_cells"]}
    )
    fired = [check for check in all_checks() if check.number in set(frame["number"])]
    notes = [
        f"{len(fired) or 'none'} of {len(all_checks())} checks fired; the cells are in checks.csv and checks.json."
    ]
    notes += [f"What to do, {check.number}: {check.advice}" for check in fired]
    return Table("checks", "Checks that fired", frame, view, notes)
