"""MoE-LoRA on K layers drawn at random; several draws give the null distribution."""

import numpy as np
from pydantic import Field

from floe_bench import AdapterPlan, MethodInputs
from floe_bench.baselines._match import MatchOptions, matched_rank
from floe_bench.baselines._stages import max_layers, moe_lora


class Options(MatchOptions):
    draw: int = Field(0, ge=0)


def plan(inputs: MethodInputs, options: Options) -> AdapterPlan:
    generator = np.random.default_rng([options.draw, inputs.seed])
    layers = generator.choice(inputs.n_layers, size=max_layers(inputs), replace=False).tolist()
    r, matched = matched_rank(inputs, options.match, lambda r: moe_lora(inputs, layers, r))
    return AdapterPlan("adapter", moe_lora(inputs, layers, r), k=len(layers), matched=matched)
