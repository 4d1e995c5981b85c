"""Tables from records: arithmetic by hand, formats that other programs read."""

import io
import json
import re
import statistics

import pandas as pd
import pytest

from floe_bench.harness.experiments import main
from floe_bench.harness.report import tables
from floe_bench.harness.report.format import MISSING, mean_sd, megabytes, number, percent

from ..records import SETTINGS, MadeResults, record


def test_mean_sd_and_share_of_full_over_seeds(records):
    frame = main.main_frame(MadeResults(records))
    assert list(frame["method"]) == ["full", "floe"] and list(frame["seeds"]) == [3, 3]
    floe = frame.iloc[1]
    assert floe["accuracy"] == pytest.approx(0.29)
    # of ten subjects three are right, wholly but for one answer: by the binomial of subjects 3 +- 1.96 * 1.45
    assert floe["accuracy_from"] == pytest.approx(0.29 - 0.28, abs=0.06)
    assert floe["accuracy_to"] == pytest.approx(0.29 + 0.28, abs=0.06) and floe["at_chance"]
    assert floe["accuracy_sd"] == pytest.approx(statistics.stdev([0.27, 0.29, 0.31]))
    assert floe["share_of_full"] == pytest.approx(0.29 / 0.32)
    assert floe["r"] == "2–4" and floe["layers"] == "2"
    assert floe["trainable_share"] == pytest.approx(0.1)
    assert floe["inference_tokens_per_second"] == pytest.approx(250)


def test_one_seed_shows_no_spread_and_says_so(records):
    frame = main.main_frame(MadeResults(records[:1]))
    assert "±" not in tables.view(frame, main.VIEW)["Accuracy %"].iloc[0]
    assert any("One seed" in note for note in main._notes(records[:1], SETTINGS))


def test_without_full_there_is_no_share_of_it(records):
    assert tables.view(main.main_frame(MadeResults(records[3:])), main.VIEW)["% of full"].iloc[0] == MISSING


def test_the_four_files_agree_and_are_byte_identical_when_written_again(records, tmp_path):
    markdown = tables.write(main.tables(MadeResults(records)), tmp_path / "a")
    tables.write(main.tables(MadeResults(list(reversed(records)))), tmp_path / "b")
    for suffix in ("md", "csv", "tex", "json"):
        assert (tmp_path / "a" / f"main.{suffix}").read_bytes() == (tmp_path / "b" / f"main.{suffix}").read_bytes()
    rows = json.loads((tmp_path / "a" / "main.json").read_text())["rows"]
    csv = pd.read_csv(io.StringIO((tmp_path / "a" / "main.csv").read_text()))
    assert list(csv["accuracy"]) == pytest.approx([row["accuracy"] for row in rows])
    lines = [line for line in markdown.split("##")[1].splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(rows) and len({line.count("|") for line in lines}) == 1
    latex = (tmp_path / "a" / "main.tex").read_text()
    assert latex.count(r"\\") == 1 + len(rows) and "mmlu\\_0shot" in latex


def test_files_show_ten_significant_digits_of_every_float_and_whole_numbers_whole(tmp_path):
    third, whole = 1 / 3, 12_345_678_901
    frame = pd.DataFrame({"float": [third, 1.0], "n": [whole, 1], "mixed": pd.Series([third, "–"], dtype=object)})
    tables.write([tables.Table("made", "Made", frame, frame)], tmp_path)
    assert (tmp_path / "made.csv").read_text().splitlines()[1] == f"0.3333333333,{whole},0.3333333333"
    row, _ = json.loads((tmp_path / "made.json").read_text())["rows"]
    assert row == {"float": 0.3333333333, "n": whole, "mixed": 0.3333333333}
    assert frame["float"].tolist() == [third, 1.0], "the table itself keeps all digits"


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


def test_one_seed_has_wilsons_interval_and_a_mark_where_it_covers_chance(records):
    """Wilson's interval of 30 of 100 by its formula: 0.2189 to 0.3958; of 50 of 100: 0.4038 to 0.5962."""
    frame = main.main_frame(MadeResults(records[:1]))
    assert frame["accuracy_from"].tolist()[0] == pytest.approx(0.2189, abs=1e-4)
    assert frame["accuracy_to"].tolist()[0] == pytest.approx(0.3958, abs=1e-4)
    assert tables.view(frame, main.VIEW)["Accuracy %"].tolist()[0] == "30.0 [21.9, 39.6]†"
    assert (
        tables.view(main.main_frame(MadeResults([record("full", 0, 0.5)])), main.VIEW)["Accuracy %"].tolist()[0]
        == "50.0 [40.4, 59.6]"
    )


def test_the_comparison_says_tie_where_nothing_is_significant_and_names_the_reference(records):
    _, compared = main.tables(MadeResults(records))
    (row,) = compared.frame.to_dict("records")
    assert (row["method"], row["reference"], row["seeds"]) == ("full", "floe", 3)
    assert row["accuracy_difference"] == pytest.approx(0.03) and row["nll_difference"] == 0
    assert compared.view["NLL is"].tolist()[0] == "tie"
    far = [record("full", 0, 0.9), record("floe", 0, 0.1)]
    assert main.tables(MadeResults(far))[1].view["Accuracy is"].tolist()[0] == "higher"


def test_a_pipe_in_an_entry_or_a_name_is_no_column():
    view = pd.DataFrame({"|θ|": ["O(L·|θ|)", 3], "K": [1, 2]})
    header, _, first, second = tables.to_markdown("Costs", view, []).strip().splitlines()[2:]
    unescaped = [len(re.findall(r"(?<!\\)\|", line)) for line in (header, first, second)]
    assert unescaped == [3, 3, 3]
    assert r"\|θ\|" in header and r"O(L·\|θ\|)" in first
