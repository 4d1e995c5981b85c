"""Make the table of `floe-bench compare` from two results folders, or from two methods' names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from floe_bench.harness.contracts.record import Record
from floe_bench.harness.contracts.tables import Table
from floe_bench.harness.errors import UsageError, unknown
from floe_bench.harness.gate import compare
from floe_bench.harness.store.folder import Store
from floe_bench.harness.store.results import StoredResults


def runs(a: Path, b: Path) -> Table:
    """Compare run A with run B, cell by cell. Raises UsageError where they cannot be paired."""
    first, second = _results(a), _results(b)
    profiles = [_profile(results) for results in (first, second)]
    if profiles[0] != profiles[1]:
        raise UsageError(f"{a} is a run of profile '{profiles[0]}', but {b} of '{profiles[1]}': give two of one")
    return _table(compare.of_run(str(a), first), compare.of_run(str(b), second))


def methods(folder: Path, names: str) -> Table:
    """Compare method X with method Y of one run. `names` is "X,Y".

    Raises UsageError where they cannot be paired.
    """
    results = _results(folder)
    known = {record.cell.method for record in results.records}
    asked = [name for name in names.split(",") if name]
    if len(asked) != 2 or asked[0] == asked[1]:
        raise UsageError(f"--methods {names}: two different methods were expected, as X,Y")
    for name in asked:
        if name not in known:
            raise unknown(f"method in {folder}:", name, known)
    return _table(*(compare.of_method(name, results) for name in asked))


def _table(a: compare.Side, b: compare.Side) -> Table:
    try:
        table = compare.table(a, b, a.results.settings.study.confidence)
    except ValueError as error:
        raise UsageError(str(error)) from error
    sides = {id(side.results): side.results for side in (a, b)}.values()  # two methods are of one
    lost = sum(len(results.cells) - len(results.records) for results in sides)
    note = f"{lost} recorded cells are left out: failed, or of older settings, code or data."
    return replace(table, notes=[*table.notes, note]) if lost else table


def _results(folder: Path) -> StoredResults:
    """Return the newest run in a folder.

    It holds all cells recorded under the newest record's settings, and those that vary them.
    """
    store = Store(folder.parent, folder.name)
    records = store.records()
    if not records:
        raise UsageError(f"{folder} holds no records/*.json: give a folder such as results/smoke")
    cells = list(dict.fromkeys(record.cell for record in records))
    return StoredResults(store, _unvaried(records).settings, cells, records=records)


def _unvaried(records: list[Record]) -> Record:
    """Return the newest record of a cell that varies nothing, or else the newest of all."""
    plain = [record for record in records if not record.cell.varied]
    return max(plain or records, key=lambda record: record.provenance["time"])


def _profile(results: StoredResults) -> str | None:
    return results.records[0].profile if results.records else None
