"""Names of methods with a few characters changed are refused, or stand for one method in one way."""

import json

from hypothesis import given
from hypothesis import strategies as st

from floe_bench.harness import registry
from floe_bench.harness.files import parse_json

from .material import answer, changed_text, changes

NAMES = [
    "lora:r=8:target_modules=q_proj+v_proj",
    "floe:shares=0.25+1",
    "floe_layers:drift_to=code:drift=0.5",
    "topk_layers:score=fisher",
    "random_layers:draw=3",
    "lora:match=floe",
    "layer_scores:part=1:parts=2",
    "grid_rank",
    "full",
]


@given(st.sampled_from(NAMES), changes)
def test_a_changed_name_is_refused_or_has_one_canonical_form(name, by):
    text = changed_text(name, by)
    method = answer(lambda: registry.parse_method(text))
    if method is not None:
        again = registry.parse_method(method.name)
        assert again == method and again.name == method.name
        options = method.options.model_dump(mode="json")
        assert parse_json(json.dumps(options, allow_nan=False)) == options
