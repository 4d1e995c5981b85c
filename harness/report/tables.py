"""Write tables as Markdown, CSV, LaTeX and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from floe_bench.harness.contracts.tables import Table
from floe_bench.harness.files import write_json, write_text

DIGITS = 10
"""Significant digits in CSV and JSON. Further ones differ from machine to machine; the records keep them."""

SUFFIXES = (".md", ".csv", ".tex", ".json")


View = Mapping[str, str | tuple[Any, ...] | Callable[[pd.DataFrame], Iterable[Any]]]
"""Header -> how its column is made of a frame: its name; names, then a format of their values; or a function."""


def view(frame: pd.DataFrame, columns: View) -> pd.DataFrame:
    """Return the columns as text for people. A frame without rows stays as it is."""
    if frame.empty:
        return frame
    return pd.DataFrame({header: _column(frame, column) for header, column in columns.items()})


def _column(frame: pd.DataFrame, column: Any) -> Iterable[Any]:
    if isinstance(column, str):
        return frame[column]
    if not isinstance(column, tuple):
        return column(frame)
    *names, text = column
    if len(names) == 1:
        return frame[names[0]].map(text)
    return [text(*values) for values in zip(*(frame[name] for name in names), strict=True)]


def write(tables: Sequence[Table], folder: Path) -> str:
    """Write `<id>.{md,csv,tex,json}` of each table, each file whole or not at all. Return all Markdown."""
    return "\n".join(_write(table, folder) for table in tables)


def keep_only(tables: Sequence[Table], folder: Path) -> None:
    """Remove the files of other tables, which an earlier report left."""
    ids = {table.id for table in tables}
    for path in folder.glob("*.*"):
        if path.suffix in SUFFIXES and path.stem not in ids:
            path.unlink()


def _write(table: Table, folder: Path) -> str:
    markdown = to_markdown(table.title, table.view, table.notes)
    frame = table.frame.map(_rounded)
    write_text(folder / f"{table.id}.md", markdown)
    write_text(folder / f"{table.id}.csv", frame.to_csv(index=False, lineterminator="\n", float_format=f"%.{DIGITS}g"))
    write_text(folder / f"{table.id}.tex", to_latex(table.title, table.view, table.notes))
    rows = json.loads(str(frame.to_json(orient="records", double_precision=15))) if len(frame) else []
    write_json(
        folder / f"{table.id}.json",
        {"title": table.title, "notes": list(table.notes), "records": list(table.records), "rows": rows},
    )
    return markdown


def to_markdown(title: str, view: pd.DataFrame, notes: Sequence[str]) -> str:
    """Return heading, pipe table and notes. A | in an entry or a column's name is escaped."""
    rows = [[_escape_pipe(entry) for entry in row] for row in view.values.tolist()]
    headers = [_escape_pipe(name) for name in view.columns]
    body = tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True)
    return "\n\n".join([f"## {title}", body or "No finished cells.", *notes]) + "\n"


def _rounded(value: Any) -> Any:
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _escape_pipe(entry: Any) -> Any:
    return entry.replace("|", r"\|") if isinstance(entry, str) else entry


def to_latex(title: str, view: pd.DataFrame, notes: Sequence[str]) -> str:
    """Return a booktabs table with a caption. Special characters are escaped."""
    body = tabulate(view.values.tolist(), headers=list(view.columns), tablefmt="latex_booktabs", disable_numparse=True)
    caption = " ".join([f"{title}.", *notes])
    for special in "&%$#_":
        caption = caption.replace(special, f"\\{special}")
    lines = ["\\begin{table}", f"\\caption{{{caption}}}", body, "\\end{table}"]
    return "\n".join(lines).replace("±", "$\\pm$").replace("–", "--") + "\n"
