"""Mixed versions or hardware

What: the records of one table, or the stages behind them, come from different library versions, machines or
commits. Or they come from a checkout with uncommitted changes.

Why: another version can change a number. Another machine changes every time and memory figure. Nobody can go back
to a state that was never committed.

What to do: run the table's cells again in one environment, from one clean commit; until then compare no costs
across machines.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from floe_bench.harness.contracts.judgement import Finding
from floe_bench.harness.contracts.tables import Results

NUMBER = 11

HARDWARE = ("machine", "system", "processor", "cores", "threads", "accelerator")
"""The facts that times depend on. Installed memory is left out: virtual machines of one kind report it differently."""


def find(results: Results) -> list[Finding]:
    origins = list(_origins(results))
    findings = []
    names = dict.fromkeys(name for _, origin in origins for name in origin["versions"])
    for name in names:
        findings += _mixed(f"versions of {name}", [(cell, origin["versions"].get(name)) for cell, origin in origins])
    for name in HARDWARE:
        findings += _mixed(f"hardware ({name})", [(cell, origin["hardware"].get(name)) for cell, origin in origins])
    commits = [(cell, (origin["git"] or {}).get("commit")) for cell, origin in origins]
    findings += _mixed("commits", commits)
    dirty = dict.fromkeys(cell for cell, origin in origins if (origin["git"] or {}).get("dirty"))
    if dirty:
        message = f"{len(dirty)} of {len(results.records)} cells were run with uncommitted changes"
        findings.append(Finding(message, tuple(dirty)))
    return findings


def _origins(results: Results) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (cell, provenance) of each record and of all stages that it rests on, where there is a provenance."""
    for record in results.records:
        for provenance in results.origins(record):
            if "versions" in provenance:
                yield record.cell.label, provenance


def _mixed(what: str, values: list[tuple[str, Any]]) -> list[Finding]:
    cells: dict[Any, dict[str, None]] = defaultdict(dict)
    for cell, value in values:
        cells[value][cell] = None
    if len(cells) < 2:
        return []
    shown = "; ".join(f"{value or 'none'} in {len(labels)} cells" for value, labels in cells.items())
    # The most frequent value is the rule. Only the cells with another one are named.
    usual = max(cells, key=lambda value: len(cells[value]))
    odd = dict.fromkeys(label for value, labels in cells.items() if value != usual for label in labels)
    return [Finding(f"{what} differ: {shown}", tuple(odd))]
