"""What every experiment must do, whoever wrote it."""

import pytest

from floe_bench.harness import registry
from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.report import tables
from floe_bench.harness.spec import profiles
from floe_bench.harness.store.folder import Store
from floe_bench.harness.store.results import StoredResults


@pytest.fixture(params=sorted(registry.plugins("experiment")))
def experiment(request: pytest.FixtureRequest):
    return registry.find("experiment", request.param).load()


def test_names_its_cells_once_each(experiment):
    cells = experiment.cells(profiles.load("tiny"))
    assert cells and all(isinstance(cell, Cell) for cell in cells) and len(set(cells)) == len(cells)


def test_makes_tables_of_nothing(experiment, tmp_path):
    settings = profiles.load("tiny")
    results = StoredResults(Store(tmp_path, "tiny"), settings, experiment.cells(settings))
    made = experiment.tables(results)
    assert made and len({table.id for table in made}) == len(made)
    markdown = tables.write(made, tmp_path / "tables")
    assert all(table.title in markdown for table in made)
    assert len(list((tmp_path / "tables").iterdir())) == 4 * len(made)
