"""Tables from records: arithmetic by hand, formats that other programs read."""

import io
import json
import statistics

import pandas as pd
import pytest

from harness import profiles
from harness.contracts import Cell, Cost, Record, Score
from harness.experiments import main
from harness.report import tables
from harness.report.format import MISSING, mean_sd, megabytes, number, percent

SETTINGS = profiles.load("tiny", {"methods": ["full", "floe"], "mixes": ["dolly"], "seeds": 3})


def record(method: str, seed: int, accuracy: float, time: str = "2026-01-01", **changes) -> Record:
    scores = {
        "mmlu_0shot": Score(metrics={"acc": accuracy}, chance=0.25, n_items=57, tokens=10, seconds=1.0),
        "validation_nll": Score(metrics={"nll_dolly": 2.0, "nll_mean": 3.0}, n_items=8, tokens=500, seconds=2.0),
    }
    content = {
        "cell": Cell(method=method, mix="dolly", seed=seed), "profile": "tiny", "status": "ok", "key": "k",
        "identity": {"model": "m", "engine": "e"}, "settings": SETTINGS, "provenance": {"time": time}, "scores": scores,
        "plan": {"layers": [0, 1], "r": 2 + seed, "trainable_parameters": 100, "base_parameters": 1000},
        "planning_cost": Cost(seconds=5, tokens=50),
    }  # fmt: skip
    return Record.model_validate(content | changes)


@pytest.fixture
def records() -> list[Record]:
    return [record("full", seed, value) for seed, value in enumerate((0.30, 0.32, 0.34))] + [
        record("floe", seed, value) for seed, value in enumerate((0.27, 0.29, 0.31))
    ]


def test_mean_sd_and_share_of_full_over_seeds(records):
    frame = main.table(records, SETTINGS)
    assert list(frame["method"]) == ["full", "floe"] and list(frame["seeds"]) == [3, 3]
    floe = frame.iloc[1]
    assert floe["accuracy"] == pytest.approx(0.29)
    assert floe["accuracy_sd"] == pytest.approx(statistics.stdev([0.27, 0.29, 0.31]))
    assert floe["share_of_full"] == pytest.approx(0.29 / 0.32)
    assert floe["r"] == "2–4" and floe["layers"] == "2"
    assert floe["trainable_share"] == pytest.approx(0.1)
    assert floe["inference_tokens_per_second"] == pytest.approx(250)


def test_one_seed_shows_no_spread_and_says_so(records):
    frame = main.table(records[:1], SETTINGS)
    assert "±" not in main.view(frame)["Accuracy %"].iloc[0]
    assert any("One seed" in note for note in main.notes(records[:1], SETTINGS))


def test_without_full_there_is_no_share_of_it(records):
    assert main.view(main.table(records[3:], SETTINGS))["% of full"].iloc[0] == MISSING


def accuracies(chosen: list[Record], method: str) -> list[float]:
    return [record.scores["mmlu_0shot"].metrics["acc"] for record in chosen if record.cell.method == method]


def test_only_records_of_these_settings_count_and_the_newest_wins(records):
    cells = main.cells(SETTINGS)
    other = SETTINGS.model_copy(update={"train": SETTINGS.train.model_copy(update={"epochs": 2.0})})
    extra = [record("floe", 0, 0.9, time="2026-02-01"), record("floe", 1, 0.9, time="2026-02-01", settings=other)]
    assert accuracies(tables.matching([*records, *extra], SETTINGS, cells), "floe") == [0.9, 0.29, 0.31]


def test_a_cell_whose_newest_record_failed_is_missing_and_not_its_older_self(records):
    failed = record("floe", 2, 0.9, time="2026-02-01", status="failed")
    chosen = tables.matching([*records, failed], SETTINGS, main.cells(SETTINGS))
    assert accuracies(chosen, "floe") == [0.27, 0.29]


@pytest.mark.parametrize("part", ["model", "engine", "text", "items", "versions"])
def test_records_of_another_model_code_or_data_never_share_a_table(part, records):
    identity = {"model": "m", "engine": "e"} | {part: "another"}
    newer = record("floe", 0, 0.9, time="2026-02-01", identity=identity)
    assert tables.matching([*records, newer], SETTINGS, main.cells(SETTINGS)) == [newer]


def test_a_run_shows_the_records_under_its_own_keys_and_no_newer_ones(records):
    newer = record("floe", 0, 0.9, time="2026-02-01", key="another")
    cells = main.cells(SETTINGS)
    chosen = tables.matching([*records, newer], SETTINGS, cells, dict.fromkeys(cells, "k"))
    assert accuracies(chosen, "floe") == [0.27, 0.29, 0.31]


def test_the_four_files_agree_and_are_byte_identical_when_written_again(records, tmp_path):
    markdown = tables.write(main, records, SETTINGS, tmp_path / "a")
    tables.write(main, list(reversed(records)), SETTINGS, tmp_path / "b")
    for suffix in ("md", "csv", "tex", "json"):
        assert (tmp_path / "a" / f"main.{suffix}").read_bytes() == (tmp_path / "b" / f"main.{suffix}").read_bytes()
    rows = json.loads((tmp_path / "a" / "main.json").read_text())["rows"]
    csv = pd.read_csv(io.StringIO((tmp_path / "a" / "main.csv").read_text()))
    assert list(csv["accuracy"]) == pytest.approx([row["accuracy"] for row in rows])
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(rows) and len({line.count("|") for line in lines}) == 1
    latex = (tmp_path / "a" / "main.tex").read_text()
    assert latex.count(r"\\") == 1 + len(rows) and "mmlu\\_0shot" in latex


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (number(1234.5678, 1), "1,234.6"), (number(-0.0214, 3, sign=True), "-0.021"), (number(None), MISSING),
        (number(float("nan")), MISSING), (percent(0.931), "93.1"), (percent(0.000622), "0.0622"), (percent(0.0), "0.0"),
        (megabytes(1_500_000), "1.5"), (mean_sd([0.5, 0.25], [0.01, None], 1, scale=100), ["50.0 ± 1.0", "25.0"]),
    ],
)  # fmt: skip
def test_numbers_as_text(text, expected):
    assert text == expected
