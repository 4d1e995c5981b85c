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
from floe_bench.harness.hub import snapshot
from floe_bench.harness.spec.settings import DataSettings

EMBEDDED = PACKAGE / "tasks" / "data"
CARD = "README.md"
"""Says which files of a hub dataset hold which configuration and split."""


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
        """Yield the rows of the hub dataset `hub`. Raises UsageError where it cannot be fetched or read."""
        from datasets.exceptions import DatasetsError
        from yaml import YAMLError

        try:
            for number, row in enumerate(self._rows(hub, **hub_options), 1):
                _check(row, columns, complaint, f"hub dataset {hub}, row {number}")
                yield dict(row)
        except (OSError, ValueError, DatasetsError, YAMLError) as error:
            raise UsageError(f"the hub dataset {hub} cannot be read: {str(error).strip().splitlines()[0]}") from error

    def _rows(
        self, hub: str, name: str | None = None, split: str = "train", data_files: list[str] | None = None
    ) -> Iterable[Any]:
        """Fetch the files of a split, then read them from the hub's cache.

        `load_dataset` is not left to fetch them: where the hub keeps silent, it reads any commit that it read before.

        Args:
            name: a configuration of the dataset's card.
            data_files: read these, and not those that the card names.
        """
        from datasets import load_dataset

        if hub not in self.revisions:
            self.revisions[hub] = snapshot("dataset", hub, self.pinned.get(hub), [CARD]).name
        commit = self.revisions[hub]
        wanted = data_files or _card_files(snapshot("dataset", hub, commit, [CARD]) / CARD, name, split)
        folder = snapshot("dataset", hub, commit, wanted)
        return load_dataset(str(folder), name, data_files=wanted and {split: wanted}, split=split, streaming=True)


def _card_files(card: Path, name: str | None, split: str) -> list[str] | None:
    """Return the files of a configuration's split, as a dataset's card names them. None stands for all files.

    Raises UsageError where the card has other configurations or splits.
    """
    from datasets.data_files import sanitize_patterns
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCard, DatasetCardData

    if not card.is_file():
        return None
    configs = MetadataConfigs.from_dataset_card_data(DatasetCardData(**DatasetCard.load(card).data.to_dict()))
    if not configs:
        return None
    wanted = name or configs.get_default_config_name() or ""
    if wanted not in configs:
        raise unknown("configuration", wanted, configs)
    if "data_files" not in configs[wanted]:
        return None
    files = sanitize_patterns(configs[wanted]["data_files"])
    if split not in files:
        raise unknown("split", split, files)
    return list(files[split])


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
