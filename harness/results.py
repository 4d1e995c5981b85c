"""What an experiment makes its tables from (`contracts.Results`), read from a results folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness import profiles
from harness.contracts import Arrays, Cell, Record, Stage
from harness.errors import UsageError, unknown
from harness.identity import result_settings
from harness.settings import Settings
from harness.store import Store, read_arrays, read_items

if TYPE_CHECKING:
    import pandas as pd

OF_ALL = ("engine", "versions")
OF_ONE_WORLD = ("model", "text", "items", "evaluations")
"""What cells of one table must share: always, and where they vary none of the settings that it follows from."""
WORLD = ("model", "data", "eval")
"""Sections of those settings."""


class StoredResults:
    """The finished records of an experiment's cells, and what their stages kept."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        cells: Sequence[Cell],
        keys: Mapping[Cell, str] | None = None,
        records: Sequence[Record] | None = None,
    ):
        self.store = store
        self.settings = settings
        self.cells = cells
        self.records = matching(store.records() if records is None else records, settings, cells, keys)
        self._by_cell = {record.cell: record for record in self.records}

    def find(self, cell: Cell) -> Record | None:
        return self._by_cell.get(cell)

    def stages(self, record: Record) -> list[Stage]:
        return [self._stage(name) for name in record.stages["planning"]]

    def arrays(self, record: Record, scorer: str, **parameters: Any) -> Arrays | None:
        found = [
            stage
            for stage in self.stages(record)
            if stage.kind == "measure"
            and stage.identity["scorer"].rpartition(".")[2] == scorer
            and parameters.items() <= stage.identity.get("parameters", {}).items()
        ]
        if len(found) > 1:
            raise ValueError(f"{record.cell.label} used {len(found)} measures of {scorer}: name its parameters")
        if not found:
            return None
        return read_arrays(self._file(f"measure-{found[0].key}", "arrays.safetensors"))

    def items(self, record: Record, evaluation: str) -> pd.DataFrame:
        if evaluation not in record.scores:
            raise unknown(f"evaluation of {record.cell.label}:", evaluation, record.scores)
        return read_items(self._file(str(record.stages[f"evaluation:{evaluation}"]), "items.parquet"))

    def _stage(self, name: str) -> Stage:
        kind, _, key = name.rpartition("-")
        stage = self.store.stage(kind, key)
        if stage is None:
            raise UsageError(f"{self.store.folder}: stage {name} is gone, but a record names it: run again")
        return stage

    def _file(self, stage: str, name: str) -> Any:
        path = self.store.folder / "stages" / stage / name
        if not path.is_file():
            raise UsageError(f"{path} is gone, but a record names it: run again")
        return path


def matching(
    records: Sequence[Record], settings: Settings, cells: Sequence[Cell], keys: Mapping[Cell, str] | None = None
) -> list[Record]:
    """The finished records of these cells, in their order, that may stand in one table.

    With `keys` (a run knows them) exactly those. Without, the records under these settings that share the
    newest one's model, data, code and library versions; of several of one cell the newest.
    """
    asked = set(cells)
    candidates = [record for record in records if record.cell in asked]
    if keys:
        candidates = [record for record in candidates if record.key == keys.get(record.cell)]
    else:
        wanted = {
            varied: result_settings(profiles.vary(settings, dict(varied)))
            for varied in {record.cell.varied for record in candidates}
        }
        candidates = [record for record in candidates if result_settings(record.settings) == wanted[record.cell.varied]]
        candidates = _of_newest(candidates)
    chosen: dict[Cell, Record] = {}
    for record in sorted(candidates, key=lambda record: record.provenance["time"]):
        chosen[record.cell] = record
    return [chosen[cell] for cell in cells if cell in chosen and chosen[cell].status == "ok"]


def _of_newest(records: Sequence[Record]) -> list[Record]:
    """Those that share what one table's cells must share with the newest."""
    of_all: dict[str, Any] = {}
    of_world: dict[Any, dict[str, Any]] = {}
    rows: dict[Any, Any] = {}
    for record in sorted(records, key=lambda record: record.provenance["time"]):
        of_all = _part(record, OF_ALL)
        of_world[_world(record)] = _part(record, OF_ONE_WORLD)
        rows[record.cell.mix, _world(record)] = record.data.get("digest")
    return [
        record
        for record in records
        if _part(record, OF_ALL) == of_all
        and _part(record, OF_ONE_WORLD) == of_world[_world(record)]
        and record.data.get("digest") == rows[record.cell.mix, _world(record)]
    ]


def _world(record: Record) -> tuple[Any, ...]:
    return tuple(setting for setting in record.cell.varied if setting[0].partition(".")[0] in WORLD)


def _part(record: Record, keys: Sequence[str]) -> dict[str, Any]:
    return {key: record.identity.get(key) for key in keys}
