"""What is timed, how often, and the quartiles of a clock that is set by hand."""

from typing import Any

import pandas as pd
import pytest

from floe_bench.harness.contracts.rows import Row
from floe_bench.harness.spec import profiles
from floe_bench.tasks.evals import latency


class Clocked:
    """An evaluation's inputs whose n-th reading of 50 tokens takes n seconds, by their own clock."""

    def __init__(self):
        self.settings = profiles.load("tiny", {"eval.nll_mixes": "code,dolly"})
        self.read: list[list[Row]] = []
        self.now = 0.0

    def validation(self, mix: str) -> list[Row]:
        return [Row(f"{mix} {i}", "answer", mix) for i in range(10)]

    def nll(self, rows: list[Row]) -> pd.DataFrame:
        self.now += len(self.read)
        self.read.append(list(rows))
        return pd.DataFrame({"nll": 1.0, "tokens": 5, "tokens_read": [20, 10, 10, 10][: len(rows)]})


@pytest.fixture
def inputs(monkeypatch) -> Any:
    made = Clocked()
    monkeypatch.setattr(latency.time, "perf_counter", lambda: made.now)
    return made


def test_items_are_every_reading_of_the_first_mixs_rows(inputs):
    items = latency.items(inputs)
    assert len(items) == latency.REPEATS * latency.ROWS
    assert {item["prompt"] for item in items} == {"code 0", "code 1", "code 2", "code 3"}


def test_the_same_rows_are_read_once_for_nothing_and_then_timed(inputs):
    latency.score(inputs, latency.items(inputs))
    assert len(inputs.read) == 1 + latency.REPEATS == 13
    assert all(rows == inputs.validation("code")[:4] for rows in inputs.read)


def test_median_and_quartiles_of_the_timed_readings(inputs):
    """1, 2, ..., 12 s for 50 tokens: median 6.5 s; the quartiles (n + 1 rule) 3.25 s and 9.75 s."""
    found = latency.score(inputs, latency.items(inputs))
    assert found.score.metrics == {
        "ms_per_token": pytest.approx(130), "ms_per_token_q1": pytest.approx(65), "ms_per_token_q3": pytest.approx(195),
    }  # fmt: skip
    assert found.items["seconds"].tolist() == list(range(1, 13))
    assert found.items["ms_per_token"].tolist() == pytest.approx([20.0 * second for second in range(1, 13)])
    assert (found.score.n_items, found.score.tokens, found.score.seconds) == (12, 600, 78)
