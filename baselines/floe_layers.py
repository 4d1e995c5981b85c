"""FLoE without its rank search: layers by any form of the Fisher, on any sample, at the settings' rank."""

from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from floe_bench import AdapterPlan, MethodInputs
from floe_bench.baselines._sample import SampleOptions
from floe_bench.baselines._stages import layer_gradients, moe_lora, select_layers
from floe_bench.harness.floe.fisher import block_fisher, fisher_diagonal, fisher_matrix


class Options(SampleOptions):
    fisher: Literal["diagonal", "block", "full", "parameter", "true"] = "diagonal"
    b: int = Field(2, ge=1)

    @model_validator(mode="after")
    def _block_size_of_blocks(self) -> "Options":
        if "b" in self.model_fields_set and self.fisher != "block":
            raise ValueError("b is the block size of fisher=block: leave it, or set that")
        return self


def plan(inputs: MethodInputs, options: Options) -> AdapterPlan:
    layers, facts = select_layers(inputs, options.sample, layer_fisher(inputs, options))
    return AdapterPlan("adapter", moe_lora(inputs, layers), **facts)


def layer_fisher(inputs: MethodInputs, options: Options) -> np.ndarray:
    """Return the Fisher that selects: a diagonal (L,) or a matrix (L, L)."""
    from floe_bench.harness.floe import fisher_ablations

    pilot = moe_lora(inputs)
    if options.fisher == "parameter":
        scorer = fisher_ablations.parameter_diagonal
        return inputs.measure(scorer, on="task", pilot=pilot, sample=options.sample)["D"]
    if options.fisher == "true":
        scorer = fisher_ablations.true_fisher_gradients
        G = inputs.measure(scorer, on="task", pilot=pilot, sample=options.sample, seed=inputs.seed)["G"]
        return fisher_diagonal(G)
    G = layer_gradients(inputs, options.sample)
    if options.fisher == "diagonal":
        return fisher_diagonal(G)
    full = fisher_matrix(G)
    return full if options.fisher == "full" else block_fisher(full, options.b)
