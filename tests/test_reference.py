"""The committed reference results: their tables follow from their records, byte for byte."""

from pathlib import Path

import pytest

from floe_bench.harness.report import build, tables
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.store.folder import Store, read_items

ROOT = Path(__file__).parents[1]

FOLDERS = sorted(path for path in (ROOT / "results" / "reference").glob("*") if path.is_dir())


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_is_a_reference():
    assert "smoke" in [folder.name for folder in FOLDERS]


def settings_of(store: Store) -> Settings:
    """Those of the widest grid: each experiment was run on mixes and seeds of its own."""
    plain = [record.settings for record in store.records() if not record.cell.varied]
    return max(plain, key=lambda settings: (len(settings.mixes), settings.seeds))


@pytest.mark.slow
def test_the_tables_follow_from_the_records(folder, tmp_path):
    store = Store(folder.parent, folder.name)
    made, _ = build.everything(store, settings_of(store))
    tables.write(made, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (folder / "tables").iterdir()}
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
