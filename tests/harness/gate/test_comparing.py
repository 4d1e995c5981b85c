"""Which cells a comparison of two runs holds."""

from pathlib import Path

import pytest

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.gate import comparing
from floe_bench.harness.spec import profiles
from floe_bench.harness.store.folder import Store
from floe_bench.harness.store.results import StoredResults

from ..records import SETTINGS, MadeResults, record

VARIED = (("selection.layer_fraction", 0.25),)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plain and a varied cell of two methods."""
    monkeypatch.setattr(StoredResults, "items", MadeResults.items)
    store = Store(tmp_path, "tiny")
    for number, (method, varied) in enumerate([(m, v) for m in ("full", "floe") for v in ((), VARIED)]):
        cell = Cell(method=method, mix="dolly", seed=0, varied=varied)
        settings = profiles.vary(SETTINGS, dict(varied))
        store.write(record(method, 0, 0.2 + 0.1 * number, cell=cell, settings=settings, key=str(number)))
    return store.folder


def test_cells_that_vary_settings_stand_in_rows_of_their_own(folder):
    table = comparing.runs(folder, folder)
    plain_and_varied = [
        f"{method}{end}" for method in ("floe", "full") for end in ("", ", selection.layer_fraction=0.25")
    ]
    assert sorted(table.frame["method"]) == plain_and_varied
    assert not any("left out" in note for note in table.notes)


def test_methods_are_compared_under_the_same_varied_settings(folder):
    table = comparing.methods(folder, "floe,full")
    differences = dict(zip(table.frame["method"], table.frame["accuracy_difference"], strict=True))
    assert differences == pytest.approx({"": 0.2, "selection.layer_fraction=0.25": 0.2})


def test_recorded_cells_that_are_not_compared_are_counted(folder):
    store = Store(folder.parent, folder.name)
    older = profiles.vary(SETTINGS, {"train.epochs": 3.0})
    store.write(record("full", 1, 0.5, "2025-01-01", settings=older))
    store.write(record("full", 2, 0.5, status="failed", error="ValueError: so"))
    notes = comparing.runs(folder, folder).notes
    assert any(note.startswith("4 recorded cells are left out") for note in notes)
    notes = comparing.methods(folder, "floe,full").notes
    assert any(note.startswith("2 recorded cells are left out") for note in notes)
