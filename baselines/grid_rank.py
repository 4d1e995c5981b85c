"""FLoE's layers, with the rank found by exhaustive search over 2, 4, 6, ..."""

from baselines._stages import moe_lora, select_layers, with_searched_rank
from harness.contracts import AdapterPlan, MethodInputs, Options
from harness.floe.rank_search import exhaustive

STEP = 2


def plan(inputs: MethodInputs, options: Options) -> AdapterPlan:
    chosen, details = select_layers(inputs)
    search = inputs.settings.search
    ranks = range(search.r_min, search.r_max + 1, STEP)
    found = exhaustive(lambda r: inputs.probe(moe_lora(inputs, chosen.layers, r)), ranks)
    return with_searched_rank(inputs, chosen.layers, found, details)
