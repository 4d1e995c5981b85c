"""The committed reference results: their tables follow from their records, byte for byte."""

from pathlib import Path

import pytest

from harness import registry
from harness.experiments import main
from harness.report import tables
from harness.results import StoredResults
from harness.store import Store, read_items

FOLDERS = sorted(path for path in (registry.ROOT / "results" / "reference").glob("*") if path.is_dir())


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_is_a_reference():
    assert "smoke" in [folder.name for folder in FOLDERS]


def test_the_tables_follow_from_the_records(folder, tmp_path):
    records = Store(folder.parent, folder.name).records()
    settings = records[0].settings
    cells = main.cells(settings)
    assert sorted(record.cell.label for record in records) == sorted(cell.label for cell in cells)
    tables.write(main.tables(StoredResults(Store(folder.parent, folder.name), settings, cells)), tmp_path)
    for path in sorted((folder / "tables").iterdir()):
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_every_record_comes_from_committed_code_and_keeps_its_items(folder):
    store = Store(folder.parent, folder.name)
    for record in store.records():
        assert record.status == "ok" and record.provenance["git"]["dirty"] is False
        for name, score in record.scores.items():
            stage = record.stages[f"evaluation:{name}"]
            items = read_items(store.folder / "stages" / str(stage) / "items.parquet")
            assert len(items) == score.n_items
            if "acc" in score.metrics:
                right = [p == a for p, a in zip(items["predicted"], items["answer"], strict=True)]
                assert sum(right) / len(right) == pytest.approx(score.metrics["acc"])
