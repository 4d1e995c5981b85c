"""Missing cells: planted by taking records away."""

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.report.checks import missing_cells

from .healthy import fired


def test_fires_on_a_seed_that_is_missing_beside_others(run):
    run.records = [record for record in run.records if record.cell.label != "dolly / floe / seed 1"]
    (finding,) = fired(missing_cells, run)
    assert finding.cells == ("dolly / floe / seed 1",) and "1 of 12 cells are missing though" in finding.message


def test_fires_on_what_never_finished(run):
    run.cells += [Cell(method="full", mix="dolly", seed=seed) for seed in range(2)]
    (finding,) = fired(missing_cells, run)
    assert finding.cells == ("dolly / full / seed 0", "dolly / full / seed 1")
    assert "2 of 14 cells have no finished record" in finding.message


def test_tells_the_two_apart(run):
    run.cells.append(Cell(method="full", mix="dolly", seed=0))
    run.records = [record for record in run.records if record.cell.label != "dolly / base / seed 0"]
    assert [finding.cells for finding in fired(missing_cells, run)] == [
        ("dolly / full / seed 0",), ("dolly / base / seed 0",),
    ]  # fmt: skip
