"""Define rows, and the sources that they are read from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Columns = Sequence[str] | Mapping[str, type]
"""Columns of text, or columns with their types."""

Complaint = Callable[[dict[str, Any]], str | None]
"""Says what is wrong with a row, if anything. The source adds where the row is."""


@dataclass(frozen=True)
class Row:
    """Hold one training or validation example. The loss counts the completion only.

    prompt: None for plain text, which has no template. An empty prompt is a turn in which nothing is said.
    """

    prompt: str | None
    completion: str
    domain: str
    task: str = ""


class RowSource(Protocol):
    """Read raw rows: from the hub, a local folder, the rows embedded in the project, or a teacher."""

    kind: Literal["hub", "folder", "embedded", "teacher"]
    revisions: dict[str, str]

    def read(
        self, file: str, hub: str, columns: Columns, complaint: Complaint | None = None, **hub_options: Any
    ) -> Iterable[dict[str, Any]]:
        """Return raw rows of `<file>.jsonl` or another format of `data.row_files`, or of the hub dataset `hub`.

        Every row has at least `columns`, and no complaint. `hub_options`: `name`, `split` and `data_files`, as
        `load_dataset` takes them. Raises UsageError where the file or a column is missing, or a row is broken.
        """
        ...

    def mix(self, name: str) -> Iterable[Row]:
        """Return the rows of another mix, from the same source."""
        ...
