"""Test that the tables of the committed reference results follow from their records."""

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from floe_bench.harness.report import build, tables
from floe_bench.harness.spec.settings import Settings
from floe_bench.harness.store.folder import Store, read_items

ROOT = Path(__file__).parents[1]

FOLDERS = sorted(path for path in (ROOT / "results" / "reference").glob("*") if path.is_dir())


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_is_a_reference():
    assert "smoke" in [folder.name for folder in FOLDERS]


def settings_of(store: Store) -> Settings:
    """Those of the widest grid: each experiment was run on mixes and seeds of its own."""
    plain = [record.settings for record in store.records() if not record.cell.varied]
    return max(plain, key=lambda settings: (len(settings.mixes), settings.seeds))


NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")
RTOL = 1e-6
"""Of numbers in CSV and JSON: sums in another order, and p values by other BLAS kernels, agree to more."""


def assert_same_text(found: str, expected: str) -> None:
    """Equal but for numbers, and these within one unit of their last digit: a rounded number can fall either way.

    A whole number counts or names something, and must be equal, unless it is a percentage.
    """
    assert NUMBER.sub("#", found) == NUMBER.sub("#", expected)
    for ours, number in zip(NUMBER.findall(found), NUMBER.finditer(expected), strict=True):
        theirs = number[0]
        if ours == theirs:
            continue
        unit = 10.0 ** -len(theirs.partition("e")[0].partition(".")[2]) * 10.0 ** float(theirs.partition("e")[2] or 0)
        if theirs.strip("+-").replace(",", "").isdigit() and not expected[number.end() :].lstrip("\\ ").startswith("%"):
            unit = 0.0
        a, b = (float(text.replace(",", "")) for text in (ours, theirs))
        assert abs(a - b) <= 1.001 * unit, (ours, theirs)


def assert_same_value(found: Any, expected: Any) -> None:
    """Equal but for floats, and these within RTOL."""
    if isinstance(expected, float) and isinstance(found, (int, float)):
        assert found == pytest.approx(expected, rel=RTOL, abs=1e-12)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_same_value(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            assert_same_value(ours, theirs)
    elif isinstance(expected, str):
        assert_same_text(found, expected)
    else:
        assert found == expected


@pytest.mark.slow
def test_the_tables_follow_from_the_records(folder, tmp_path):
    store = Store(folder.parent, folder.name)
    made, _ = build.everything(store, settings_of(store))
    tables.write(made, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in (folder / "tables").iterdir()}
    for path in sorted((folder / "tables").iterdir()):
        expected, found = (text.read_text(encoding="utf-8") for text in (path, tmp_path / path.name))
        if path.suffix == ".json":
            assert_same_value(json.loads(found), json.loads(expected))
        elif path.suffix == ".csv":
            rows = [list(csv.reader(io.StringIO(text))) for text in (found, expected)]
            assert_same_value(*([[_number(entry) for entry in row] for row in side] for side in rows))
        else:
            assert_same_text(found, expected)


def _number(entry: str) -> Any:
    try:
        return float(entry)
    except ValueError:
        return entry


@pytest.mark.parametrize(
    ("found", "same"),
    [
        ("a 1.23 b 4 5%", True), ("a 1.24 b 4 5%", True), ("a 1.23 b 4 6%", True), ("a 1.26 b 4 5%", False),
        ("c 1.23 b 4 5%", False), ("a 2.23 b 4 5%", False), ("a 1.23 b 5 5%", False),
    ],
)  # fmt: skip
def test_text_may_differ_in_the_last_digit_only(found, same):
    if same:
        assert_same_text(found, "a 1.23 b 4 5%")
    else:
        with pytest.raises(AssertionError):
            assert_same_text(found, "a 1.23 b 4 5%")


def test_every_record_comes_from_committed_code_and_keeps_its_items(folder):
    store = Store(folder.parent, folder.name)
    for record in store.records():
        assert record.status == "ok" and record.provenance["git"]["dirty"] is False
        for name, score in record.scores.items():
            stage = record.stages.evaluations[name]
            items = read_items(store.folder / "stages" / stage / "items.parquet")
            assert len(items) == score.n_items
            if "acc" in score.metrics:
                right = [p == a for p, a in zip(items["predicted"], items["answer"], strict=True)]
                assert sum(right) / len(right) == pytest.approx(score.metrics["acc"])
