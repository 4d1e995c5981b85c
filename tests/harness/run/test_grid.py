"""A grid's outcome: what was done, what is made now, and what the libraries cost a garbage collection meanwhile."""

import gc
import io
from typing import Any

import pytest
from rich.console import Console

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.run.grid import run_grid
from floe_bench.harness.run.progress import Progress
from floe_bench.harness.run.resolved import ResolvedCell
from floe_bench.harness.run.session import Session
from floe_bench.harness.spec import profiles
from floe_bench.harness.store.folder import Store

CELLS = [Cell(method="base", mix="dolly", seed=seed) for seed in range(3)]


@pytest.fixture
def session(tmp_path):
    settings = profiles.load("tiny", {"eval.evals": "validation_nll", "eval.primary": "validation_nll"})
    return Session(settings, Store(tmp_path, "tiny"))


@pytest.fixture
def progress():
    with Progress(Console(file=io.StringIO())) as progress:
        yield progress


@pytest.fixture
def frozen(monkeypatch):
    """In place of a cell's work: a record, the last seed's a failure. How many objects were frozen at each."""
    counts = []

    def run_cell(resolved: ResolvedCell) -> Record:
        counts.append(gc.get_freeze_count())
        status: dict[str, Any] = (
            {"status": "failed", "error": "Traceback\nValueError: no"} if resolved.cell.seed == 2 else {"status": "ok"}
        )
        made = Record(
            cell=resolved.cell, profile="tiny", key=resolved.key, identity=resolved.identity,
            settings=resolved.session.settings, provenance={"time": "2026-01-01"}, **status,
        )  # fmt: skip
        resolved.session.store.write(made)
        return made

    monkeypatch.setattr("floe_bench.harness.run.cell.run_cell", run_cell)
    return counts


def test_a_grid_returns_each_cells_record_whether_made_now_or_before(session, progress, frozen):
    first = run_grid(session, CELLS[:1], progress)
    assert (first.ran, first.skipped, first.failed) == (1, 0, 0)
    outcome = run_grid(session, CELLS, progress)
    assert (outcome.ran, outcome.skipped, outcome.failed) == (2, 1, 1)
    assert {record.cell for record in outcome.records} == set(CELLS) and set(outcome.keys) == set(CELLS)
    assert all(record.key == outcome.keys[record.cell] for record in outcome.records)
    again = run_grid(session, CELLS, progress)
    assert (again.ran, again.skipped, again.failed) == (1, 2, 1)


def test_libraries_are_out_of_garbage_collections_while_cells_run_only(session, progress, frozen):
    run_grid(session, CELLS, progress)
    assert min(frozen) > 100_000
    assert gc.get_freeze_count() == 0
