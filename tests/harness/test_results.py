"""Which records may stand in one table, and what their stages kept."""

import pytest

from harness.contracts import Record
from harness.experiments import main
from harness.results import matching

from .records import SETTINGS, record


def accuracies(chosen: list[Record], method: str) -> list[float]:
    return [record.scores["mmlu_0shot"].metrics["acc"] for record in chosen if record.cell.method == method]


def test_only_records_of_these_settings_count_and_the_newest_wins(records):
    cells = main.cells(SETTINGS)
    other = SETTINGS.model_copy(update={"train": SETTINGS.train.model_copy(update={"epochs": 2.0})})
    extra = [record("floe", 0, 0.9, time="2026-02-01"), record("floe", 1, 0.9, time="2026-02-01", settings=other)]
    assert accuracies(matching([*records, *extra], SETTINGS, cells), "floe") == [0.9, 0.29, 0.31]


def test_a_cell_whose_newest_record_failed_is_missing_and_not_its_older_self(records):
    failed = record("floe", 2, 0.9, time="2026-02-01", status="failed")
    chosen = matching([*records, failed], SETTINGS, main.cells(SETTINGS))
    assert accuracies(chosen, "floe") == [0.27, 0.29]


@pytest.mark.parametrize("part", ["model", "engine", "text", "items", "versions"])
def test_records_of_another_model_code_or_data_never_share_a_table(part, records):
    identity = {"model": "m", "engine": "e"} | {part: "another"}
    newer = record("floe", 0, 0.9, time="2026-02-01", identity=identity)
    assert matching([*records, newer], SETTINGS, main.cells(SETTINGS)) == [newer]


def test_a_run_shows_the_records_under_its_own_keys_and_no_newer_ones(records):
    newer = record("floe", 0, 0.9, time="2026-02-01", key="another")
    cells = main.cells(SETTINGS)
    chosen = matching([*records, newer], SETTINGS, cells, dict.fromkeys(cells, "k"))
    assert accuracies(chosen, "floe") == [0.27, 0.29, 0.31]
