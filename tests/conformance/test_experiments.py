"""What every experiment must do, whoever wrote it."""

import pytest

from harness import profiles, registry
from harness.contracts import Cell
from harness.report import tables


@pytest.fixture(params=sorted(registry.plugins("experiment")))
def experiment(request: pytest.FixtureRequest):
    return registry.find("experiment", request.param).load()


def test_names_its_cells_once_each(experiment):
    cells = experiment.cells(profiles.load("tiny"))
    assert cells and all(isinstance(cell, Cell) for cell in cells) and len(set(cells)) == len(cells)


def test_makes_a_table_of_nothing(experiment, tmp_path):
    markdown = tables.write(experiment, [], profiles.load("tiny"), tmp_path)
    assert experiment.TITLE in markdown
    assert {path.suffix for path in tmp_path.iterdir()} == {".md", ".csv", ".tex", ".json"}


@pytest.mark.slow
def test_makes_a_table_of_records(experiment, ran, tmp_path):
    records = [ran("base").record, ran("lora").record]
    settings = ran("base").bench.settings
    frame = experiment.table(records, settings)
    assert len(experiment.view(frame)) == len(frame)
    first = tables.write(experiment, records, settings, tmp_path)
    assert tables.write(experiment, records, settings, tmp_path) == first
