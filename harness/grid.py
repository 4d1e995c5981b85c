"""Many cells: which are done, in what order the others run, and what is said on the way."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from harness.contracts import Cell, Record
from harness.files import digest
from harness.planning import dry_plan
from harness.progress import Progress
from harness.registry import find
from harness.run import cell_identity, run_cell
from harness.scoring import Evaluating
from harness.workbench import Workbench


@dataclass(frozen=True)
class Outcome:
    """How a grid ended: cells run now, skipped as done, and failed; and each cell's key."""

    ran: int
    skipped: int
    failed: int
    keys: dict[Cell, str]


def check_cells(bench: Workbench, cells: Sequence[Cell]) -> None:
    """Raise UsageError, before anything is spent, for whatever of the grid cannot work."""
    for varied in {cell.varied: cell for cell in cells}.values():
        for name in bench.of(varied).settings.eval.evals:
            find("evaluation", name).load().items(Evaluating(bench.of(varied), None))
    for cell in {(cell.method, cell.mix, cell.varied): cell for cell in cells}.values():
        bench.of(cell).mix(cell.mix)
        dry_plan(bench.of(cell), cell)


def run_grid(bench: Workbench, cells: Sequence[Cell], progress: Progress) -> Outcome:
    """Run what is not done, one cell after the other; a failed cell does not stop the others."""
    identities = {cell: cell_identity(bench.of(cell), cell) for cell in cells}
    keys = {cell: digest(identity) for cell, identity in identities.items()}
    found = {cell: bench.store.record(cell, key) for cell, key in keys.items()}
    waiting = [cell for cell, record in found.items() if record is None or record.status == "failed"]
    statuses = Counter(record.status if record else "new" for record in found.values())
    progress.say(
        f"{len(cells)} cells: {statuses['ok']} done, {statuses['failed']} failed before and tried again, "
        f"{statuses['new']} to do"
    )
    if waiting:
        check_cells(bench, waiting)
    failed = 0
    start = time.perf_counter()
    for number, cell in enumerate(waiting, 1):
        progress.prefix = f"[{number}/{len(waiting)}] {cell.label}"
        progress.update("starting" + _time_left(start, number - 1, len(waiting)))
        record = run_cell(bench.of(cell), cell, identities[cell])
        failed += record.status == "failed"
        progress.say(_row(record, number, len(waiting)))
    progress.prefix = ""
    return Outcome(ran=len(waiting), skipped=len(cells) - len(waiting), failed=failed, keys=keys)


def _time_left(start: float, done: int, total: int) -> str:
    if not done:
        return ""
    minutes = (time.perf_counter() - start) / done * (total - done) / 60
    return f" (about {minutes:.0f} min left)"


def _row(record: Record, number: int, total: int) -> str:
    head = f"[{number}/{total}] {record.cell.label}:"
    if record.status == "failed":
        reason = (record.error or "").strip().splitlines()[-1]
        return f"{head} FAILED: {reason}"
    parts = []
    primary = record.settings.eval.primary
    if primary in record.scores and "acc" in record.scores[primary].metrics:
        parts.append(f"accuracy {record.scores[primary].metrics['acc']:.1%}")
    nll = record.scores["validation_nll"].metrics if "validation_nll" in record.scores else {}
    if f"nll_{record.cell.mix}" in nll:
        parts.append(f"NLL {nll[f'nll_{record.cell.mix}']:.3f}")
    parts.append(f"{record.plan['trainable_parameters']:,} trainable")
    seconds = record.training.seconds if record.training else 0.0
    parts.append(f"planning {record.planning_cost.seconds:.0f} s, training {seconds:.0f} s")
    return f"{head} {', '.join(parts)}"
