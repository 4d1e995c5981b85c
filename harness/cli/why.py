"""`floe-bench why`: why a cell is done, or what has changed since it was."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from floe_bench.harness.cli.cell_names import MISSING, find_cell, listed
from floe_bench.harness.cli.grid import add_grid, resolve
from floe_bench.harness.cli.quiet import quiet_libraries
from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.files import digest
from floe_bench.harness.store.folder import Store


def add_arguments(sub: argparse.ArgumentParser) -> None:
    add_grid(sub)
    sub.add_argument("cell", metavar="CELL", help='part of its label, "dolly / lora / seed 0", or record file')


def command(options: argparse.Namespace) -> int:
    """Print the reason, and return 0."""
    grid = resolve(options)
    cell = find_cell(grid.cells, options.cell)
    quiet_libraries()
    from floe_bench.harness.run.resolved import resolve_cell
    from floe_bench.harness.run.session import Session

    print(why(grid.store, cell, resolve_cell(Session(grid.settings, grid.store), cell).identity))
    return 0


def why(store: Store, cell: Cell, identity: dict[str, Any]) -> str:
    """Whether the cell of that identity (`keys.cell_identity`, now) is done, and if not, what differs from its
    nearest record, component by component.
    """
    key = digest(identity)
    record = store.record(cell, key)
    if record is not None:
        name = store.record_path(cell, key).name
        if record.status == "failed":
            reason = (record.error or "").strip().splitlines()[-1:]
            return f"{cell.label}: failed, and tried again by the next run: {''.join(reason)} ({name})"
        return f"{cell.label}: done ({name})"
    others = [record for record in store.records() if record.cell == cell]
    if not others:
        return f"{cell.label}: to do: no run of it was ever recorded in {store.folder / 'records'}"
    gaps = {record.key: differences(record.identity, identity) for record in others}
    # Of equally near records the newest, as file names say nothing of age.
    nearest = max(others, key=lambda record: (-len(gaps[record.key]), record.provenance["time"]))
    name = store.record_path(cell, nearest.key).name
    if not gaps[nearest.key]:
        return f"{cell.label}: to do: a stage that {name} rests on is broken or gone"
    return f"{cell.label}: to do: {listed(gaps[nearest.key], '; ')} (since {name}, {nearest.status})"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What changed between two identities, one phrase each: settings and versions by value, code and data by name."""
    old, new = _flat(before), _flat(now)
    changed = [path for path in sorted(old.keys() | new.keys()) if old.get(path) != new.get(path)]
    phrases = [_phrase(path, old.get(path, MISSING), new.get(path, MISSING)) for path in changed]
    return list(dict.fromkeys(phrases))


def _phrase(path: tuple[str, ...], old: Any, new: Any) -> str:
    component, *rest = path
    name = ".".join(rest)
    if component in ("settings", "versions", "cell"):
        return f"{component}.{name} {_value(old)} -> {_value(new)}"
    if component in ("method", "mix"):
        return f"code of {name} {_changed(old, new)}"
    if component in ("evaluations", "other_methods"):
        return f"code of {rest[-1]} {_changed(old, new)}"
    if component == "engine":
        return f"code of {name or 'the engine'} {_changed(old, new)}"
    if component == "data":
        return f"rows of mix '{name}' {_changed(old, new)}"
    if component == "items":
        return f"items of evaluation '{name}' {_changed(old, new)}"
    if component == "text":
        return "plain text changed"
    return f"{'.'.join(path)} {_value(old)} -> {_value(new)}"


def _changed(old: Any, new: Any) -> str:
    return "is new" if old == MISSING else "is gone" if new == MISSING else "changed"


def _value(value: Any) -> str:
    return value if value == MISSING else json.dumps(value)


def _flat(values: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Path -> value; keys may hold dots, as module names do."""
    flat: dict[tuple[str, ...], Any] = {}
    for key, value in values.items():
        flat |= _flat(value, (*prefix, key)) if isinstance(value, Mapping) else {(*prefix, key): value}
    return flat
