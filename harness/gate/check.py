"""Find, read, check and renew the expectations of the regression gate.

A run is the records under the cells' current keys. A record made by other code or settings says nothing of these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.errors import UsageError
from floe_bench.harness.files import checkout, read_json, unreadable, write_text
from floe_bench.harness.gate import expectation, text, verdicts
from floe_bench.harness.gate.expectation import EXPECTATION_VERSION, Expectation
from floe_bench.harness.gate.verdicts import Difference
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.store.folder import Store
from floe_bench.harness.store.results import StoredResults

FILE = "expected.json"


def expectation_file(store: Store, given: Path | None = None) -> Path:
    """Return the file given, or else the results folder's, or else the repository's.

    Raises UsageError where there is none.
    """
    profile = store.folder.name
    committed = root / "results" / profile / FILE if (root := checkout()) else None
    places = [given] if given else [store.folder / FILE, *([committed] if committed else [])]
    for path in places:
        if path.is_file():
            return path
    raise UsageError(
        f"there is no expectation {places[0]}: make one from a good run with `floe-bench check {profile} --update`"
    )


def read(path: Path) -> Expectation:
    """Read an expectation. Raises UsageError for a broken file and for another version of its form.

    Raises StorageError where it cannot be read.
    """
    try:
        content = read_json(path)
        version = content["expectation_version"]
        if version != EXPECTATION_VERSION:
            raise UsageError(f"{path}: version {version}, but this program reads {EXPECTATION_VERSION}: renew it")
        return Expectation.model_validate(content)
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, KeyError, TypeError) as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) if isinstance(error, ValidationError) else "not JSON"
        raise UsageError(f"{path}: no expectation of floe-bench ({where}): renew it with --update") from None


def check(store: Store, settings: Settings, keys: Mapping[Cell, str], path: Path) -> list[Difference]:
    """Hold every quantity of the run in `store` against the expectation in `path`, and give its verdict.

    keys: each cell's key now (the digest of `keys.cell_identity`). Only records under them count.
    All that is expected must be there, whatever cells are asked for. So a grid that lost a seed is a regression.
    Raises UsageError where no cell has such a record, or the expectation belongs to other settings.
    """
    expected = read(path)
    results, missing = _current(store, settings, keys)
    profile = store.folder.name
    if all(record is None for record in missing.values()) and not results.records:
        raise UsageError(
            f"{store.folder} holds no run with this code and these settings: `floe-bench run {profile}` makes one"
        )
    found = expectation.observe(profile, results)
    if changed := verdicts.differing_settings(expected, found):
        raise UsageError(
            f"{path} belongs to other settings ({'; '.join(changed[:4])}): run `floe-bench run {profile}` with those, "
            f"or renew it with `floe-bench check {profile} --update`"
        )
    reasons = {cell.label: _reason(record, profile) for cell, record in missing.items()}
    return verdicts.compare(expected, found, reasons, settings.study.confidence)


def update(store: Store, settings: Settings, keys: Mapping[Cell, str], path: Path) -> str:
    """Write the run as the new expectation, atomically. Return in Markdown what changed against the old one.

    Raises UsageError where a cell has no finished record under its key: later checks would not miss it.
    """
    profile = store.folder.name
    results, missing = _current(store, settings, keys)
    if missing:
        cell, record = next(iter(missing.items()))
        raise UsageError(
            f"{len(missing)} of {len(keys)} cells are not finished ({cell.label}: {_reason(record, profile)}): "
            f"`floe-bench run {profile}` first, an expectation holds whole runs only"
        )
    new = expectation.observe(profile, results)
    changes = _changes(path, new, settings.study.confidence)
    write_text(path, to_json(new))
    return changes


def _current(
    store: Store, settings: Settings, keys: Mapping[Cell, str]
) -> tuple[StoredResults, dict[Cell, Record | None]]:
    """Return the finished records under these keys, and each other cell with the record of its failure, if any."""
    records = store.found(keys)
    present = [record for record in records.values() if record]
    missing = {cell: record for cell, record in records.items() if record is None or record.status == "failed"}
    return StoredResults(store, settings, list(keys), keys, present), missing


def _reason(record: Record | None, profile: str) -> str:
    """Say why a cell has no finished record."""
    if record is None:
        return f"not run with this code and these settings: `floe-bench run {profile}`"
    return "it failed: " + (record.error or "").strip().rpartition("\n")[2]


def _changes(path: Path, new: Expectation, confidence: float) -> str:
    if not path.is_file():
        return f"## New expectation: {len(new.cells)} cells\n"
    old = read(path)
    if changed := verdicts.differing_settings(old, new):
        return "## New expectation, of other settings\n\n" + "\n".join(f"- {line}" for line in changed) + "\n"
    return text.to_markdown("new expectation against the old", verdicts.compare(old, new, confidence=confidence))


def to_json(content: Expectation) -> str:
    """Write JSON with one line per list, so that a change in one quantity is a change in one line."""
    return _lines(content.model_dump(mode="json"), "") + "\n"


def _lines(value: Any, indent: str) -> str:
    if not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    inner = indent + "  "
    entries = [f"{inner}{json.dumps(key, ensure_ascii=False)}: {_lines(item, inner)}" for key, item in value.items()]
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"
