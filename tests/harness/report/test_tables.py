"""Tables from records: arithmetic by hand, formats that other programs read."""

import io
import json
import statistics
from pathlib import Path

import pandas as pd
import pytest

from harness.contracts import Record
from harness.experiments import main
from harness.report import tables
from harness.report.format import MISSING, mean_sd, megabytes, number, percent
from harness.results import StoredResults
from harness.store import Store

from ..records import SETTINGS


def results(records: list[Record]) -> StoredResults:
    return StoredResults(Store(Path(), "tiny"), SETTINGS, main.cells(SETTINGS), records=records)


def test_mean_sd_and_share_of_full_over_seeds(records):
    frame = main.main_frame(records, SETTINGS)
    assert list(frame["method"]) == ["full", "floe"] and list(frame["seeds"]) == [3, 3]
    floe = frame.iloc[1]
    assert floe["accuracy"] == pytest.approx(0.29)
    assert floe["accuracy_sd"] == pytest.approx(statistics.stdev([0.27, 0.29, 0.31]))
    assert floe["share_of_full"] == pytest.approx(0.29 / 0.32)
    assert floe["r"] == "2–4" and floe["layers"] == "2"
    assert floe["trainable_share"] == pytest.approx(0.1)
    assert floe["inference_tokens_per_second"] == pytest.approx(250)


def test_one_seed_shows_no_spread_and_says_so(records):
    frame = main.main_frame(records[:1], SETTINGS)
    assert "±" not in main._view(frame)["Accuracy %"].iloc[0]
    assert any("One seed" in note for note in main._notes(records[:1], SETTINGS))


def test_without_full_there_is_no_share_of_it(records):
    assert main._view(main.main_frame(records[3:], SETTINGS))["% of full"].iloc[0] == MISSING


def test_the_four_files_agree_and_are_byte_identical_when_written_again(records, tmp_path):
    markdown = tables.write(main.tables(results(records)), tmp_path / "a")
    tables.write(main.tables(results(list(reversed(records)))), tmp_path / "b")
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
