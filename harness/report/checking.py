"""Run the checks over an experiment's records, and make the table of what they find.

Each check is one file in report/checks/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType

import pandas as pd

from floe_bench.harness.contracts.judgement import Finding
from floe_bench.harness.contracts.tables import Results, Table
from floe_bench.harness.report.numbered import by_number


@dataclass(frozen=True)
class Check:
    """Hold a check and its documentation. `id` is the name of its file."""

    id: str
    number: int
    module: ModuleType

    @property
    def title(self) -> str:
        return (self.module.__doc__ or "").strip().split("\n", 1)[0]

    @property
    def documentation(self) -> str:
        """Return the docstring below the title: what the check looks at, why that matters, and what to do."""
        return (self.module.__doc__ or "").strip().partition("\n")[2].strip()

    @property
    def advice(self) -> str:
        """Return what to do, on one line."""
        return " ".join(self.documentation.partition("What to do:")[2].split())

    def find(self, results: Results) -> list[Finding]:
        return [replace(finding, check=self.id, number=self.number) for finding in self.module.find(results)]


def all_checks() -> list[Check]:
    """Return every check, by number. Raises UsageError where two share a number."""
    found = by_number("check", lambda module: module.NUMBER)
    return [Check(plugin.id, number, module) for number, (plugin, module) in found.items()]


def run_checks(results: Results) -> list[Finding]:
    """Return what all checks find, in the order of their numbers."""
    return [finding for check in all_checks() for finding in check.find(results)]


def checks_table(findings: Sequence[Finding]) -> Table:
    """Return the table of the checks that fired, by number. What several cells or experiments share stands once."""
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
