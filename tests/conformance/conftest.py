"""One run of every registered method on the tiny profile, shared by the suite."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from harness import profiles
from harness.contracts import Cell, Record
from harness.keys import cell_identity
from harness.run import run_cell
from harness.store import Store
from harness.workbench import Workbench


@dataclass
class Ran:
    """A finished cell, where it was run, and the base model's weights before it."""

    record: Record
    bench: Workbench
    cell: Cell
    base_before: dict


def tiny_bench(results: Path) -> Workbench:
    settings = profiles.load("tiny", {"mixes": ["dolly"]})
    return Workbench(settings, Store(results, "tiny"), progress=lambda text: None)


def run_once(bench: Workbench, method: str) -> Ran:
    cell = Cell(method=method, mix="dolly", seed=0)
    before = {name: tensor.clone() for name, tensor in bench.base.state_dict().items()}
    return Ran(run_cell(bench, cell, cell_identity(bench, cell)), bench, cell, before)


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ran]:
    """ran(method): the method's record from one shared results folder; each method runs once."""
    bench = tiny_bench(tmp_path_factory.mktemp("results"))
    return cache(lambda method: run_once(bench, method))


@pytest.fixture(scope="session")
def ran_again(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ran]:
    """The same in a folder of its own per method, so that no stage is shared."""
    return cache(lambda method: run_once(tiny_bench(tmp_path_factory.mktemp("again")), method))
