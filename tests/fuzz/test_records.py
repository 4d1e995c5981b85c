"""Records and stages with a few bytes changed are what was written, or are not believed, with a line that says so."""

from hypothesis import given
from hypothesis import strategies as st

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.spec.profiles import load
from floe_bench.harness.store.folder import STAGE_FILE, Store

from .material import changed, changes

CELL = Cell(method="lora", mix="dolly", seed=0)
IDENTITY = {"scorer": "s", "rows": [1, 2.5, None, "é"]}


def test_a_changed_record_or_stage_is_what_was_written_or_not_believed(tmp_path):
    store = Store(tmp_path, "tiny")
    stage = store.keep("probe", IDENTITY, result={"nll": 2.0})
    record = Record.model_validate(
        {
            "cell": CELL, "key": "0123", "profile": "tiny", "status": "ok", "settings": load("tiny"),
            "identity": {"seed": 0}, "provenance": {"time": "2026-01-01"},
            "planning_cost": {"seconds": 0.5, "tokens": 7}, "stages": {"planning": [stage.folder]},
        }
    )  # fmt: skip
    store.write(record)
    path = store.record_path(CELL, "0123")
    marker = store.stage_folder("probe", IDENTITY) / STAGE_FILE
    written = {file: file.read_bytes() for file in (path, marker)}

    @given(st.sampled_from(list(written)), changes)
    def holds(file, by):
        said: list[str] = []
        file.write_bytes(changed(written[file], by))
        try:
            store = Store(tmp_path, "tiny", said.append)
            found = store.record(CELL, "0123")
            assert found in (None, record)
            assert (found is None) == any(str(file).removesuffix(f"/{STAGE_FILE}") in line for line in said)
        finally:
            file.write_bytes(written[file])

    holds()
