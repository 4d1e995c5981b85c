"""Read and write the stages and records of one results folder.

<results>/<profile>/stages/<kind>-<key>/   stage.json, arrays, items, adapter; done once stage.json is there
<results>/<profile>/records/<cell>-<key>.json
<results>/<profile>/tables/

What is broken is said once and counts as not done. The run that holds the folder's lock sets it aside, as
<name>.broken, and makes it again. Nothing else changes or deletes it.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.inputs import Arrays
from floe_bench.harness.contracts.record import Record, Stage
from floe_bench.harness.errors import StorageError, UsageError, on_one_line
from floe_bench.harness.files import ASIDE, differing, digest, set_aside, unreadable, write_bytes, writing
from floe_bench.harness.store.sealed import Broken, read_sealed, require_file, write_sealed

if TYPE_CHECKING:
    import pandas as pd

STAGE_FILE = "stage.json"
ARRAYS, ITEMS = "arrays.safetensors", "items.parquet"
STAGE_NAME = re.compile(r"[a-z_]+-[0-9a-f]{16}")
WEIGHTS = "adapter"
"""The folder of a stage that a copy of the results may leave out. Its files are trained again when they are needed."""
LONGEST_NAME = 200
"""Characters of a record's name before its key. File systems allow 255 bytes in all."""
ROOM = 64 * 1024
"""Bytes that must fit into a folder before a run spends anything."""


def to_stderr(text: str) -> None:
    """Print a line for people."""
    print(f"floe-bench: {on_one_line(text)}", file=sys.stderr)


class Store:
    """Keep the results of one profile.

    say: takes a line about what is broken. No line is said twice.
    """

    def __init__(self, results: Path, profile: str, say: Callable[[str], None] = to_stderr):
        self.folder = results / profile
        self._tell = say
        self._said: set[str] = set()
        self._whole: set[str] = set()
        self._running = False

    # --- stages ---

    def stage_folder(self, kind: str, identity: dict[str, Any]) -> Path:
        """Return the folder of the stage with that identity, done or not."""
        return self._folder_of(f"{kind}-{digest(identity)}")

    def find(self, kind: str, identity: dict[str, Any], weights: bool = False) -> Stage | None:
        """Return the finished stage with that identity, or None. weights: only if it still has its weights."""
        return self.stage(f"{kind}-{digest(identity)}", weights)

    def stage(self, name: str, weights: bool = False) -> Stage | None:
        """Return the finished stage of that name, or None. A stage that is broken is said to be so."""
        folder = self._folder_of(name)
        if not os.path.lexists(folder) or (folder.is_dir() and not os.path.lexists(folder / STAGE_FILE)):
            return None
        try:
            return self._read_stage(folder, weights)
        except Broken as error:
            self._broken(folder, error)
            return None

    def keep(
        self, kind: str, identity: dict[str, Any], files: Mapping[str, str] | None = None, **content: Any
    ) -> Stage:
        """Mark the stage done. Call this last, after everything else in its folder is written.

        files: path within the stage's folder -> sha256, of every file of it.
        """
        stage = Stage(kind=kind, key=digest(identity), identity=identity, files=dict(files or {}), **content)
        self.write_stage(stage)
        return stage

    def write_stage(self, stage: Stage) -> None:
        self._whole.discard(stage.folder)
        write_sealed(self._folder_of(stage.folder) / STAGE_FILE, stage)

    def arrays(self, stage: Stage) -> Arrays:
        """Return the arrays that a measure kept."""
        return read_arrays(self._folder_of(stage.folder) / ARRAYS)

    def _folder_of(self, name: str) -> Path:
        return self.folder / "stages" / name

    def _read_stage(self, folder: Path, weights: bool = False) -> Stage | None:
        """Return the stage in the folder. None where its weights are asked for and were left out. Raises Broken."""
        try:
            stage = read_sealed(Stage, folder / STAGE_FILE)
        except Broken as error:
            raise Broken(f"its {STAGE_FILE} {error}") from None
        if stage.folder != folder.name:
            raise Broken(f"it holds the stage {stage.folder}")
        if folder.name not in self._whole:
            _check_files(folder, stage)
            self._whole.add(folder.name)
        if weights:
            kept = [file for file in stage.files or () if file.startswith(f"{WEIGHTS}/")]
            if not kept or not (folder / WEIGHTS).exists():
                return None
            _check_digests(folder, {file: (stage.files or {})[file] for file in kept})
        return stage

    # --- records ---

    def record_path(self, cell: Cell, key: str) -> Path:
        name = re.sub(r"[^A-Za-z0-9_.=+-]", "-", f"{cell.mix}--{cell.method}--seed{cell.seed}")
        return self.folder / "records" / f"{name[:LONGEST_NAME]}--{key}.json"

    def record(self, cell: Cell, key: str) -> Record | None:
        """Return the cell's record under that key where it and all stages that it rests on are whole, or None."""
        path = self.record_path(cell, key)
        if not os.path.lexists(path):
            return None
        record = self._read_record(path)
        return record if record and self.rests_on_whole(record) else None

    def found(self, keys: Mapping[Cell, str]) -> dict[Cell, Record | None]:
        """Return each cell's record under its key, or None."""
        found = {cell: self.record(cell, key) for cell, key in keys.items()}
        self._mention_strangers()
        return found

    def write(self, record: Record) -> None:
        write_sealed(self.record_path(record.cell, record.key), record)

    def records(self) -> list[Record]:
        """Return every whole record of the profile, in the order of file names."""
        self._mention_strangers()
        found = (self._read_record(path) for path in _paths_in(self.folder / "records") if _may_be_record(path))
        return [record for record in found if record]

    def rests_on_whole(self, record: Record) -> bool:
        """Tell whether all stages that the record rests on are whole. Say which are not."""
        broken = False
        for name in record.stages.all:
            if name in self._whole:
                continue
            if not os.path.lexists(self._folder_of(name) / STAGE_FILE):
                self._say(f"{self._folder_of(name)} is gone: what rests on it counts as not run")
                broken = True
            elif self.stage(name) is None:
                broken = True
        return not broken

    def _read_record(self, path: Path) -> Record | None:
        try:
            return self._checked_record(path)
        except Broken as error:
            self._broken(path, error)
            return None

    def _checked_record(self, path: Path) -> Record:
        record = read_sealed(Record, path)
        if path.name != self.record_path(record.cell, record.key).name:
            raise Broken(f"holds the record of {record.cell.label} under key {record.key}, which is another name")
        return record

    # --- what is broken ---

    def set_aside(self, path: Path, reason: str) -> None:
        """Give what is broken a name that no reader takes, and say so."""
        aside = set_aside(path)
        self._say(f"{path}: {reason}; set aside as {aside.name}, and made again")

    def _broken(self, path: Path, error: Broken) -> None:
        """Say what is broken. Set it aside where this process holds the lock."""
        if self._running:
            self.set_aside(path, str(error))
        else:
            self._say(f"{path}: {error}; it counts as not run, and the next run that needs it makes it again")

    def _mention_strangers(self) -> None:
        """Say what lies among records and stages and is neither, one line for each folder."""
        for part, known in (("records", _may_be_record), ("stages", _may_be_stage)):
            strangers = [path.name for path in _paths_in(self.folder / part) if not known(path)]
            if strangers:
                self._say(f"{self.folder / part}: ignored, as none of the {part}: {', '.join(strangers)}")

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._tell(text)

    # --- access ---

    def ensure_writable(self) -> None:
        """Make the folder, and try to write.

        Raises UsageError where something else has the folder's name, StorageError where the disk refuses.
        """
        try:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                for part in ("", "records", "stages", "tables"):
                    if os.path.lexists(self.folder / part):
                        _try_to_write(self.folder / part)
        except StorageError as error:
            if isinstance(error.__cause__, (FileExistsError, NotADirectoryError)):
                raise UsageError(
                    f"results folder {self.folder}: cannot be made ({error.__cause__.strerror}); "
                    "choose another with --results"
                ) from None
            raise

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Lock the folder against a second run. Within the block, what is broken is set aside.

        Raises UsageError where another run holds it, StorageError where the disk refuses.
        """
        from filelock import FileLock, Timeout

        self.ensure_writable()
        lock = FileLock(self.folder / ".lock")
        with writing(self.folder / ".lock"):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise UsageError(
                    f"another run is writing to {self.folder}: wait for it, or choose another folder with --results"
                ) from None
        self._running = True
        try:
            yield
        finally:
            self._running = False
            lock.release()


def _paths_in(folder: Path) -> list[Path]:
    """Return what lies in a folder, sorted; nothing where there is no folder. Raises StorageError.

    Left out are hidden files, as half-written ones are, and what was set aside.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and ASIDE not in path.name)
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise UsageError(f"results folder {folder.parent}: {folder} is in no folder, but in a file") from None
    except OSError as error:
        raise unreadable(folder, error) from error


def _may_be_record(path: Path) -> bool:
    return path.suffix == ".json" and not path.is_dir()


def _may_be_stage(path: Path) -> bool:
    return STAGE_NAME.fullmatch(path.name) is not None


def _try_to_write(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(bytes(ROOM))


# --- the files of stages ----------------------------------------------------------------------------


def _check_files(folder: Path, stage: Stage) -> None:
    """Raise Broken where a file of the stage, weights aside, is not as it was written."""
    if stage.files is None:
        _check_readable(folder, stage.kind)
    else:
        _check_digests(folder, {n: sha for n, sha in stage.files.items() if not n.startswith(f"{WEIGHTS}/")})


def _check_digests(folder: Path, files: Mapping[str, str]) -> None:
    """Raise Broken where a file is not the one of its sha256."""
    fault = differing(folder, files)
    if fault:
        raise Broken(fault)


def _check_readable(folder: Path, kind: str) -> None:
    """Raise Broken where a stage of before manifests lacks its file, or has one that cannot be read."""
    from safetensors import SafetensorError

    readers: dict[str, tuple[str, Callable[[Path], Any]]] = {
        "measure": (ARRAYS, read_arrays),
        "evaluation": (ITEMS, read_items),
    }
    if kind not in readers:
        return
    name, read = readers[kind]
    try:
        require_file(folder / name)
        read(folder / name)
    except Broken as error:
        raise Broken(f"its {name} {error}") from None
    except (OSError, ValueError, SafetensorError) as error:
        raise Broken(f"its {name} cannot be read ({error})") from None


def write_arrays(path: Path, arrays: Arrays) -> dict[str, str]:
    """Write named arrays as safetensors, atomically. Return the file's entry in its stage's manifest."""
    import numpy as np
    from safetensors.numpy import save

    # save keeps arrays in C order only.
    rows_first = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return {path.name: write_bytes(path, save(rows_first))}


def read_arrays(path: Path) -> Arrays:
    """Read named arrays."""
    from safetensors.numpy import load_file

    return load_file(path)


def write_items(path: Path, items: pd.DataFrame) -> dict[str, str]:
    """Write an evaluation's items as Parquet, one line each, atomically. Return the file's entry in the manifest."""
    content = BytesIO()
    items.to_parquet(content, index=False)
    return {path.name: write_bytes(path, content.getvalue())}


def read_items(path: Path) -> pd.DataFrame:
    """Read an evaluation's items."""
    import pandas as pd

    return pd.read_parquet(path, use_threads=False)  # the files are small: threads cost more than they save
