"""What every evaluation must do, whoever wrote it."""

import json
import math

import pytest

from floe_bench.harness import registry
from floe_bench.harness.contracts.plan import AdapterPlan
from floe_bench.harness.contracts.score import Score
from floe_bench.harness.errors import UsageError
from floe_bench.harness.run.evaluation_inputs import Evaluating
from floe_bench.harness.run.stages import run_evaluations
from floe_bench.harness.store.folder import read_items

from .conftest import tiny_session


@pytest.fixture(params=sorted(registry.plugins("evaluation")))
def plugin(request: pytest.FixtureRequest) -> registry.Plugin:
    return registry.find("evaluation", request.param)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory):
    return tiny_session(tmp_path_factory.mktemp("results"))


def items_of(plugin: registry.Plugin, session) -> list[dict]:
    try:
        return plugin.load().items(Evaluating(session, None))
    except UsageError as error:  # an evaluation may refuse a source; of any other error the test fails
        pytest.skip(f"not to be had from embedded rows: {error}")


def test_describes_itself_in_one_line(plugin):
    assert 10 <= len(plugin.description) <= 140


def test_items_are_data_and_the_same_twice(plugin, session):
    items = items_of(plugin, session)
    assert items and json.dumps(items) == json.dumps(items_of(plugin, session))


@pytest.mark.slow
def test_scores_the_base_model_and_keeps_every_item(plugin, session):
    items_of(plugin, session)  # skips where there are none
    stage = run_evaluations(session, [plugin], AdapterPlan("nothing"), None)[plugin.id]
    score = Score.model_validate(stage.result)
    assert all(math.isfinite(value) for value in score.metrics.values())
    kept = read_items(session.store.stage_folder("evaluation", stage.identity) / "items.parquet")
    assert len(kept) == score.n_items
    assert score.seconds > 0
    if score.metrics:  # a router's evaluation has nothing to say of a model without one
        assert score.tokens > 0 and score.n_items > 0
