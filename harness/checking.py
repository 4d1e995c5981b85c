"""The regression gate over a results folder: where expectations lie, how they are read, checked and renewed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness import registry
from harness.contracts import Cell
from harness.errors import UsageError
from harness.files import write_text
from harness.report import gate, gate_text
from harness.report.gate import EXPECTATION_VERSION, Expectation, Finding
from harness.results import StoredResults
from harness.settings import Settings
from harness.store import Store

FILE = "expected.json"


def expectation_file(store: Store, given: Path | None = None) -> Path:
    """The file given, or the results folder's, or else the repository's. Raises UsageError where there is none."""
    profile = store.folder.name
    places = [given] if given else [store.folder / FILE, registry.ROOT / "results" / profile / FILE]
    for path in places:
        if path.is_file():
            return path
    raise UsageError(
        f"there is no expectation {places[0]}: make one from a good run with `floe-bench check {profile} --update`"
    )


def read(path: Path) -> Expectation:
    """Read an expectation. Raises UsageError for a broken file and for another version of its form."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["expectation_version"]
        if version != EXPECTATION_VERSION:
            raise UsageError(f"{path}: version {version}, but this program reads {EXPECTATION_VERSION}: renew it")
        return Expectation.model_validate(content)
    except (ValueError, KeyError, TypeError) as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) if isinstance(error, ValidationError) else "not JSON"
        raise UsageError(f"{path}: no expectation of floe-bench ({where}): renew it with --update") from None


def check(store: Store, settings: Settings, cells: Sequence[Cell], path: Path) -> list[Finding]:
    """Every quantity of the run in `store` against the expectation in `path`, with its verdict.

    All that is expected must be there, whatever cells are asked for: a grid that lost a seed is a regression.
    Raises UsageError where there is no run under these settings, or the expectation belongs to others.
    """
    expected = read(path)
    failures = _failures(store, cells)
    results = StoredResults(store, settings, cells)
    profile = store.folder.name
    if not results.records and not failures:
        raise UsageError(f"{store.folder} holds no run under these settings: `floe-bench run {profile}` makes one")
    found = gate.observe(profile, results)
    if changed := gate.differing_settings(expected, found):
        raise UsageError(
            f"{path} belongs to other settings ({'; '.join(changed[:4])}): run `floe-bench run {profile}` with those, "
            f"or renew it with `floe-bench check {profile} --update`"
        )
    return gate.compare(expected, found, failures, settings.study.confidence)


def update(store: Store, settings: Settings, cells: Sequence[Cell], path: Path) -> str:
    """Write the run as the new expectation, atomically; returns in Markdown what changed against the old one.

    Raises UsageError where a cell is not finished: what is missing would not be missed by later checks.
    """
    profile = store.folder.name
    results = StoredResults(store, settings, cells)
    missing = [cell.label for cell in cells if results.find(cell) is None]
    if missing:
        raise UsageError(
            f"{len(missing)} of {len(cells)} cells are not finished ({missing[0]}, ...): `floe-bench run {profile}` "
            "first, an expectation holds whole runs only"
        )
    new = gate.observe(profile, results)
    changes = _changes(path, new, settings.study.confidence)
    write_text(path, to_json(new))
    return changes


def _changes(path: Path, new: Expectation, confidence: float) -> str:
    if not path.is_file():
        return f"## New expectation: {len(new.cells)} cells\n"
    old = read(path)
    if changed := gate.differing_settings(old, new):
        return "## New expectation, of other settings\n\n" + "\n".join(f"- {line}" for line in changed) + "\n"
    return gate_text.to_markdown("new expectation against the old", gate.compare(old, new, confidence=confidence))


def to_json(expectation: Expectation) -> str:
    """JSON with one line per list, so that a change in one quantity is a change in one line."""
    return _lines(expectation.model_dump(mode="json"), "") + "\n"


def _lines(value: Any, indent: str) -> str:
    if not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    inner = indent + "  "
    entries = [f"{inner}{json.dumps(key, ensure_ascii=False)}: {_lines(item, inner)}" for key, item in value.items()]
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"


def _failures(store: Store, cells: Sequence[Cell]) -> dict[str, str]:
    """Label -> the error's last line, of the cells whose newest record failed."""
    newest = {record.cell: record for record in sorted(store.records(), key=lambda r: r.provenance["time"])}
    return {
        cell.label: (newest[cell].error or "").strip().rpartition("\n")[2]
        for cell in cells
        if cell in newest and newest[cell].status == "failed"
    }
