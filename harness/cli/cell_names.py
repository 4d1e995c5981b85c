"""Which record or cell the words of a command line mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.errors import UsageError, unknown
from floe_bench.harness.store.folder import Store

MISSING = "(none)"
"""Printed where there is no value."""
SHOWN = 6
"""Parts that one message names; more are counted."""


def find_record(store: Store, text: str) -> Record:
    """The record that `text` names: any part of its file name or label; of one cell's several the newest.

    Raises UsageError where no record, or those of several cells, match.
    """
    records = {store.record_path(record.cell, record.key).stem: record for record in store.records()}
    if not records:
        raise UsageError(f"{store.folder / 'records'} holds no record: run the profile first")
    named = {f"{record.cell.label}\n{stem}": record for stem, record in records.items()}
    found = _matching(text, named)
    if not found:
        raise unknown("cell", text, {record.cell.label for record in records.values()})
    _refuse_several(text, [record.cell for record in found])
    return max(found, key=lambda record: record.provenance["time"])


def find_cell(cells: Sequence[Cell], text: str) -> Cell:
    """The cell of a grid whose label contains `text`. Raises UsageError where none or several do."""
    found = _matching(text, {cell.label: cell for cell in cells})
    if not found:
        raise unknown("cell", text, {cell.label for cell in cells})
    _refuse_several(text, found)
    return found[0]


def _matching(text: str, named: Mapping[str, Any]) -> list[Any]:
    """Those with a line that is `text`, or else those that contain it; case does not count."""
    wanted = text.casefold().strip()
    whole = [value for name, value in named.items() if wanted in name.casefold().split("\n")]
    return whole or [value for name, value in named.items() if wanted in name.casefold()]


def _refuse_several(text: str, cells: Sequence[Cell]) -> None:
    labels = sorted({cell.label for cell in cells})
    if len(labels) > 1:
        raise UsageError(f"'{text}' may mean {len(labels)} cells: {listed(labels, ' or ')}; write more of it")


def listed(parts: Sequence[str], between: str) -> str:
    """Join the first parts, and count the others."""
    more = len(parts) - SHOWN
    return between.join(parts[:SHOWN]) + (f" and {more} more" if more > 0 else "")
