"""Run many cells: find out which are done, run the others in order, say how far it is."""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.run.progress import Progress
from floe_bench.harness.run.resolved import ResolvedCell, resolve_cell
from floe_bench.harness.run.session import Session


@dataclass(frozen=True)
class Outcome:
    """Count the cells that ran now, were skipped as done, and failed. Hold each cell's key, and the records."""

    ran: int
    skipped: int
    failed: int
    keys: dict[Cell, str]
    records: list[Record]


def check_cells(cells: Iterable[ResolvedCell]) -> None:
    """Raise UsageError, before anything is spent, for whatever of the grid cannot work.

    Cells that differ by the seed alone are tried once.
    """
    from floe_bench.harness.run.dry_run import dry_plan

    for resolved in {(of.cell.method, of.cell.mix, of.cell.varied): of for of in cells}.values():
        resolved.check_data()
        resolved.session.check_model()
        dry_plan(resolved)


def run_grid(session: Session, cells: Sequence[Cell], progress: Progress) -> Outcome:
    """Run what is not done, one cell after the other. A failed cell does not stop the others."""
    resolved = {cell: resolve_cell(session, cell) for cell in cells}
    keys = {cell: of.key for cell, of in resolved.items()}
    found = session.store.found(keys)
    done = {cell: record for cell, record in found.items() if record and record.status == "ok"}
    waiting = [resolved[cell] for cell in found if cell not in done]
    statuses = Counter(record.status if record else "new" for record in found.values())
    progress.say(
        f"{len(cells)} cells: {statuses['ok']} done, {statuses['failed']} failed before and tried again, "
        f"{statuses['new']} to do"
    )
    if waiting:
        check_cells(waiting)
    made = _run(waiting, progress) if waiting else []
    failed = sum(record.status == "failed" for record in made)
    return Outcome(len(made), len(done), failed, keys, [*done.values(), *made])


def _run(cells: Sequence[ResolvedCell], progress: Progress) -> list[Record]:
    """Run the cells, and return their records."""
    from floe_bench.harness.run.cell import run_cell

    records = []
    start = time.perf_counter()
    with _libraries_frozen():
        for number, resolved in enumerate(cells, 1):
            progress.prefix = f"[{number}/{len(cells)}] {resolved.cell.label}"
            progress.update("starting" + _time_left(start, number - 1, len(cells)))
            records.append(run_cell(resolved))
            progress.say(_row(records[-1], number, len(cells)))
    progress.prefix = ""
    return records


@contextmanager
def _libraries_frozen() -> Iterator[None]:
    """Spare garbage collections the half a million objects of imported libraries, none of which is garbage.

    The trainer collects twice in each training, the measurement of peak memory once more, 0.3 s each. The 16 cells of
    `tiny` took 36 s of processor time without this, 14 s with it.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


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
    parts.append(f"{record.plan.trainable_parameters:,} trainable")
    seconds = record.training.seconds if record.training else 0.0
    parts.append(f"planning {record.planning_cost.seconds:.0f} s, training {seconds:.0f} s")
    return f"{head} {', '.join(parts)}"
