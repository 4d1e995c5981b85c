"""Cross-domain transfer: its cells, own picks as the reference, and the matrix."""

from pathlib import Path

import numpy as np
import pytest

from floe_bench.harness import registry
from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.experiments import cross_domain

RISE = np.array([0.1, 0.2, 0.1, 0.2, 0.1, 0.2, 0.1, 0.2])


def test_cells_hold_every_pair_of_mixes_once_under_canonical_names(made):
    results = made(cross_domain, mixes=["dolly", "code", "medical"])
    on_code = [cell.method for cell in results.cells if cell.mix == "code"]
    assert on_code == [
        "floe_layers", "floe_layers:on=dolly", "floe_layers:on=medical",
        "random_layers", "random_layers:draw=1", "random_layers:draw=2", "hydralora",
    ]  # fmt: skip
    assert all(registry.parse_method(method).name == method for method in on_code)


def test_foreign_picks_are_paired_with_own_ones(made):
    results = made(cross_domain)

    def cell(method: str, mix: str) -> Cell:
        return Cell(method=method, mix=mix, seed=0)

    results.add(cell("floe_layers", "dolly"), [0, 1], nll=np.full(8, 2.0))
    results.add(cell("floe_layers", "code"), [0, 2], nll=np.full(8, 3.0))
    results.add(cell("floe_layers:on=code", "dolly"), [0, 2], nll=2.0 + RISE)
    results.add(cell("floe_layers:on=dolly", "code"), [0, 2], nll=np.full(8, 3.0))
    results.add(cell("hydralora", "code"), [0, 1, 2, 3], nll=3.0 - RISE)
    transfer, matrix = cross_domain.tables(results)
    frame = transfer.frame.set_index(["mix", "layers_from"])
    assert frame.loc[("dolly", "code"), "nll_difference"] == pytest.approx(0.15)
    assert frame.loc[("dolly", "code"), "jaccard"] == pytest.approx(1 / 3)
    assert frame.loc[("code", "dolly"), "is"] == "same training"
    assert frame.loc[("code", "all layers"), "nll_difference"] == pytest.approx(-0.15)
    # Two NLL tests of p = 2/2^8 each, two accuracy tests of p = 1: Holm's factor is 4, then 3.
    view = matrix.view.set_index("Layers from")
    assert view.loc["dolly"].tolist() == ["own", "="]
    assert view.loc["code"].tolist() == ["+0.1500*", "own"]
    assert view.loc["all layers"].tolist() == ["–", "-0.1500*"]


def test_nothing_finished_gives_notes(made):
    assert [table.frame.empty for table in cross_domain.tables(made(cross_domain))] == [True, True]


@pytest.mark.slow
def test_for_real(ran_experiment, tmp_path: Path):
    results, tables = ran_experiment(cross_domain, tmp_path, study__random_draws=2)
    assert len(tables[0].frame) == len(results.cells) == 10
    own = tables[0].frame[tables[0].frame["mix"] == tables[0].frame["layers_from"]]
    assert set(own["is"]) == {"reference"} and (own["jaccard"] == 1).all()
