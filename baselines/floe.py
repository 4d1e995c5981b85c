"""FLoE: pilot, Fisher layers under a Taylor budget, TPE rank search, MoE-LoRA on those layers (arXiv 2506.00495)."""

from pydantic import field_validator

import floe_bench
from floe_bench import AdapterPlan, MethodInputs
from floe_bench.baselines._stages import moe_lora, select_layers, with_searched_rank
from floe_bench.harness.floe.rank_search import check_shares, halving_search


class Options(floe_bench.Options):
    """shares: shares of the probe's training rows at which a rank is judged in turn. The paper judges on all rows."""

    shares: tuple[float, ...] = (1.0,)

    @field_validator("shares")
    @classmethod
    def _ascend(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        return check_shares(shares)


def plan(inputs: MethodInputs, options: Options) -> AdapterPlan:
    layers, facts = select_layers(inputs)
    settings = inputs.settings.search
    found = halving_search(
        lambda r, share: inputs.probe(moe_lora(inputs, layers, r), share),
        settings.r_min,
        settings.r_max,
        settings.trials,
        seed=inputs.seed,
        shares=options.shares,
    )
    return with_searched_rank(inputs, layers, found, facts)
