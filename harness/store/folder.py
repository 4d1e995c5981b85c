"""Read and write the stages and records of one results folder.

<results>/<profile>/stages/<kind>-<key>/   stage.json, arrays, items, adapter; done once stage.json is there
<results>/<profile>/records/<cell>-<key>.json
<results>/<profile>/tables/
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.inputs import Arrays
from floe_bench.harness.contracts.record import SCHEMA_VERSION, Record, Stage
from floe_bench.harness.errors import UsageError
from floe_bench.harness.files import atomic, digest, write_json
from floe_bench.harness.spec.base import Data
from floe_bench.harness.store.upgrade import upgraded

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T", bound=Data)


class Store:
    """Keep the results of one profile."""

    def __init__(self, results: Path, profile: str):
        self.folder = results / profile

    # --- stages ---

    def stage_folder(self, kind: str, identity: dict[str, Any]) -> Path:
        """Return the folder of the stage with that identity, done or not."""
        return self.folder / "stages" / f"{kind}-{digest(identity)}"

    def find(self, kind: str, identity: dict[str, Any]) -> Stage | None:
        """Return the finished stage with that identity, or None."""
        return self.stage(kind, digest(identity))

    def stage(self, kind: str, key: str) -> Stage | None:
        """Return the finished stage with that key, or None."""
        path = self.folder / "stages" / f"{kind}-{key}" / "stage.json"
        return _validated(Stage, path) if path.is_file() else None

    def keep(self, kind: str, identity: dict[str, Any], **content: Any) -> Stage:
        """Mark the stage done. Call this last, after everything else in its folder is written."""
        stage = Stage(kind=kind, key=digest(identity), identity=identity, **content)
        write_json(self.stage_folder(kind, identity) / "stage.json", stage.model_dump(mode="json"))
        return stage

    # --- records ---

    def record_path(self, cell: Cell, key: str) -> Path:
        name = re.sub(r"[^A-Za-z0-9_.=+-]", "-", f"{cell.mix}--{cell.method}--seed{cell.seed}")
        return self.folder / "records" / f"{name}--{key}.json"

    def record(self, cell: Cell, key: str) -> Record | None:
        """Return the cell's record under that key, or None."""
        path = self.record_path(cell, key)
        return read_record(path) if path.is_file() else None

    def found(self, keys: Mapping[Cell, str]) -> dict[Cell, Record | None]:
        """Return each cell's record under its key, or None."""
        return {cell: self.record(cell, key) for cell, key in keys.items()}

    def write(self, record: Record) -> None:
        write_json(self.record_path(record.cell, record.key), record.model_dump(mode="json"))

    def records(self) -> list[Record]:
        """Return every record of the profile, in the order of file names."""
        paths = (self.folder / "records").glob("[!.]*.json")  # the name of a half-written file starts with a dot
        return [read_record(path) for path in sorted(paths)]

    # --- access ---

    def ensure_writable(self) -> None:
        """Make the folder. Raises UsageError where it cannot be made or written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"results folder {self.folder}: cannot be made ({error.strerror})") from None
        if not os.access(self.folder, os.W_OK):
            raise UsageError(f"results folder {self.folder}: cannot be written; choose another with --results")

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Lock the folder against a second run. Raises UsageError where another run holds it."""
        from filelock import FileLock, Timeout

        self.ensure_writable()
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(
                f"another run is writing to {self.folder}: wait for it, or choose another folder with --results"
            ) from None
        try:
            yield
        finally:
            lock.release()


def read_record(path: Path) -> Record:
    """Read and validate a record. Raises UsageError for another schema version or a broken file."""
    return _validated(Record, path)


def _validated(kind: type[T], path: Path) -> T:
    try:
        return kind.model_validate(_read(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"{path}: {where}: {first['msg']}; remove the file and run again") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["schema_version"]
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: not a record of floe-bench; remove the file and run again") from None
    current = upgraded(content, SCHEMA_VERSION) if isinstance(found, int) else None
    if current is None:
        raise UsageError(
            f"{path}: schema version {found}, but this program reads version {SCHEMA_VERSION}: "
            "use the release that wrote it, or another folder with --results"
        )
    return current


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write named arrays as safetensors, atomically."""
    import numpy as np
    from safetensors.numpy import save_file

    # save_file keeps arrays in C order only.
    rows_first = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    with atomic(path) as temporary:
        save_file(rows_first, temporary)


def read_arrays(path: Path) -> Arrays:
    """Read named arrays."""
    from safetensors.numpy import load_file

    return load_file(path)


def write_items(path: Path, items: pd.DataFrame) -> None:
    """Write an evaluation's items as Parquet, one line each, atomically."""
    with atomic(path) as temporary:
        items.to_parquet(temporary, index=False)


def read_items(path: Path) -> pd.DataFrame:
    """Read an evaluation's items."""
    import pandas as pd

    return pd.read_parquet(path, use_threads=False)  # the files are small: threads cost more than they save
