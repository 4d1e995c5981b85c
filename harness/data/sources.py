"""Sources of raw rows: the hub, a local folder, or the rows embedded in the project."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from floe_bench.harness import registry
from floe_bench.harness.contracts.rows import Columns, Complaint, Row, RowSource
from floe_bench.harness.data import row_files
from floe_bench.harness.errors import UsageError, unknown
from floe_bench.harness.files import PACKAGE
from floe_bench.harness.spec.settings import DataSettings

EMBEDDED = PACKAGE / "tasks" / "data"


class _Mixes:
    """Read a mix by its name, the same way from every source."""

    def mix(self, name: str) -> Iterable[Row]:
        """Return the rows of a mix, read from this source."""
        return registry.find("mix", name).load().rows(self)


class FolderSource(_Mixes):
    """Files of rows in one folder (`data.row_files`)."""

    def __init__(self, folder: Path, kind: Literal["folder", "embedded"] = "folder"):
        self.kind: Literal["hub", "folder", "embedded", "teacher"] = kind
        self.folder = folder
        self.revisions: dict[str, str] = {}

    def read(
        self, file: str, hub: str, columns: Columns, complaint: Complaint | None = None, **_: Any
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows of the file.

        Raises:
            UsageError: a file or column is missing, or a row is broken. The message names file and line.
        """
        path = row_files.find(self.folder, file)
        rows = row_files.read(path, _types(columns))
        while True:  # a consumer's own ValueError is not the file's
            try:
                place, row = next(rows)
            except StopIteration:
                return
            except ValueError as error:
                raise UsageError(f"{path}, {error}") from None
            _check(row, columns, complaint, f"{path}, {place}")
            yield row


class HubSource(_Mixes):
    """Datasets of the Hugging Face hub. `revisions` keeps the commit of each one read."""

    kind: Literal["hub", "folder", "embedded", "teacher"] = "hub"

    def __init__(self, pinned: dict[str, str]):
        self.pinned = pinned
        self.revisions: dict[str, str] = {}

    def read(
        self, file: str, hub: str, columns: Columns, complaint: Complaint | None = None, **hub_options: Any
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows of the hub dataset `hub`. Raises UsageError where it cannot be read."""
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError

        revision = self._resolve(hub)
        options = {"split": "train", **hub_options}
        try:
            rows = load_dataset(hub, revision=revision, **options)
        except (OSError, ValueError, DatasetsError) as error:
            raise UsageError(f"the hub dataset {hub} cannot be read: {error}") from error
        for number, row in enumerate(rows, 1):
            _check(row, columns, complaint, f"hub dataset {hub}, row {number}")
            yield dict(row)

    def _resolve(self, hub: str) -> str:
        """Return the commit of the dataset's pinned or current revision. Raises UsageError where there is none."""
        from httpx2 import HTTPError
        from huggingface_hub import HfApi

        if hub not in self.revisions:
            try:
                info = HfApi().dataset_info(hub, revision=self.pinned.get(hub), timeout=30)
            except (HTTPError, OSError) as error:  # huggingface_hub raises both kinds
                raise UsageError(
                    f"the hub dataset {hub} cannot be reached: give a local folder with --data-dir, "
                    "or run the profile smoke, which needs no hub"
                ) from error
            if info.sha is None:
                raise UsageError(f"the hub names no commit for dataset {hub}: pin one with data.revisions")
            self.revisions[hub] = info.sha
        return self.revisions[hub]


def open_source(settings: DataSettings) -> RowSource:
    """Open the source of rows that the settings name. Raises UsageError where its folder is not given."""
    if settings.source == "embedded":
        return FolderSource(EMBEDDED, kind="embedded")
    if settings.source == "folder":
        if settings.path is None:
            raise UsageError("data.source is 'folder' but no folder is given: use --data-dir")
        return FolderSource(Path(settings.path))
    return HubSource(settings.revisions)


def _types(columns: Columns) -> Mapping[str, type]:
    return columns if isinstance(columns, Mapping) else dict.fromkeys(columns, str)


def _check(row: Any, columns: Columns, complaint: Complaint | None, place: str) -> None:
    """Raise UsageError unless the row is an object that has the columns, with values of their types.

    A truth value is no number.
    """
    if not isinstance(row, dict):
        raise UsageError(f"{place}: a JSON object was expected, not {type(row).__name__}")
    for column, expected in _types(columns).items():
        if column not in row:
            raise UsageError(
                f"{place}: {unknown('column', column, row)}".replace("unknown column", "there is no column")
            )
        if not isinstance(row[column], expected) or (isinstance(row[column], bool) and expected is not bool):
            found = "null" if row[column] is None else type(row[column]).__name__
            raise UsageError(f"{place}: column '{column}' is {found}; {expected.__name__} was expected")
    problem = complaint(row) if complaint else None
    if problem:
        raise UsageError(f"{place}: {problem}")
