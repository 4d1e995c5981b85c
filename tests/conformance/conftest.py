"""One run of every registered method on the tiny profile, shared by the suite."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from floe_bench.harness.contracts.cell import Cell
from floe_bench.harness.contracts.record import Record
from floe_bench.harness.run.cell import run_cell
from floe_bench.harness.run.resolved import resolve_cell
from floe_bench.harness.run.session import Session
from floe_bench.harness.spec import profiles
from floe_bench.harness.store.folder import Store

from ..questions import few_subjects


@dataclass
class Ran:
    """A finished cell, where it was run, and the base model's weights before it."""

    record: Record
    session: Session
    cell: Cell
    base_before: dict


def tiny_session(results: Path) -> Session:
    settings = profiles.load("tiny", {"mixes": ["dolly"]})
    return Session(settings, Store(results, "tiny"))


def run_once(session: Session, method: str) -> Ran:
    cell = Cell(method=method, mix="dolly", seed=0)
    before = {name: tensor.clone() for name, tensor in session.base.state_dict().items()}
    with few_subjects():
        return Ran(run_cell(resolve_cell(session, cell)), session, cell, before)


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ran]:
    """ran(method): the method's record from one shared results folder; each method runs once."""
    session = tiny_session(tmp_path_factory.mktemp("results"))
    return cache(lambda method: run_once(session, method))


@pytest.fixture(scope="session")
def ran_again(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Ran]:
    """The same in a folder of its own per method, so that no stage is shared."""
    return cache(lambda method: run_once(tiny_session(tmp_path_factory.mktemp("again")), method))
