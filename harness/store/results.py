"""Read from a results folder what an experiment makes its tables from (`contracts.tables.Results`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.inputs import Arrays
from floe_bench.harness.contracts.record import Record, Stage
from floe_bench.harness.contracts.tables import SeveralMeasures
from floe_bench.harness.data.mixes import split_settings
from floe_bench.harness.errors import UsageError, unknown
from floe_bench.harness.files import digest
from floe_bench.harness.spec import profiles
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.store.folder import ITEMS, Store, read_items
from floe_bench.harness.store.keys import result_settings

if TYPE_CHECKING:
    import pandas as pd


ITEMS_KEPT = 128
"""The most frames of items kept in memory; the least recently used goes first. One with all of MMLU takes 1.3 MB."""


class StoredResults:
    """Give the finished records of an experiment's cells, and what their stages kept.

    A record counts only where all stages that it rests on are whole.
    """

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
        chosen = matching(store.records() if records is None else records, settings, cells, keys)
        self.records = [record for record in chosen if store.rests_on_whole(record)]
        self._by_cell = {record.cell: record for record in self.records}
        self._read_items = lru_cache(ITEMS_KEPT)(read_items)

    def find(self, cell: Cell) -> Record | None:
        return self._by_cell.get(cell)

    def stages(self, record: Record) -> list[Stage]:
        """Return the stages that planning used: pilots (kind "training"), measures and probes."""
        return [self._stage(name) for name in record.stages.planning]

    def origins(self, record: Record) -> list[dict[str, Any]]:
        """Return versions, hardware, commit and time of the record and of every stage that it rests on."""
        return [record.provenance, *(self._stage(name).provenance for name in record.stages.all)]

    def arrays(self, record: Record, scorer: str, **parameters: Any) -> Arrays | None:
        found = [
            stage
            for stage in self.stages(record)
            if stage.kind == "measure"
            and stage.identity["scorer"].rpartition(".")[2] == scorer
            and parameters.items() <= stage.identity.get("parameters", {}).items()
        ]
        if len(found) > 1:
            raise SeveralMeasures(f"{record.cell.label} used {len(found)} measures of {scorer}: name its parameters")
        if not found:
            return None
        return self.store.arrays(found[0])

    def items(self, record: Record, evaluation: str) -> pd.DataFrame:
        """Return the evaluation's items, one line each.

        Do not change the frame: the next caller may get the same one.
        """
        if evaluation not in record.scores:
            raise unknown(f"evaluation of {record.cell.label}:", evaluation, record.scores)
        return self._read_items(self.store.folder / "stages" / record.stages.evaluations[evaluation] / ITEMS)

    def _stage(self, name: str) -> Stage:
        stage = self.store.stage(name)
        if stage is None:
            raise UsageError(f"{self.store.folder}: stage {name} is gone since its record was read: run again")
        return stage


def matching(
    records: Sequence[Record], settings: Settings, cells: Sequence[Cell], keys: Mapping[Cell, str] | None = None
) -> list[Record]:
    """Return the finished records of these cells that may stand in one table, in the cells' order.

    With `keys`, which a run knows, only the records under these keys count. Without them, records count that were made
    under these settings and share the newest one's model, data, code and library versions. Of several records of one
    cell the newest counts. Each record carries the settings asked for. Those that change no result, such as
    eval.primary, may differ from the settings at its run.
    """
    asked = set(cells)
    candidates = [record for record in records if record.cell in asked]
    wanted = {
        varied: profiles.vary(settings, dict(varied)).without_paths()
        for varied in {record.cell.varied for record in candidates}
    }
    if keys:
        candidates = [record for record in candidates if record.key == keys.get(record.cell)]
    else:
        results = {varied: result_settings(of_cell) for varied, of_cell in wanted.items()}
        candidates = [r for r in candidates if result_settings(r.settings) == results[r.cell.varied]]
        candidates = _of_newest(candidates)
    chosen: dict[Cell, Record] = {}
    for record in sorted(candidates, key=lambda record: record.provenance["time"]):
        chosen[record.cell] = record
    return [
        chosen[cell].model_copy(update={"settings": wanted[cell.varied]})
        for cell in cells
        if cell in chosen and chosen[cell].status == "ok"
    ]


def _of_newest(records: Sequence[Record]) -> list[Record]:
    """Return the records that agree with the newest ones in all that the cells of one table must share."""
    newest: dict[tuple[str, ...], Any] = {}
    for record in sorted(records, key=lambda record: record.provenance["time"]):
        newest |= _shared(record)
    return [record for record in records if all(newest[key] == value for key, value in _shared(record).items())]


def _shared(record: Record) -> dict[tuple[str, ...], Any]:
    """Return name -> value of all that records of one table must share. Records agree where they share a name.

    These are the library versions and each module's code; and model, plain text, items, evaluations and each mix's
    rows. The names of the latter hold the settings that they follow from, so that other settings are not compared.
    """
    identity = record.identity
    engine = identity.get("engine")
    modules = dict(engine) if isinstance(engine, dict) else {"engine": engine}
    for digests in (identity.get("method", {}), *identity.get("other_methods", {}).values()):
        modules |= digests
    settings = result_settings(record.settings)
    world = digest([split_settings(record.settings), settings["model"], settings["eval"]])
    rows = identity.get("data", {})
    rows = rows if isinstance(rows, dict) else {record.cell.mix: rows}
    return (
        {("versions",): identity.get("versions")}
        | {("code", name): code for name, code in modules.items()}
        | {(key, world): identity.get(key) for key in ("model", "text", "items", "evaluations")}
        | {("rows", mix, world): rows_digest for mix, rows_digest in rows.items()}
    )
