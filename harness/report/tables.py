"""A table in Markdown, CSV, LaTeX and JSON, written from records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from tabulate import tabulate

from harness.contracts import Cell, Record
from harness.files import write_json, write_text
from harness.identity import result_settings
from harness.settings import Settings


def matching(
    records: Sequence[Record], settings: Settings, cells: Sequence[Cell], keys: Mapping[Cell, str] | None = None
) -> list[Record]:
    """The finished records of these cells, in their order, that may stand in one table.

    With `keys` (a run knows them) exactly those. Without, the records under these settings that share the
    newest one's model, data, code and library versions; of several of one cell the newest.
    """
    wanted = result_settings(settings)
    candidates = [
        record
        for record in sorted(records, key=lambda record: record.provenance["time"])
        if record.cell in cells and (record.key == keys.get(record.cell) if keys else _same(record, wanted))
    ]
    if not keys and candidates:
        newest = _world(candidates[-1])
        candidates = [record for record in candidates if _world(record) == newest]
    chosen = {record.cell: record for record in candidates}
    return [chosen[cell] for cell in cells if cell in chosen and chosen[cell].status == "ok"]


def _same(record: Record, wanted: dict[str, Any]) -> bool:
    return result_settings(record.settings) == wanted


def _world(record: Record) -> dict[str, Any]:
    """What cells of one table must share; methods, mixes and seeds differ by design."""
    return {key: record.identity.get(key) for key in ("model", "text", "items", "engine", "evaluations", "versions")}


def write(experiment: ModuleType, records: Sequence[Record], settings: Settings, folder: Path) -> str:
    """Write `<experiment>.{md,csv,tex,json}`, each whole or not at all; returns the Markdown."""
    frame = experiment.table(records, settings)
    view = experiment.view(frame)
    notes = experiment.notes(records, settings)
    name = experiment.__name__.rpartition(".")[2]
    markdown = to_markdown(experiment.TITLE, view, notes)
    write_text(folder / f"{name}.md", markdown)
    write_text(folder / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n"))
    write_text(folder / f"{name}.tex", to_latex(experiment.TITLE, view, notes))
    rows = json.loads(frame.to_json(orient="records")) if len(frame) else []
    write_json(folder / f"{name}.json", {"title": experiment.TITLE, "notes": notes, "rows": rows})
    return markdown


def to_markdown(title: str, view: pd.DataFrame, notes: Sequence[str]) -> str:
    """A heading, the table as a pipe table, and the notes."""
    body = tabulate(view.values.tolist(), headers=list(view.columns), tablefmt="pipe", disable_numparse=True)
    return "\n\n".join([f"## {title}", body or "No finished cells.", *notes]) + "\n"


def to_latex(title: str, view: pd.DataFrame, notes: Sequence[str]) -> str:
    """A booktabs table with caption; special characters are escaped."""
    body = tabulate(view.values.tolist(), headers=list(view.columns), tablefmt="latex_booktabs", disable_numparse=True)
    caption = " ".join([f"{title}.", *notes])
    for special in "&%$#_":
        caption = caption.replace(special, f"\\{special}")
    lines = ["\\begin{table}", f"\\caption{{{caption}}}", body, "\\end{table}"]
    return "\n".join(lines).replace("±", "$\\pm$").replace("–", "--") + "\n"
