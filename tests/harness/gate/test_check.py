"""Which records a check takes, and what it says of the cells without one."""

from pathlib import Path

import pytest

from floe_bench.harness.errors import UsageError
from floe_bench.harness.experiments import main
from floe_bench.harness.gate import check, expectation, verdicts
from floe_bench.harness.spec import profiles
from floe_bench.harness.store.folder import Store
from floe_bench.harness.store.keys import result_settings
from floe_bench.harness.store.results import StoredResults

from ..records import SETTINGS, MadeResults, record

ROOT = Path(__file__).parents[3]

CELLS = main.cells(SETTINGS)
OLD, NEW = "2026-01-01", "2026-02-02"


@pytest.fixture
def store(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(StoredResults, "items", MadeResults.items)
    return Store(tmp_path, "tiny")


def write(store: Store, key: str, time: str, **changes) -> None:
    """A record of every cell, under one key."""
    for cell in CELLS:
        made = record(cell.method, cell.seed, 0.5, time, key=key, data={"digest": "d"}, **changes)
        store.write(made.model_copy(update={"identity": made.identity | {"versions": {}}}))


def keys(key: str) -> dict:
    return dict.fromkeys(CELLS, key)


def plan(parameters: int) -> dict:
    return {"layers": [0], "r": 2, "trainable_parameters": parameters, "base_parameters": 1000}


def test_records_of_other_keys_do_not_count_however_new(store):
    path = store.folder / check.FILE
    write(store, "now", OLD, plan=plan(100))
    check.update(store, SETTINGS, keys("now"), path)
    write(store, "other", NEW, plan=plan(101))
    assert not verdicts.regressions(check.check(store, SETTINGS, keys("now"), path))
    failed = verdicts.regressions(check.check(store, SETTINGS, keys("other"), path))
    assert {finding.quantity for finding in failed} == {"trainable_parameters"} and len(failed) == len(CELLS)


def test_a_run_of_other_code_is_none(store):
    path = store.folder / check.FILE
    write(store, "before", NEW, plan=plan(100))
    check.update(store, SETTINGS, keys("before"), path)
    with pytest.raises(UsageError, match="holds no run with this code and these settings: `floe-bench run tiny`"):
        check.check(store, SETTINGS, keys("now"), path)
    content = path.read_text()
    with pytest.raises(UsageError, match=r"6 of 6 cells are not finished .*not run with this code"):
        check.update(store, SETTINGS, keys("now"), path)
    assert path.read_text() == content


def test_a_cell_that_was_not_run_again_is_missing_and_a_failed_one_says_why(store):
    path = store.folder / check.FILE
    write(store, "now", OLD, plan=plan(100))
    check.update(store, SETTINGS, keys("now"), path)
    first, second = CELLS[:2]
    store.write(record(second.method, second.seed, 0.5, OLD, key="now", status="failed", error="...\nValueError: so"))
    changed = keys("now")
    changed[first] = "other"
    failed = verdicts.regressions(check.check(store, SETTINGS, changed, path))
    assert [(finding.cell, finding.found) for finding in failed] == [
        (first.label, "missing"),
        (second.label, "missing"),
    ]
    assert failed[0].detail == "not run with this code and these settings: `floe-bench run tiny`"
    assert failed[1].detail == "it failed: ValueError: so"


def test_where_every_cell_failed_there_was_a_run(store):
    path = store.folder / check.FILE
    write(store, "before", OLD, plan=plan(100))
    check.update(store, SETTINGS, keys("before"), path)
    write(store, "now", NEW, status="failed", error="ValueError: so")
    assert len(verdicts.regressions(check.check(store, SETTINGS, keys("now"), path))) == len(CELLS)


def test_the_committed_expectation_of_tiny_is_of_the_profile_as_it_is():
    """A new setting, or another value, makes it stale: run tiny, `check tiny --update`, and look at the changes."""
    settings = profiles.load("tiny")
    committed = check.read(ROOT / "results" / "tiny" / check.FILE)
    now = expectation.Expectation(
        profile="tiny", settings=result_settings(settings), model=None, versions={},
        subjects={}, cells={},
    )  # fmt: skip
    assert verdicts.differing_settings(committed, now) == []
    assert list(committed.cells) == [cell.label for cell in main.cells(settings)]
