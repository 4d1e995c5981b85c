"""Rows, and where they are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Columns = Sequence[str] | Mapping[str, type]
"""Columns of text, or columns with their types."""


@dataclass(frozen=True)
class Row:
    """One training or validation example; the loss counts the completion only."""

    prompt: str
    completion: str
    domain: str
    task: str = ""


class RowSource(Protocol):
    """Where raw rows are read: the hub, a local folder or the rows embedded in the project."""

    kind: Literal["hub", "folder", "embedded", "teacher"]
    revisions: dict[str, str]

    def read(self, file: str, hub: str, columns: Columns, **hub_options: Any) -> Iterable[dict[str, Any]]:
        """Raw rows of `<file>.jsonl[.gz]`, or of the hub dataset `hub` (options go to `load_dataset`).

        Every row has at least `columns`. Raises UsageError where the file or a column is missing.
        """
        ...

    def mix(self, name: str) -> Iterable[Row]:
        """The rows of another mix, from the same source."""
        ...
