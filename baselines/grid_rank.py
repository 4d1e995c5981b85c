"""FLoE's layers, with the rank found by exhaustive search over r_min, r_min + step, ..."""

from pydantic import Field

import floe_bench
from floe_bench import AdapterPlan, MethodInputs
from floe_bench.baselines._stages import moe_lora, select_layers, with_searched_rank
from floe_bench.harness.floe.rank_search import exhaustive


class Options(floe_bench.Options):
    step: int = Field(2, ge=1)


def plan(inputs: MethodInputs, options: Options) -> AdapterPlan:
    layers, facts = select_layers(inputs)
    search = inputs.settings.search
    ranks = range(search.r_min, search.r_max + 1, options.step)
    found = exhaustive(lambda r: inputs.probe(moe_lora(inputs, layers, r)), ranks)
    return with_searched_rank(inputs, layers, found, facts)
