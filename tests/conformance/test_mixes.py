"""What every mix must do, whoever wrote it."""

import pytest

from floe_bench.harness import registry
from floe_bench.harness.contracts.rows import Row
from floe_bench.harness.data.sources import open_source
from floe_bench.harness.spec.settings import DataSettings


@pytest.fixture(params=sorted(registry.plugins("mix")))
def mix(request: pytest.FixtureRequest) -> str:
    return request.param


def test_describes_itself_in_one_line(mix):
    assert 10 <= len(registry.find("mix", mix).description) <= 120


def test_reads_rows_from_the_embedded_source(mix):
    rows = list(open_source(DataSettings(source="embedded")).mix(mix))  # pyright: ignore[reportCallIssue]
    assert rows and all(isinstance(row, Row) for row in rows)
    assert all(row.completion == row.completion.strip() and row.domain for row in rows)


def test_states_its_published_size_for_planning(mix):
    rows, tokens = registry.find("mix", mix).load().PUBLISHED_SIZE
    assert rows > 0 and 1 <= tokens <= 4096
