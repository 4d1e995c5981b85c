"""Missing cells or seeds

What: cells of the grid have no finished record: they were not run, or they failed. Or a method finished for some
of its seeds only.

Why: a table without the failed cells shows the survivors only. A mean over fewer seeds is less certain than the
means beside it.

What to do: run the profile again: what is done is not done twice, what failed is tried again. A failed cell's
record under records/ holds its error.
"""

from __future__ import annotations

from collections import defaultdict

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.judgement import Finding
from floe_bench.harness.contracts.tables import Results

NUMBER = 8


def find(results: Results) -> list[Finding]:
    missing = dict.fromkeys(cell for cell in results.cells if results.find(cell) is None)
    if not missing:
        return []
    over_seeds: dict[tuple[object, ...], list[Cell]] = defaultdict(list)
    for cell in results.cells:
        over_seeds[cell.method, cell.mix, cell.varied].append(cell)
    partial = dict.fromkeys(cell for group in over_seeds.values() if not missing.keys() >= set(group) for cell in group)
    some_seeds = [cell for cell in missing if cell in partial]
    all_seeds = [cell for cell in missing if cell not in partial]
    total = len(results.cells)
    findings = []
    if all_seeds:
        findings.append(_finding(f"{len(all_seeds)} of {total} cells have no finished record", all_seeds))
    if some_seeds:
        message = f"{len(some_seeds)} of {total} cells are missing though other seeds of them finished"
        findings.append(_finding(message, some_seeds))
    return findings


def _finding(message: str, cells: list[Cell]) -> Finding:
    return Finding(message, tuple(cell.label for cell in cells))
